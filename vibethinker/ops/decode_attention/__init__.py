"""Attention of one new token of each sequence to the KV cache."""

from vibethinker.ops.decode_attention.torch import Split as Split
