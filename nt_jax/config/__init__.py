"""The settings of a run: schema, recipes, test sets, help. Nothing here imports jax."""
