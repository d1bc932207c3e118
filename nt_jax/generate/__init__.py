"""Prompts in, answers and likelihoods out: continuous batching over one model."""
