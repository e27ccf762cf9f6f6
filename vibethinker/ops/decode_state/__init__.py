"""The state of every sequence being decoded, and how a sampled token changes it."""
