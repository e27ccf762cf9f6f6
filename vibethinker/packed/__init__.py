"""Packed sequences: what they are, how a batch is partitioned into them, and attention over them."""
