"""Sampling a model on problems, grading the completions, and keeping and summarising them."""
