"""Measurements side by side with other implementations; each prints one JSON object."""
