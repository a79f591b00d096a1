"""Response-only supervised fine-tuning on top of transformers' Trainer."""
