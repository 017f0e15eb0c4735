"""The projector of SPPA and what it is trained with: an autoencoder of an encoder's deepest features."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

_SLOPE = 0.1  # of the leaky ReLUs


class Projector(nn.Module):
  """Features in fewer channels, each with a view of what surrounds it.

  SPPA (Lin et al. 2022, ECCV): a 1x1 convolution and two 3x3 ones of dilation 2, each with a leaky ReLU; 2048 channels
  become 512 there.

  Attributes:
    features: channels of the result.
    dtype: of the computation; parameters stay float32.
  """

  features: int = 256
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """[B, H, W, C] float -> [B, H, W, features]."""
    for n, (size, dilation) in enumerate(((1, 1), (3, 2), (3, 2)), start=1):
      x = _conv(self, self.features, size, dilation, f"conv{n}")(x)
      x = nn.leaky_relu(x, _SLOPE)
    return x


class Reconstruction(nn.Module):
  """The features that a `Projector` has seen, from what it makes of them: two 3x3 convolutions.

  Attributes:
    features: channels in between; twice the projector's in the original.
    channels: of the result.
    dtype: of the computation; parameters stay float32.
  """

  features: int
  channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """[B, H, W, .] float -> [B, H, W, channels]."""
    x = nn.leaky_relu(_conv(self, self.features, 3, 1, "conv1")(x), _SLOPE)
    return _conv(self, self.channels, 3, 1, "conv2")(x)


def _conv(module, features, size, dilation, name):
  return nn.Conv(
    features,
    (size, size),
    kernel_dilation=(dilation, dilation),
    kernel_init=nn.initializers.he_uniform(),
    dtype=module.dtype,
    name=name,
  )
