"""What leaves the run: one file for each format."""
