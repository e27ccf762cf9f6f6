"""Attention to two sets of keys merged into attention to both: see `vibethinker.packed.shared_prompts`."""
