"""What lies between the matrix products of a decoder layer in training."""
