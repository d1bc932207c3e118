"""The dial: a grid of settings tuned on one attribution, compared on validation answers."""
