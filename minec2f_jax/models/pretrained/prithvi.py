"""Prithvi-EO-1.0-100M's weights for the ViT encoder, from `Prithvi_EO_V1_100M.pt` or a copy of it as safetensors."""

import functools
import re

import jax
import numpy as np

from minec2f_jax.errors import UserError
from minec2f_jax.models import prithvi, weight_check
from minec2f_jax.models.pretrained.family import Family
from minec2f_jax.models.vit import PATCH_SIZE, ViTEncoder

_HEAD_WIDTH = 64  # Of a ViT's attention heads, whatever its size: no tensor's shape tells their number.


def fit(tensors, *, bands, adapter: str, encoder: ViTEncoder | None):
  """The file's weights for a ViT encoder that takes `bands`; see `family.Family`.

  Args:
    tensors: {the file's name: array}.
    bands: roles of the image's bands, different ones out of `prithvi.BANDS` in any order. Each has a kernel of its own
      in the patch embedding, and they are put in this order as they are: nothing is inflated or scaled. To leave a
      band out is to hold it at the mean that it is standardised with.
    adapter: "inflate", every config's default; the others are for networks that know red, green and blue alone.
    encoder: the network that the weights must fit; None takes that of the file, with 64 numbers a head.

  Returns:
    ({"params"}; the network; names left out).

  Raises:
    UserError: the adapter is another.
    weight_check.Misfit: the tensors do not fit.
  """
  if adapter != "inflate":
    raise UserError(
      f"adapter {adapter!r} (config.pretrained_adapter) is for networks that know red, green and blue alone, and "
      f"Prithvi has a kernel for each of {', '.join(prithvi.BANDS)}; take inflate, which leaves these as they are"
    )
  found = fields(tensors)
  module = ViTEncoder(**found, heads=_heads(found["width"])) if encoder is None else encoder
  weight_check.check_fields(prithvi.NETWORK, found, module)
  init = functools.partial(module.init, train=False)
  image = jax.ShapeDtypeStruct((1, PATCH_SIZE, PATCH_SIZE, len(bands)), np.float32)
  shapes = jax.eval_shape(init, jax.random.key(0), image)
  variables, ignored = prithvi.encoder_params(tensors, bands=bands, variables=shapes)
  return variables, module, ignored


def fields(tensors) -> dict[str, int]:
  """The fields of the `ViTEncoder` that a file holds, as far as its names and shapes tell; {} if it holds none."""
  known = prithvi.sort_out(tensors).known
  block = re.compile(r"blocks\.(\d{1,3})\.(.+)")
  found = [(int(match[1]), match[2], known[name]) for name in known if (match := block.fullmatch(name))]
  width = next((array.size for _, layer, array in found if layer == "norm1.weight"), 0)
  hidden = next((array.size for _, layer, array in found if layer == "mlp.fc1.bias"), 0)
  depth = 1 + max((n for n, _, _ in found), default=-1)
  # Other networks too have blocks of this name: a ViT's have attention in one matrix.
  attention = sum(layer == "attn.qkv.weight" for _, layer, _ in found)
  if not width or width % 16 or hidden < width or attention < depth / 2:
    return {}
  return {"width": width, "depth": depth, "mlp_ratio": hidden // width}


def _heads(width: int) -> int:
  return 1 if width % _HEAD_WIDTH else width // _HEAD_WIDTH


def _notes(module: ViTEncoder) -> dict[str, str]:
  shape = ", ".join(f"{field}={getattr(module, field)}" for field in ("width", "depth", "heads", "mlp_ratio"))
  return {
    "network": f"{prithvi.NETWORK}, {shape} (no file tells the number of heads: {module.width // module.heads} wide)",
    "kernels": "each band has its own, and none is scaled: there is nothing to adapt",
    "positions": "made for the image's grid of patches, of one frame; those of the file are checked, not used",
    "norm_epsilon": f"{module.norm_epsilon:g}, torch's default: no file tells it",
  }


FAMILY = Family(
  name=prithvi.NETWORK,
  files="Prithvi_EO_V1_100M.pt of Prithvi-EO-1.0-100M",
  module=ViTEncoder,
  fields=fields,
  fit=fit,
  notes=_notes,
)
