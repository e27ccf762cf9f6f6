"""The common parts of supervised and reinforcement training."""
