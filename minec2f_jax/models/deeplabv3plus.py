"""DeepLabV3+ decoder (Chen et al. 2018, arXiv:1802.02611, Sec. 3) over any encoder with "c2" and "c5".

The paper that is reproduced here names DeepLabV3+ and nothing more; these are our choices:

- atrous spatial pyramid pooling (Chen et al. 2017, arXiv:1706.05587, Sec. 3.3) on "c5", best at /16 (an encoder of
  `output_stride=16`): at /32 a 256-pixel image is 8x8 there, and rates of 12 and 18 see only padding beside the centre;
- plain convolutions; the authors also have depthwise separable ones, which would halve the number of parameters;
- maps are enlarged bilinearly with pixel centres at half-integers, clamped at the border: torch's align_corners=False,
  Keras' UpSampling2D. The authors' code aligns corners;
- low-level features are the encoder's "c2", which in a DenseNet is linear (its `tap` "conv").

Image pooling sees the whole map, padding included, so that logits of a pixel depend on all of the image that they are
computed in. In training its BN has one value an image to take statistics from.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from minec2f_jax.models import convolution, fpn


class ASPP(nn.Module):
  """Atrous spatial pyramid pooling: what pixels see at several rates and on the whole map, in one map.

  A 1x1 convolution, a 3x3 convolution for each rate, and the mean over the map with a 1x1 convolution, each with BN and
  ReLU; concatenated, and projected by a 1x1 convolution with BN and ReLU.

  Attributes:
    features: channels of each branch, and of the result.
    rates: dilations of the 3x3 convolutions, for a map at /16.
    bn_momentum: what the running statistics keep per step.
    bn_epsilon: added to the variance.
    dtype: of the computation; parameters and statistics stay float32.
  """

  features: int = 256
  rates: tuple[int, ...] = (6, 12, 18)
  bn_momentum: float = 0.99
  bn_epsilon: float = 1e-3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train):
    """[B, H, W, C] float -> [B, H, W, features], a ReLU output; `train`: whether BN uses the batch's statistics."""
    chex.assert_rank(x, 4)
    dense, norm_relu = _layers(self, train)
    x = x.astype(self.dtype)
    branches = [norm_relu(dense(self.features, name="point_conv")(x), name="point_norm")]
    for n, rate in enumerate(self.rates, start=1):
      kernel, _ = fpn.Weights((3, 3, x.shape[-1], self.features), name=f"dilated{n}_conv")()
      branches.append(norm_relu(dilated_conv(x, kernel.astype(self.dtype), rate=rate), name=f"dilated{n}_norm"))
    mean = jnp.mean(x, axis=(1, 2), keepdims=True)
    pooled = norm_relu(dense(self.features, name="pool_conv")(mean), name="pool_norm")
    branches.append(jnp.broadcast_to(pooled, branches[0].shape))
    return norm_relu(dense(self.features, name="project_conv")(jnp.concatenate(branches, -1)), name="project_norm")


