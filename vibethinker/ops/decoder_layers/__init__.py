"""The steps between the matrix products of a decoder layer in inference."""

from vibethinker.ops.decoder_layers.torch import Rotation as Rotation
