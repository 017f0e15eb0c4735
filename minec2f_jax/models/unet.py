"""U-Net decoder and head (Ronneberger et al. 2015, arXiv:1505.04597) over any encoder with features from /2 to /32.

The flavour is that of segmentation_models for Keras: every stage doubles the map by nearest neighbour, concatenates the
encoder's features of that size (the last stage finds none), and has two zero-padded 3x3 convolutions with BN and ReLU;
no dropout. Ronneberger et al. have transposed 2x2 convolutions, no padding and no BN.

Parameter names, and what segmentation_models calls the same layer (n counts from 1, theirs from 0):

  stage{n}_conv1, stage{n}_norm1  decoder_stage{n-1}a_conv, decoder_stage{n-1}a_bn
  stage{n}_conv2, stage{n}_norm2  decoder_stage{n-1}b_conv, decoder_stage{n-1}b_bn
  (UNetHead) kernel, bias         final_conv
"""

import functools
from typing import Any

import chex
import jax.numpy as jnp
from flax import linen as nn

from minec2f_jax.models import convolution, fpn

SKIPS = ("c4", "c3", "c2", "c1")  # of the first four stages


class UNet(nn.Module):
  """One map at the image's resolution from an encoder's five feature maps.

  Attributes:
    features: channels of the five stages, from /16 to the image's own resolution.
    bn_momentum: what the running statistics keep per step.
    bn_epsilon: added to the variance.
    dtype: of the computation; parameters and statistics stay float32.
  """

  features: tuple[int, ...] = (256, 128, 64, 32, 16)
  bn_momentum: float = 0.99
  bn_epsilon: float = 1e-3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features, *, train):
    """The decoder's map.

    Args:
      features: {"c1": [B, H/2, W/2, .], "c2": /4, "c3": /8, "c4": /16, "c5": /32} float.
      train: whether BN uses the batch's statistics.

    Returns:
      [B, H, W, features[-1]], a ReLU output.

    Raises:
      ValueError: if a level is missing or not twice the size of the next, or there are not five stages.
    """
    fpn.check_pyramid(features, "U-Net")
    if len(self.features) != len(SKIPS) + 1:
      raise ValueError(f"features is {self.features!r}; give the channels of {len(SKIPS) + 1} stages.")
    x = features["c5"]
    for stage, (width, level) in enumerate(zip(self.features, (*SKIPS, None)), start=1):
      x = self._doubled_conv(x, features.get(level), width, f"stage{stage}_conv1")
      x = self._norm_relu(x, train, f"stage{stage}_norm1")
      x = nn.Conv(
        width,
        (3, 3),
        padding=((1, 1), (1, 1)),
        use_bias=False,
        kernel_init=nn.initializers.he_uniform(),
        dtype=self.dtype,
        conv_general_dilated=convolution.conv_general_dilated,
        name=f"stage{stage}_conv2",
      )(x)
      x = self._norm_relu(x, train, f"stage{stage}_norm2")
    return x

  def _doubled_conv(self, x, skip, width, name):
    """The 3x3 convolution of `x`, doubled by nearest neighbour, and `skip` behind it, if there is one.

    Their concatenation is never made: the convolution is linear, and takes `x` at its own resolution, with 16 / 36 of
    the multiplications (see `fpn.conv_of_upsampled`).
    """
    channels = x.shape[-1]
    total = channels + (0 if skip is None else skip.shape[-1])
    kernel, _ = fpn.Weights((3, 3, total, width), name=name)()
    y = fpn.conv_of_upsampled(x.astype(self.dtype), kernel[:, :, :channels], factor=2)
    if skip is None:
      return y
    return y + fpn.conv_of_upsampled(skip.astype(self.dtype), kernel[:, :, channels:], factor=1)

  def _norm_relu(self, x, train, name):
    norm = functools.partial(nn.BatchNorm, momentum=self.bn_momentum, epsilon=self.bn_epsilon, dtype=self.dtype)
    return nn.relu(norm(use_running_average=not train, name=name)(x))


class UNetHead(nn.Module):
  """Logits by a 3x3 convolution with bias at the resolution of the map.

  Its nine taps are applied as one matrix product, which can sum bfloat16 in float32, and then shifted and added.

  Attributes:
    classes: channels of the logits; 1 for mining against background.
    dtype: of the products; they are summed in float32.
  """

  classes: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """[B, H, W, C] float -> [B, H, W, classes] float32."""
    chex.assert_rank(x, 4)
    height, width = x.shape[1:3]
    kernel = self.param("kernel", nn.initializers.glorot_uniform(), (3, 3, x.shape[-1], self.classes), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (self.classes,), jnp.float32)
    factors = x.astype(self.dtype), kernel.astype(self.dtype)
    taps = jnp.einsum("bhwc,ijck->bhwijk", *factors, preferred_element_type=jnp.float32)
    taps = jnp.pad(taps, ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0), (0, 0)))
    return bias + sum(taps[:, i : i + height, j : j + width, i, j] for i in range(3) for j in range(3))
