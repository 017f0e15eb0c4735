"""The head of decoders whose map is a quarter of the image: DeepLabV3+ and GS-AUFPN."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

_STRIDE = 4  # of the decoder's map


class PointwiseHead(nn.Module):
  """Logits at the image's resolution: a 1x1 convolution with bias, then bilinear x4.

  The other order, as Chen et al. (2018) draw it, gives the same: both are linear, and bilinear weights add up to 1.

  Attributes:
    classes: channels of the logits; 1 for mining against background.
    dtype: of the product's factors; all else is float32.
  """

  classes: int = 1
  dtype: Any = jnp.float32

  kernel_init = staticmethod(nn.initializers.glorot_uniform())  # Networks that start otherwise say so: no field of it.

  @nn.compact
  def __call__(self, x):
    """[B, H/4, W/4, C] float -> [B, H, W, classes] float32."""
    batch, height, width, channels = x.shape
    kernel = self.param("kernel", self.kernel_init, (channels, self.classes), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (self.classes,), jnp.float32)
    factors = x.astype(self.dtype), kernel.astype(self.dtype)
    x = jnp.einsum("bhwc,ck->bhwk", *factors, preferred_element_type=jnp.float32) + bias
    return jax.image.resize(x, (batch, _STRIDE * height, _STRIDE * width, self.classes), "bilinear")
