"""Losses, Algorithm 1, and the run that ties load, attribute, select, tune, export and measure."""
