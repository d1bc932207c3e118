"""Evaluation: answers in, numbers and a report out. Metric files import neither jax nor tokenizers.

entropy, suf1, refusal and intervals hold the measures; rows turns judged answers into result rows;
screen, figures and report show them. docs/evaluation.md defines every number.
"""