class DeepLabV3Plus(nn.Module):
  """One map at a quarter of the image's resolution from an encoder's last features and those at /4.

  Attributes:
    aspp_features: channels of each branch of the ASPP, and of its result.
    rates: dilations of the ASPP, see there.
    low_level_features: channels that "c2" is reduced to.
    features: channels of the two 3x3 convolutions on both.
    dropout: rate of the dropout behind the ASPP (0.1 in the authors' code); needs a "dropout" key in training.
    bn_momentum: what the running statistics keep per step.
    bn_epsilon: added to the variance.
    dtype: of the computation; parameters and statistics stay float32.
  """

  aspp_features: int = 256
  rates: tuple[int, ...] = (6, 12, 18)
  low_level_features: int = 48
  features: int = 256
  dropout: float = 0.0
  bn_momentum: float = 0.99
  bn_epsilon: float = 1e-3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features, *, train):
    """The decoder's map.

    Args:
      features: {"c2": [B, H/4, W/4, .], "c5": [B, H/16, W/16, .] or /32} float; others are not looked at.
      train: whether BN uses the batch's statistics and dropout is active.

    Returns:
      [B, H/4, W/4, features], a ReLU output.

    Raises:
      ValueError: if one of the two is missing, or "c2" is not 4 or 8 times the size of "c5".
    """
    _check_features(features)
    dense, norm_relu = _layers(self, train)
    norms = dict(bn_momentum=self.bn_momentum, bn_epsilon=self.bn_epsilon, dtype=self.dtype)
    x = ASPP(self.aspp_features, self.rates, **norms, name="aspp")(features["c5"], train=train)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = jax.image.resize(x, (*features["c2"].shape[:3], x.shape[-1]), "bilinear")
    low = norm_relu(dense(self.low_level_features, name="low_level_conv")(features["c2"]), name="low_level_norm")
    x = jnp.concatenate([x, low], axis=-1)
    for n in (1, 2):
      x = nn.Conv(
        self.features,
        (3, 3),
        padding=((1, 1), (1, 1)),
        use_bias=False,
        kernel_init=nn.initializers.he_uniform(),
        dtype=self.dtype,
        conv_general_dilated=convolution.conv_general_dilated,
        name=f"conv{n}",
      )(x)
      x = norm_relu(x, name=f"norm{n}")
    return x


def dilated_conv(x, kernel, *, rate: int):
  """The 3x3 convolution of dilation `rate`, zero-padded to the size of `x`, as a sum of nine matrix products.

  Each reads the part of `x` that lies within the map once shifted by `rate`: on maps not much larger than the rates
  most taps see little but padding, and XLA would multiply that too. On a CPU, 16x16 maps and rates 6, 12 and 18 take a
  sixth of the time of XLA's dilated convolution, with gradients less than half of it; 32x32 maps about as long. Maps of
  symbolic size (`jax.export`) get XLA's.

  Args:
    x: [B, H, W, C] float.
    kernel: [3, 3, C, F] of the same dtype.
    rate: pixels between two taps.

  Returns:
    [B, H, W, F].
  """
  height, width, channels = x.shape[1:]
  if not (isinstance(height, int) and isinstance(width, int)):
    padding, dilation = ((rate, rate), (rate, rate)), (rate, rate)
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, rhs_dilation=dilation, dimension_numbers=layout)
  total = 0.0
  # Split, for the gradient of that is one concatenation; that of an index is a kernel of zeros for every tap.
  for n, tap in enumerate(jnp.split(kernel.reshape(9 * channels, -1), 9)):
    down, right = (n // 3 - 1) * rate, (n % 3 - 1) * rate
    if abs(down) < height and abs(right) < width:
      part = x[:, max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
      borders = ((max(0, -down), max(0, down)), (max(0, -right), max(0, right)))
      total += jnp.pad(part @ tap, ((0, 0), *borders, (0, 0)))
  return total


def _layers(module, train):
  """(1x1 convolutions without bias, held as [C_in, C_out] matrices; BN and ReLU) for submodules of the caller."""
  dense = functools.partial(nn.Dense, use_bias=False, kernel_init=nn.initializers.he_uniform(), dtype=module.dtype)

  def norm_relu(x, name):
    norm = nn.BatchNorm(
      use_running_average=not train,
      momentum=module.bn_momentum,
      epsilon=module.bn_epsilon,
      dtype=module.dtype,
      name=name,
    )
    return nn.relu(norm(x))

  return dense, norm_relu


def _check_features(features):
  missing = sorted({"c2", "c5"} - set(features))
  if missing:
    raise ValueError(f"DeepLabV3+ needs the features c2 and c5; missing: {missing}.")
  fine, coarse = features["c2"].shape, features["c5"].shape
  if not any(fine[1:3] == (factor * coarse[1], factor * coarse[2]) for factor in (4, 8)):
    raise ValueError(
      f"c2 {fine} is not 4 or 8 times the height and width of c5 {coarse}: pad the image to a multiple of 32 pixels."
    )
