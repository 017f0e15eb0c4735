"""FPN decoder and segmentation head.

Lin et al. 2017, arXiv:1612.03144; for segmentation Kirillov et al. 2019, arXiv:1901.02446.

The flavour is that of segmentation_models for Keras: it adds the "c1" level, has no 3x3 smoothing
on the pyramid, upsamples the pyramid and the merged maps by nearest neighbour and only the last map
bilinearly.

Parameter names, and what segmentation_models calls the same layer. Its stage p5 is our "c4" (/16):

  top                                    fpn_stage_p5_pre_conv
  lateral_c{n}                           fpn_stage_p{n+1}_conv
  segment_c{n}_conv1, segment_c{n}_norm1 segm_stage{n+1}a_conv, segm_stage{n+1}a_bn
  segment_c{n}_conv2, segment_c{n}_norm2 segm_stage{n+1}b_conv, segm_stage{n+1}b_bn
  final_conv, final_norm                 final_stage_conv, final_stage_bn
  (Head) kernel, bias                    head_conv

`top` and `lateral_c{n}` are 1x1 convolutions held as [C_in, C_out] matrices, as in `densenet`.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

LEVELS = ("c1", "c2", "c3", "c4")  # with a lateral connection; "c5" is the top


class FPN(nn.Module):
  """One map at half the image's resolution from an encoder's five feature maps.

  Attributes:
    pyramid_features: channels of the pyramid.
    segmentation_features: channels of each level's maps, and of the result.
    merge: "concat" or "sum" of the levels' maps.
    dropout: rate of the spatial dropout (whole channels) on the merged map; needs a "dropout" key
      in training.
    bn_momentum: what the running statistics keep per step.
    bn_epsilon: added to the variance.
    dtype: of the computation; parameters and statistics stay float32.
  """

  pyramid_features: int = 256
  segmentation_features: int = 128
  merge: str = "concat"
  dropout: float = 0.0
  bn_momentum: float = 0.99
  bn_epsilon: float = 1e-3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features, *, train):
    """The decoder's map.

    Args:
      features: {"c1": [B, H/2, W/2, .], "c2": /4, "c3": /8, "c4": /16, "c5": /32} float.
      train: whether BN uses the batch's statistics and dropout is active.

    Returns:
      [B, H/2, W/2, segmentation_features], a ReLU output.

    Raises:
      ValueError: if a level is missing or not twice the size of the next, or `merge` is not known.
    """
    _check_pyramid(features)
    if self.merge not in ("concat", "sum"):
      raise ValueError(f'merge is {self.merge!r}; it must be "concat" or "sum".')
    norm_relu = functools.partial(self._norm_relu, train=train)
    dense = functools.partial(
      nn.Dense, self.pyramid_features, kernel_init=nn.initializers.he_uniform(), dtype=self.dtype
    )
    conv = functools.partial(
      nn.Conv,
      self.segmentation_features,
      (3, 3),
      use_bias=False,
      kernel_init=nn.initializers.he_uniform(),
      dtype=self.dtype,
    )

    x = dense(name="top")(features["c5"])
    maps = []  # from /2 to /16
    for level in reversed(LEVELS):
      x = upsample_nearest(x, 2) + dense(name=f"lateral_{level}")(features[level])
      y = norm_relu(conv(name=f"segment_{level}_conv1")(x), name=f"segment_{level}_norm1")
      y = norm_relu(conv(name=f"segment_{level}_conv2")(y), name=f"segment_{level}_norm2")
      maps.insert(0, y)

    if self.merge == "sum":
      maps = [sum(upsample_nearest(y, 2**n) for n, y in enumerate(maps))]
    # Whole channels are dropped, so that it makes no difference that these are not upsampled yet.
    drop = functools.partial(nn.Dropout, self.dropout, broadcast_dims=(1, 2), deterministic=not train)
    maps = [drop(name=f"dropout{n}")(y) for n, y in enumerate(maps)]
    x = UpsampledConv(self.segmentation_features, dtype=self.dtype, name="final_conv")(maps)
    return norm_relu(x, name="final_norm")

  def _norm_relu(self, x, *, train, name):
    return nn.relu(
      nn.BatchNorm(
        use_running_average=not train, momentum=self.bn_momentum, epsilon=self.bn_epsilon, dtype=self.dtype, name=name
      )(x)
    )


class Head(nn.Module):
  """Logits at the image's resolution: bilinear x2, then a 3x3 convolution with bias.

  Both are linear, so each of the nine taps is applied first, at the lower resolution, where it
  leaves one channel per class to upsample instead of 128; then the taps are shifted and added. The
  result is the same up to rounding; forward and backward were 20 times as fast on a CPU, and the
  128-channel map at full resolution (34 MB an image at 256x256) is never made.

  Attributes:
    classes: channels of the logits; 1 for mining against background.
    dtype: of the taps' products; they are summed in float32.
  """

  classes: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """The logits.

    Args:
      x: [B, H/2, W/2, C] float.

    Returns:
      [B, H, W, classes] float32.
    """
    chex.assert_rank(x, 4)
    batch, height, width, channels = x.shape
    kernel = self.param("kernel", nn.initializers.glorot_uniform(), (3, 3, channels, self.classes), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (self.classes,), jnp.float32)
    taps = jnp.einsum(
      "bhwc,ijck->bhwijk", x.astype(self.dtype), kernel.astype(self.dtype), preferred_element_type=jnp.float32
    )
    taps = jax.image.resize(taps, (batch, 2 * height, 2 * width, 3, 3, self.classes), "bilinear")
    taps = jnp.pad(taps, ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0), (0, 0)))
    return bias + sum(taps[:, i : i + 2 * height, j : j + 2 * width, i, j] for i in range(3) for j in range(3))


class UpsampledConv(nn.Module):
  """A 3x3 convolution without bias of maps that are upsampled by 1, 2, 4, ... and concatenated.

  The concatenated map (512 channels at half resolution in the FPN) is never made: a convolution is
  linear in its input channels, and that of a strongly upsampled map is cheaper at the map's own
  resolution (see `conv_of_upsampled`). `kernel` has the shape of the plain convolution, [3, 3, all
  input channels, features].
  """

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, maps):
    """The sum of the maps' convolutions.

    Args:
      maps: sequence of [B, H / 2**n, W / 2**n, C_n] float, n = 0, 1, ...

    Returns:
      [B, H, W, features].
    """
    channels = [x.shape[-1] for x in maps]
    kernel = self.param("kernel", nn.initializers.he_uniform(), (3, 3, sum(channels), self.features), jnp.float32)
    kernels = jnp.split(kernel, np.cumsum(channels)[:-1].tolist(), axis=2)
    return sum(
      conv_of_upsampled(x.astype(self.dtype), part, factor=2**n) for n, (x, part) in enumerate(zip(maps, kernels))
    )


def upsample_nearest(x, factor: int):
  """[B, H, W, C] with every pixel repeated into a block: [B, factor * H, factor * W, C]."""
  batch, height, width, channels = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, factor, width, factor, channels))
  return x.reshape(batch, height * factor, width * factor, channels)


def conv_of_upsampled(x, kernel, *, factor: int):
  """The zero-padded 3x3 convolution of `upsample_nearest(x, factor)`.

  Within a block the pixels see only three kinds of neighbourhood along an axis: the first one
  reaches into the block before, the last one into the block after, and all others see their own
  block alone. So from factor 4 on, nine summed kernels are applied at the resolution of `x` and
  their results spread out: 81 / 144 of the multiplications at factor 4, 81 / 576 at factor 8. At
  factor 2 nothing would be saved.

  Args:
    x: [B, H, W, C] float.
    kernel: [3, 3, C, F] float32; computed with in the dtype of `x`.
    factor: of the upsampling, at least 1.

  Returns:
    [B, factor * H, factor * W, F], the dtype of `x`.
  """
  if factor < 4:
    return _conv3x3(upsample_nearest(x, factor), kernel)
  batch, height, width, channels = x.shape
  kinds, taps = np.array([0, 1, factor - 1]), np.array([-1, 0, 1])
  block = (kinds[:, None] + taps) // factor  # [kind, tap], the block that the tap reads
  reads = (block[:, None, :] == taps[:, None]).astype(np.float32)  # [kind, block, tap]
  kernels = jnp.einsum("pad,qbe,decf->abcpqf", reads, reads, kernel, precision="highest")
  y = _conv3x3(x, kernels.reshape(3, 3, channels, -1))
  y = y.reshape(batch, height, width, 3, 3, kernel.shape[-1])
  kind_of = np.array([0] + [1] * (factor - 2) + [2])
  y = y[:, :, :, kind_of][:, :, :, :, kind_of].transpose(0, 1, 3, 2, 4, 5)
  return y.reshape(batch, factor * height, factor * width, kernel.shape[-1])


def _conv3x3(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel.astype(x.dtype), (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def _check_pyramid(features):
  missing = sorted({*LEVELS, "c5"} - set(features))
  if missing:
    raise ValueError(f"the FPN needs the features c1 to c5; missing: {missing}.")
  for fine, coarse in zip(LEVELS, (*LEVELS[1:], "c5")):
    fine_shape, coarse_shape = features[fine].shape, features[coarse].shape
    if any(size != 2 * half for size, half in zip(fine_shape[1:3], coarse_shape[1:3])):
      raise ValueError(
        f"{fine} {fine_shape} is not twice the height and width of {coarse} {coarse_shape}: pad "
        "the image to a multiple of 32 pixels."
      )
