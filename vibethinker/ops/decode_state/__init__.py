"""The state of every sequence being sampled."""
