"""Evaluation: answers in, numbers and a report out. Metric files import neither jax nor tokenizers.

metrics holds the measures, whose `rows` turns judged answers into result rows; judges says who
judges; nt_jax/report shows the rows. docs/evaluation.md defines every number.
"""
