"""Rival methods and ablations under one roof: the paper's tables for the user's own model."""
