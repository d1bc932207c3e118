"""Harmful requests, harmless requests and attack templates: records, sources and the demo set."""
