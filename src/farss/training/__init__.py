"""Response-only supervised fine-tuning on top of transformers' Trainer, and the memory allocator it runs best with."""
