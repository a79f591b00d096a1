"""AdaLoRA: its method, its settings, and what it adds to training."""
