"""Prithvi-EO-1.0-100M (Jakubik et al. 2023, arXiv:2310.18660): decoder, head and the names of its weights.

The encoder is `vit.ViTEncoder`. Decoder and head are those of the authors' fine-tuning examples (burn scars, floods):
`Segmenter(ViTEncoder(), PrithviDecoder(), PixelHead())`.

Prithvi was trained on surface reflectance standardised with `MEAN` and `STD`; `sensors.normalize` with these values
gives what it expects, and configs have them as default. The published numbers are of reflectance x 10,000.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from minec2f_jax.models import vit, weight_check

BANDS = ("blue", "green", "red", "nir", "swir1", "swir2")  # the order of the weights; nir is the narrow band
MEAN = {"blue": 0.0775, "green": 0.1081, "red": 0.1229, "nir": 0.2497, "swir1": 0.2204, "swir2": 0.1611}
STD = {"blue": 0.1282, "green": 0.1270, "red": 0.1399, "nir": 0.1368, "swir1": 0.1292, "swir2": 0.1155}
NETWORK = "Prithvi encoder"  # what messages about weights call it
_TABLE = "pos_embed"


class Neck(nn.Module):
  """Features enlarged by 16: four 2x2 transposed convolutions.

  Two times [transposed convolution, layer norm over channels, GELU, transposed convolution], all of the input's width.

  Attributes:
    norm_epsilon: added to the variance in layer norms.
    dtype: of the computation; parameters stay float32.
  """

  norm_epsilon: float = 1e-6
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """The map.

    Args:
      x: [B, H, W, C] float.

    Returns:
      [B, 16 H, 16 W, C].
    """
    chex.assert_rank(x, 4)
    for n in (1, 2):
      x = Upscale(self.dtype, name=f"upscale{n}a")(x)
      x = nn.gelu(vit.layer_norm(self.norm_epsilon, self.dtype, f"norm{n}")(x), approximate=False)
      x = Upscale(self.dtype, name=f"upscale{n}b")(x)
    return x


class Upscale(nn.Module):
  """A transposed convolution with a 2x2 kernel and stride 2, as a matrix product: its windows do not overlap.

  `kernel` is [2, 2, C_in, C_out], which is torch's [C_in, C_out, 2, 2] with the axes in this order.
  """

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """[B, H, W, C] float -> [B, 2 H, 2 W, C]."""
    batch, height, width, channels = x.shape
    kernel = self.param("kernel", nn.initializers.glorot_uniform(), (2, 2, channels, channels), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
    x = jnp.einsum("bhwc,ijcf->bhiwjf", x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)
    return x.reshape(batch, 2 * height, 2 * width, channels)


class PrithviDecoder(nn.Module):
  """One map at the image's resolution: the neck, then a 3x3 convolution, BN, ReLU and dropout.

  Attributes:
    features: channels of the map.
    dropout: rate at which whole channels are dropped in training, which then needs a "dropout" key.
    bn_momentum: what the running statistics keep per step (0.9 is torch's 0.1).
    bn_epsilon: added to the variance in BN.
    dtype: of the computation; parameters and statistics stay float32.
  """

  features: int = 256
  dropout: float = 0.1
  bn_momentum: float = 0.9
  bn_epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features, *, train):
    """The decoder's map.

    Args:
      features: {"c4": [B, H/16, W/16, C] float}.
      train: whether BN uses the batch's statistics and dropout is active.

    Returns:
      [B, H, W, features].
    """
    x = Neck(dtype=self.dtype, name="neck")(features["c4"])
    x = nn.Conv(
      self.features,
      (3, 3),
      padding=((1, 1), (1, 1)),
      use_bias=False,
      kernel_init=nn.initializers.he_normal(),
      dtype=self.dtype,
      name="conv",
    )(x)
    x = nn.BatchNorm(
      use_running_average=not train,
      momentum=self.bn_momentum,
      epsilon=self.bn_epsilon,
      dtype=self.dtype,
      name="norm",
    )(x)
    return nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(nn.relu(x))


class PixelHead(nn.Module):
  """Logits of every pixel by itself: a 1x1 convolution with bias, held as a [C_in, C_out] matrix.

  Attributes:
    classes: channels of the logits; 1 for mining against background, 2 in the authors' examples.
    dtype: of the product's factors; it is summed in float32.
  """

  classes: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """[B, H, W, C] float -> [B, H, W, classes] float32."""
    kernel = self.param("kernel", nn.initializers.normal(0.01), (x.shape[-1], self.classes), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (self.classes,), jnp.float32)
    factors = x.astype(self.dtype), kernel.astype(self.dtype)
    return jnp.einsum("bhwc,ck->bhwk", *factors, preferred_element_type=jnp.float32) + bias


class Tensors(NamedTuple):
  """The tensors of a file of the masked autoencoder, sorted out by name."""

  known: dict[str, np.ndarray]  # the encoder's, by the names of the first release
  table: np.ndarray | None  # of the positions
  ignored: tuple[str, ...]  # the file's names of what the encoder does not take: the decoder, the position table
  twice: tuple[str, ...]  # names that several tensors of the file have


def sort_out(weights: Mapping[str, Any]) -> Tensors:
  """The tensors of a file, {name: array}, without the autoencoder's decoder.

  Both ways to name tensors are known: that of the first release (`blocks.0.norm1.weight`, `decoder_embed.bias`,
  `mask_token`) and that of the later code, with `encoder.` and `decoder.` in front.
  """
  ignored = [name for name in weights if name.startswith("decoder") or name == "mask_token"]
  known, twice = {}, []
  for raw in sorted(weights.keys() - set(ignored)):
    name = raw.removeprefix("encoder.")
    if name in known:
      twice.append(name)
    if name == _TABLE:
      ignored.append(raw)
    known[name] = np.asarray(weights[raw])
  return Tensors(known, known.pop(_TABLE, None), tuple(sorted(ignored)), tuple(twice))


def encoder_params(weights: Mapping[str, Any], *, bands: Sequence[str], variables: Mapping[str, Any]):
  """The encoder's parameters out of a file of the masked autoencoder.

  The position table of the file is not used, but has to be ours: otherwise the weights mean something else.

  Args:
    weights: {name: array} as `Prithvi_EO_V1_100M.pt` holds them; see `sort_out`.
    bands: what the image's channels are, different ones out of `BANDS`; the kernel of the patch embedding is put in
      this order. To leave a band out is to hold it at its `MEAN`.
    variables: {"params": ...} of the `ViTEncoder`, arrays or shapes; what is to be filled.

  Returns:
    ({"params": ...} as NumPy arrays, float32; the sorted names of what the file holds besides: the autoencoder's
    decoder and the position table).

  Raises:
    ValueError: if bands are not known, given twice or not as many as the encoder takes.
    weight_check.Misfit: lists all tensors that are missing, misshapen, not known, given twice or no finite numbers.
  """
  if not bands or set(bands) - set(BANDS) or len(set(bands)) < len(bands):
    raise ValueError(f"bands are {tuple(bands)}; give different ones out of {BANDS}.")
  leaves = traverse_util.flatten_dict(variables["params"])
  channels = leaves["patch_embed", "kernel"].shape[2]
  if channels != len(bands):
    raise ValueError(f"the encoder takes images of {channels} bands, and bands are {tuple(bands)}.")
  tensors = sort_out(weights)
  names = {path: _torch_name(path) for path in leaves}
  shapes = {names[path]: _torch_shape(path, leaf.shape) for path, leaf in leaves.items()}
  strange = [] if tensors.table is None or _is_position_table(tensors.table) else [_TABLE]
  others = {"given twice": tensors.twice, "not the sines and cosines of a square grid's positions": strange}
  weight_check.check_tensors(NETWORK, shapes, tensors.known, others=others)
  order = [BANDS.index(band) for band in bands]
  known = {path: np.asarray(tensors.known[name], np.float32) for path, name in names.items()}
  filled = {path: _from_torch(path, array, order) for path, array in known.items()}
  return {"params": traverse_util.unflatten_dict(filled)}, tensors.ignored


# What the file calls a layer, within its block if it has one.
_LAYERS = {
  "patch_embed": "patch_embed.proj",
  "norm1": "norm1",
  "qkv": "attn.qkv",
  "projection": "attn.proj",
  "norm2": "norm2",
  "mlp1": "mlp.fc1",
  "mlp2": "mlp.fc2",
  "final_norm": "norm",
}


def _torch_name(path):
  if path == ("cls_token",):
    return "cls_token"
  *block, layer, leaf = path
  where = f"blocks.{int(block[0].removeprefix('block')) - 1}." if block else ""
  return f"{where}{_LAYERS[layer]}.{'bias' if leaf == 'bias' else 'weight'}"


def _torch_shape(path, shape):
  """What a leaf of this shape has in the file."""
  if path == ("patch_embed", "kernel"):
    return (shape[3], len(BANDS), 1, *shape[:2])
  return tuple(shape[::-1]) if path[-1] == "kernel" else tuple(shape)


def _from_torch(path, array, order):
  if path == ("patch_embed", "kernel"):
    return array[:, order, 0].transpose(2, 3, 1, 0)
  return array.T if path[-1] == "kernel" else array


def _is_position_table(table):
  """Whether [1, 1 + frames * side**2, C] is a zero row and then the first frame's positions, whatever the side."""
  table = np.asarray(table, np.float32)
  if table.ndim != 3 or table.shape[2] % 16 or np.any(table[:, :1]):
    return False
  patches, features = table.shape[1] - 1, table.shape[2]
  for side in range(2, math.isqrt(patches) + 1):
    if patches % side**2 == 0:
      ours = vit.position_table(side, side, features).reshape(-1, features)
      if np.allclose(table[0, 1 : 1 + side**2], ours, atol=1e-3):  # half precision has 11 bits
        return True
  return False
