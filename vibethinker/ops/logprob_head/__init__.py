"""Log-probs, entropies and gradients of a chunk of logits."""
