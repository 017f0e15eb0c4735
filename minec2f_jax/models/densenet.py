"""DenseNet encoder (Huang et al. 2017, arXiv:1608.06993), with the Keras layout as default.

Parameter names, and what the same layer is called elsewhere (b, l, t count from 1):

  here                     keras.applications        torchvision `features.`
  stem_conv, stem_norm     conv1_conv, conv1_bn      conv0, norm0
  block{b}_layer{l}_norm1  conv{b+1}_block{l}_0_bn   denseblock{b}.denselayer{l}.norm1
  block{b}_layer{l}_conv1  conv{b+1}_block{l}_1_conv denseblock{b}.denselayer{l}.conv1
  block{b}_layer{l}_norm2  conv{b+1}_block{l}_1_bn   denseblock{b}.denselayer{l}.norm2
  block{b}_layer{l}_conv2  conv{b+1}_block{l}_2_conv denseblock{b}.denselayer{l}.conv2
  transition{t}_norm       pool{t+1}_bn              transition{t}.norm
  transition{t}_conv       pool{t+1}_conv            transition{t}.conv
  final_norm               bn                        norm5

`conv1` and `transition{t}_conv` are 1x1 convolutions held as matrices: their kernel is [C_in,
C_out], which is the [1, 1, C_in, C_out] of Keras (or the transposed [C_out, C_in, 1, 1] of torch)
without its unit axes. On a CPU (XLA of jax 0.10) a training step takes about a quarter less time
that way than with convolutions, inference the same. No convolution has a bias, but `input_adapter`
and `block{b}_layer{l}_adapter`, which are matrices too and known to neither of the two.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from minec2f_jax.models import convolution


class DenseNet(nn.Module):
  """Features at five resolutions; the defaults are DenseNet-121.

  The kernels start as in `keras.applications` (its Conv2D default, Glorot uniform), which matters
  only without pretrained weights.

  Attributes:
    block_sizes: number of layers of each dense block.
    growth_rate: channels that a layer adds.
    stem_features: channels of the 7x7 stem.
    bottleneck: a layer's 1x1 convolution has `bottleneck * growth_rate` channels.
    compression: share of the channels that a transition keeps.
    tap: what "c2", "c3" and "c4" are: "conv", the transition's 1x1 convolution before pooling,
      linear (segmentation_models for Keras); or "norm", its BN-ReLU before that convolution, with
      twice the channels at compression 0.5 (segmentation_models.pytorch).
    output_stride: 32; or 16, which leaves out the last transition's pooling and dilates the last block's 3x3
      convolutions by 2, so that "c5" is as large as "c4" (Chen et al. 2017, arXiv:1706.05587, Sec. 3). The parameters
      are the same.
    input_adapter: put a linear 1x1 convolution from any number of bands to three before the stem,
      as segmentation_models' documentation has it for weights of RGB images.
    adapters: add to what each layer's 3x3 convolution gives a 1x1 convolution of the same map, with bias
      (parallel residual adapters: Rebuffi et al. 2018, arXiv:1803.10082; in segmentation Garg et al. 2022,
      arXiv:2110.12205): small enough to be a domain's own beside convolutions that domains share. They
      start at zero, so that the network starts as without them.
    bn_momentum: what the running statistics keep per step (0.99 is torch's 0.01).
    bn_epsilon: added to the variance.
    dtype: of the computation; parameters and statistics stay float32.
  """

  block_sizes: tuple[int, ...] = (6, 12, 24, 16)
  growth_rate: int = 32
  stem_features: int = 64
  bottleneck: int = 4
  compression: float = 0.5
  tap: str = "conv"
  output_stride: int = 32
  input_adapter: bool = False
  adapters: bool = False
  bn_momentum: float = 0.99
  bn_epsilon: float = 1.001e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train):
    """The features of an image.

    Args:
      image: [B, H, W, C] float; any number of bands.
      train: whether BN uses (and updates) the batch's statistics.

    Returns:
      {"c1": [B, H/2, W/2, .], "c2": /4, "c3": /8, "c4": /16, "c5": /32, or /16 with that `output_stride`}; with the
      defaults 64, 128, 256, 512 and 1024 channels. "c1" and "c5" are ReLU outputs, for the others see `tap`.

    Raises:
      ValueError: if `tap` or `output_stride` is not known.
    """
    chex.assert_rank(image, 4)
    if self.tap not in ("conv", "norm"):
      raise ValueError(f'tap is {self.tap!r}; it must be "conv" or "norm".')
    if self.output_stride not in (16, 32):
      raise ValueError(f"output_stride is {self.output_stride!r}; it must be 16 or 32.")
    dilated = self.output_stride == 16
    norm_relu = functools.partial(
      _norm_relu, use_running_average=not train, momentum=self.bn_momentum, epsilon=self.bn_epsilon, dtype=self.dtype
    )
    conv = functools.partial(
      nn.Conv,
      use_bias=False,
      kernel_init=nn.initializers.glorot_uniform(),
      dtype=self.dtype,
      conv_general_dilated=convolution.conv_general_dilated,
    )
    dense = functools.partial(nn.Dense, use_bias=False, kernel_init=nn.initializers.glorot_uniform(), dtype=self.dtype)

    adapter = functools.partial(nn.Dense, self.growth_rate, kernel_init=nn.initializers.zeros, dtype=self.dtype)

    if self.input_adapter:
      image = dense(3, use_bias=True, name="input_adapter")(image)
    # Explicit paddings: SAME would pad (2, 3) here, and Keras and torch pad (3, 3).
    x = conv(self.stem_features, (7, 7), strides=(2, 2), padding=((3, 3), (3, 3)), name="stem_conv")(image)
    features = {"c1": norm_relu(x, name="stem_norm")}
    x = _max_pool(features["c1"])

    for block, size in enumerate(self.block_sizes, start=1):
      for layer in range(1, size + 1):
        name = f"block{block}_layer{layer}"
        new = dense(self.bottleneck * self.growth_rate, name=f"{name}_conv1")(norm_relu(x, name=f"{name}_norm1"))
        inner = norm_relu(new, name=f"{name}_norm2")
        new = conv(self.growth_rate, (3, 3), padding=((1, 1), (1, 1)), name=f"{name}_conv2")(inner)
        if self.adapters:
          new += adapter(name=f"{name}_adapter")(inner)
        x = jnp.concatenate([x, new], axis=-1)
      if block == len(self.block_sizes):
        x = norm_relu(x, name="final_norm")
        features[f"c{block + 1}"] = _together(x) if dilated else x
        break
      normed = norm_relu(x, name=f"transition{block}_norm")
      x = dense(int(x.shape[-1] * self.compression), name=f"transition{block}_conv")(normed)
      features[f"c{block + 1}"] = x if self.tap == "conv" else normed
      if dilated and block == len(self.block_sizes) - 1:
        x = _apart(x)
        continue
      batch, height, width, channels = x.shape
      x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
    return features


def _norm_relu(x, **kwargs):
  """Batch normalisation (a submodule of the caller), then ReLU."""
  return nn.relu(nn.BatchNorm(**kwargs)(x))


def _apart(x):
  """[B, H, W, C] as [4 B, H / 2, W / 2, C]: of every image its even and odd rows and columns as images of their own.

  A convolution of dilation 2 never brings pixels of two of them together: on these it is a plain one, with its quick
  gradients. What works on single pixels or on a whole batch (BN) does not notice.
  """
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 2, 4, 1, 3, 5)
  return x.reshape(4 * batch, height // 2, width // 2, channels)


def _together(x):
  """What `_apart` took apart: [B, 2 H, 2 W, C] of [4 B, H, W, C]."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch // 4, 2, 2, height, width, channels).transpose(0, 3, 1, 4, 2, 5)
  return x.reshape(batch // 4, 2 * height, 2 * width, channels)


def _max_pool(x):
  """The 3x3 maximum of stride 2 of [B, H, W, C], none of it below zero, padded by 1: [B, H / 2, W / 2, C].

  As maxima of slices, whose gradients are quick; that of a window has to search for its maximum again.
  """
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # With zeros, which do here what minus infinity would.
  for axis in (1, 2):
    slices = [jax.lax.slice_in_dim(x, start, x.shape[axis] - 2 + start, 2, axis) for start in range(3)]
    x = functools.reduce(jnp.maximum, slices)
  return x
