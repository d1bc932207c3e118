"""The untuned and the tuned model side by side, in conversation."""
