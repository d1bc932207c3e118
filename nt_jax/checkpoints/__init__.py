"""Checkpoint files: found, checked as a whole, read into the model; config, tensors, tokenizer."""

import os

# transformers announces on import that it found no torch, which we do without on purpose.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
