"""The steps between the matrix products of a decoder layer in training, with their gradients."""
