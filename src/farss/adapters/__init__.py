"""From a plan to a PEFT adapter, and from a trained adapter to files that other tools load."""
