"""Other methods and ablations on a run's data: the paper's tables for the user's own model."""
