"""Statistics and gradients of a chunk of logits."""
