"""DoRA: its method and its adapter form."""
