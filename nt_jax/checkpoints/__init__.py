"""Checkpoint files: found, checked as a whole, read into the model; config, tensors, tokenizer."""
