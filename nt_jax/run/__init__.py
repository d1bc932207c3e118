"""A run from checkpoint to report: its stages, and the commands that look at one."""
