"""What a machine can do with a model, before anything is run."""
