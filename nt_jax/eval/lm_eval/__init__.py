"""Tasks of lm-evaluation-harness on our engine (extra `lm-eval`)."""
