"""Which neurons carry safe and useful answers: attack-aware attribution and selection."""
