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
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from minec2f_jax.models import convolution

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
    check_pyramid(features, "FPN")
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
      padding=((1, 1), (1, 1)),
      use_bias=False,
      kernel_init=nn.initializers.he_uniform(),
      dtype=self.dtype,
      conv_general_dilated=convolution.conv_general_dilated,
    )

    x = dense(name="top")(features["c5"])
    maps = []  # from /2 to /16
    for level in reversed(LEVELS):
      if level == LEVELS[0]:
        y = self._finest(x, features[level], level)
      else:
        x = upsample_nearest(x, 2) + dense(name=f"lateral_{level}")(features[level])
        y = conv(name=f"segment_{level}_conv1")(x)
      y = norm_relu(y, name=f"segment_{level}_norm1")
      y = norm_relu(conv(name=f"segment_{level}_conv2")(y), name=f"segment_{level}_norm2")
      maps.insert(0, y)

    if self.merge == "sum":
      maps = [sum(upsample_nearest(y, 2**n) for n, y in enumerate(maps))]
    # Whole channels are dropped, so that it makes no difference that these are not upsampled yet.
    drop = functools.partial(nn.Dropout, self.dropout, broadcast_dims=(1, 2), deterministic=not train)
    maps = [drop(name=f"dropout{n}")(y) for n, y in enumerate(maps)]
    x = UpsampledConv(self.segmentation_features, dtype=self.dtype, name="final_conv")(maps)
    return norm_relu(x, name="final_norm")

  def _finest(self, x, features, level):
    """The first convolution of the finest pyramid map, `upsample_nearest(x, 2)` plus the lateral connection.

    Nothing else reads that map, the largest of all, so it is never made: the convolution is linear, and takes the
    upsampled part at the resolution of `x` and the lateral part with the kernels' product from the few channels of
    `features`. Together 1.4 times fewer multiplications.
    """
    width = self.pyramid_features
    lateral, bias = Weights((features.shape[-1], width), use_bias=True, name=f"lateral_{level}")()
    kernel, _ = Weights((3, 3, width, self.segmentation_features), name=f"segment_{level}_conv1")()
    product = jnp.einsum("cd,ijdf->ijcf", lateral, kernel, precision="highest")
    y = conv_of_upsampled(x + bias.astype(x.dtype), kernel, factor=2)
    return y + conv_of_upsampled(features.astype(x.dtype), product, factor=1)

  def _norm_relu(self, x, *, train, name):
    return nn.relu(
      nn.BatchNorm(
        use_running_average=not train, momentum=self.bn_momentum, epsilon=self.bn_epsilon, dtype=self.dtype, name=name
      )(x)
    )


class Weights(nn.Module):
  """The parameters of a dense layer or a convolution, for whoever applies them: (kernel, bias or None)."""

  shape: tuple[int, ...]
  use_bias: bool = False

  @nn.compact
  def __call__(self):
    kernel = self.param("kernel", nn.initializers.he_uniform(), self.shape, jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, self.shape[-1:], jnp.float32) if self.use_bias else None
    return kernel, bias


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
  """The zero-padded 3x3 convolution of `upsample_nearest(x, factor)`, at the resolution of `x`.

  Along an axis the pixels of a block see three kinds of neighbourhood: the first one reaches into
  the block before, the last one into the block after, and all others see their own block alone. So
  kernels with 2, 2 and 1 summed taps give the three kinds at the resolution of `x`, and their
  results are spread out: 16 / 36 of the multiplications at factor 2, 25 / 144 at 4, 25 / 576 at 8.

  Args:
    x: [B, H, W, C] float.
    kernel: [3, 3, C, F] float32; computed with in the dtype of `x`.
    factor: of the upsampling, a power of two.

  Returns:
    [B, factor * H, factor * W, F], the dtype of `x`.
  """
  if factor == 1:
    return convolution.conv(x, kernel.astype(x.dtype), ((1, 1), (1, 1)))
  batch, height, width, _ = x.shape
  kinds = (_FIRST, _LAST, _MIDDLE) if factor > 2 else (_FIRST, _LAST)
  rows = []  # one [B, H, factor * W, F] for each kind of row
  for row in kinds:
    columns = [_by_kind(x, kernel, row, column) for column in kinds]
    rows.append(_interleave(columns, axis=3, factor=factor).reshape(batch, height, factor * width, -1))
  return _interleave(rows, axis=2, factor=factor).reshape(batch, factor * height, factor * width, -1)


class _Kind(NamedTuple):
  """What pixels of one kind see along an axis: blocks, of which each tap reads one."""

  reads: tuple[tuple[int, int, int], ...]  # [block][tap]
  padding: tuple[int, int]


_FIRST = _Kind(((1, 0, 0), (0, 1, 1)), (1, 0))
_LAST = _Kind(((1, 1, 0), (0, 0, 1)), (0, 1))
_MIDDLE = _Kind(((1, 1, 1),), (0, 0))


def _by_kind(x, kernel, row: _Kind, column: _Kind):
  """The [B, H, W, F] that pixels of such a row and column get. All kinds in one kernel would be slower on a CPU."""
  reads = (jnp.asarray(kind.reads, jnp.float32) for kind in (row, column))
  kernel = jnp.einsum("ad,be,decf->abcf", *reads, kernel, precision="highest")
  return convolution.conv(x, kernel.astype(x.dtype), (row.padding, column.padding))


def _interleave(kinds, *, axis: int, factor: int):
  """[first, last, middle] side by side on a new axis of length `factor`; the middle one fills what is left."""
  first, last, *middle = (jnp.expand_dims(kind, axis) for kind in kinds)
  middle = [jnp.repeat(kind, factor - 2, axis) for kind in middle]
  return jnp.concatenate([first, *middle, last], axis)


def check_pyramid(features, decoder: str):
  """Raises a ValueError if one of "c1" to "c5" is missing or not twice the height and width of the next."""
  missing = sorted({*LEVELS, "c5"} - set(features))
  if missing:
    raise ValueError(f"the {decoder} needs the features c1 to c5; missing: {missing}.")
  for fine, coarse in zip(LEVELS, (*LEVELS[1:], "c5")):
    fine_shape, coarse_shape = features[fine].shape, features[coarse].shape
    if any(size != 2 * half for size, half in zip(fine_shape[1:3], coarse_shape[1:3])):
      raise ValueError(
        f"{fine} {fine_shape} is not twice the height and width of {coarse} {coarse_shape}: pad "
        "the image to a multiple of 32 pixels."
      )
