"""Who decides whether an answer refuses."""
