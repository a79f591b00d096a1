"""Measuring what a model knows and can do, before and after fine-tuning."""
