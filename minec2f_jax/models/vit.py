"""Vision transformer encoder (Dosovitskiy et al. 2021, arXiv:2010.11929) as Prithvi-EO-1.0-100M has it.

Prithvi (Jakubik et al. 2023, arXiv:2310.18660) is the encoder of a masked autoencoder (He et al. 2022,
arXiv:2111.06377) over series of Landsat and Sentinel-2 images; here a series is one image long.

Parameter names, and what the masked autoencoder's files call the same tensor (n counts from 1):

  here                         there
  patch_embed                  patch_embed.proj, a convolution over frames: [width, bands, 1, 16, 16]
  cls_token                    cls_token
  block{n}.norm1               blocks.{n-1}.norm1
  block{n}.qkv                 blocks.{n-1}.attn.qkv
  block{n}.projection          blocks.{n-1}.attn.proj
  block{n}.norm2               blocks.{n-1}.norm2
  block{n}.mlp1, block{n}.mlp2 blocks.{n-1}.mlp.fc1, blocks.{n-1}.mlp.fc2
  final_norm                   norm

The columns of `qkv` are the queries of all heads, then their keys, then their values. Positions are no parameter, see
`position_table`.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

PATCH_SIZE = 16  # pixels


class ViTEncoder(nn.Module):
  """Tokens of 16x16 patches as one feature map; the defaults are those of Prithvi-EO-1.0-100M (ViT-B/16).

  The kernels start as in the masked autoencoder (Glorot uniform), which matters only without pretrained weights.

  Attributes:
    width: of a token; a multiple of 16 and of `heads`.
    depth: number of blocks.
    heads: of the attention.
    mlp_ratio: the hidden width of a block's MLP is `mlp_ratio * width`.
    norm_epsilon: added to the variance in layer norms. The published code trains and fine-tunes Prithvi with torch's
      default, 1e-5; He et al. have 1e-6.
    dtype: of the computation; parameters, the sum along the blocks and the attention's softmax stay float32.
  """

  width: int = 768
  depth: int = 12
  heads: int = 12
  mlp_ratio: int = 4
  norm_epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train):
    """The features of an image.

    Args:
      image: [B, H, W, C] float; H and W are multiples of 16.
      train: of no effect, because training and inference do not differ here.

    Returns:
      {"c4": [B, H/16, W/16, width]}: the normalised tokens after the last block, without the class token. "c4" is what
      has this resolution in the other encoders too.

    Raises:
      ValueError: if the image is not made of whole patches, or `width` not a multiple of 16 and of `heads`.
    """
    del train
    chex.assert_rank(image, 4)
    self._check(image.shape)
    # As one matrix of a patch's numbers to a token, which is how the masked autoencoder draws it.
    init = nn.initializers.glorot_uniform(in_axis=(0, 1, 2))
    patch = (PATCH_SIZE, PATCH_SIZE)
    x = nn.Conv(self.width, patch, strides=patch, kernel_init=init, dtype=self.dtype, name="patch_embed")(image)
    batch, height, width, _ = x.shape

    # The table is float32 and makes the sum along the blocks so. The class token's own position is zero.
    x = (x + position_table(height, width, self.width)).reshape(batch, height * width, self.width)
    cls = self.param("cls_token", nn.initializers.normal(0.02), (1, 1, self.width), jnp.float32)
    x = jnp.concatenate([jnp.broadcast_to(cls, (batch, 1, self.width)), x], axis=1)
    for n in range(1, self.depth + 1):
      x = Block(self.heads, self.mlp_ratio, self.norm_epsilon, self.dtype, name=f"block{n}")(x)
    x = layer_norm(self.norm_epsilon, self.dtype, "final_norm")(x[:, 1:])
    return {"c4": x.reshape(batch, height, width, self.width)}

  def _check(self, shape):
    if shape[1] % PATCH_SIZE or shape[2] % PATCH_SIZE or 0 in shape[1:3]:
      raise ValueError(f"the image {shape} is not made of whole patches: pad it to a multiple of {PATCH_SIZE} pixels.")
    if self.width % 16 or self.width % self.heads:
      raise ValueError(f"width is {self.width}; it must be a multiple of 16 and of heads, {self.heads}.")


class Block(nn.Module):
  """Self-attention, then an MLP, each added to what it gets normalised (pre-norm).

  Dosovitskiy et al. 2021, Eq. 2 and 3; attention as in Vaswani et al. 2017, arXiv:1706.03762, Eq. 1, and GELU exact.

  Attributes:
    heads: of the attention.
    mlp_ratio: the hidden width of the MLP is `mlp_ratio` times that of a token.
    norm_epsilon: added to the variance in layer norms.
    dtype: of the computation; parameters and the softmax stay float32.
  """

  heads: int
  mlp_ratio: int = 4
  norm_epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """The tokens after the block.

    Args:
      x: [B, N, C] float.

    Returns:
      [B, N, C], the dtype of `x` or the wider one of `dtype`.
    """
    chex.assert_rank(x, 3)
    batch, tokens, width = x.shape
    dense = functools.partial(nn.Dense, kernel_init=nn.initializers.glorot_uniform(), dtype=self.dtype)

    y = dense(3 * width, name="qkv")(layer_norm(self.norm_epsilon, self.dtype, "norm1")(x))
    query, key, value = jnp.moveaxis(y.reshape(batch, tokens, 3, self.heads, width // self.heads), 2, 0)
    y = jax.nn.dot_product_attention(query, key, value)
    x = x + dense(width, name="projection")(y.reshape(batch, tokens, width))

    y = dense(self.mlp_ratio * width, name="mlp1")(layer_norm(self.norm_epsilon, self.dtype, "norm2")(x))
    return x + dense(width, name="mlp2")(nn.gelu(y, approximate=False))


def position_table(height: int, width: int, features: int) -> np.ndarray:
  """Where a patch lies, as sines and cosines of its column, its row and its frame.

  Of the features, 6/16 tell the column, 6/16 the row and 4/16 the frame, in this order. Each part with d features is
  [sin(p w_0), ..., sin(p w_{d/2-1}), cos(p w_0), ...], w_k = 10000 ** (-2 k / d), for the position p counted from 0
  (Vaswani et al. 2017, Sec. 3.5, with the sines first). The table is made for the grid at hand, not interpolated from
  that of 14x14 patches and three frames on which Prithvi was trained. The frame is always the first.

  Args:
    height: of the grid, in patches.
    width: of the grid, in patches.
    features: of a token; a multiple of 16.

  Returns:
    [height, width, features] float32.
  """
  parts = [(np.arange(width)[None, :], 6), (np.arange(height)[:, None], 6), (np.zeros((1, 1)), 4)]
  waves = [_waves(np.broadcast_to(at, (height, width)), share * features // 16) for at, share in parts]
  return np.concatenate(waves, axis=-1).astype(np.float32)


def layer_norm(epsilon: float, dtype: Any, name: str) -> nn.LayerNorm:
  """A layer norm that takes the mean off before it squares: the mean of squares would lose digits to a large mean."""
  return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, dtype=dtype, name=name)


def _waves(position, features):
  """[...] positions -> [..., features] float64."""
  half = features // 2
  angle = position[..., None] * 10000.0 ** (-np.arange(half) / half)
  return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
