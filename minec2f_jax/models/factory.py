"""Networks from plain values, as configs hold them."""

import jax
import jax.numpy as jnp
import numpy as np

from minec2f_jax.models.deeplabv3plus import DeepLabV3Plus
from minec2f_jax.models.densenet import DenseNet
from minec2f_jax.models.fpn import FPN, Head
from minec2f_jax.models.gs_aufpn import GSAUFPN, GSAUFPNHead
from minec2f_jax.models.minec2fnet import AttentiveInjection, MineC2FNet
from minec2f_jax.models.pointwise_head import PointwiseHead
from minec2f_jax.models.prithvi import PixelHead, PrithviDecoder
from minec2f_jax.models.segmenter import Segmenter
from minec2f_jax.models.unet import UNet, UNetHead
from minec2f_jax.models.vit import ViTEncoder

# Name -> the sections of its config and their modules.
ARCHITECTURES = {
  "fpn_densenet": {"encoder": DenseNet, "decoder": FPN, "head": Head, "fusion": AttentiveInjection},
  "unet_densenet": {"encoder": DenseNet, "decoder": UNet, "head": UNetHead},
  "deeplabv3plus_densenet": {"encoder": DenseNet, "decoder": DeepLabV3Plus, "head": PointwiseHead},
  "gs_aufpn_densenet": {"encoder": DenseNet, "decoder": GSAUFPN, "head": GSAUFPNHead},
  "prithvi": {"encoder": ViTEncoder, "decoder": PrithviDecoder, "head": PixelHead},
}
DEFAULT = "fpn_densenet"
DTYPES = ("auto", "float32", "bfloat16")


def make_segmenter(model_config) -> Segmenter:
  """The network that `model_config` describes.

  Args:
    model_config: mapping (a dict or a ConfigDict) with `architecture`, one of `ARCHITECTURES`, "fpn_densenet" if left
      out; the sections `encoder`, `decoder` and `head` with fields of the modules that the architecture has there;
      for fpn_densenet also `fusion` (see `make_minec2fnet`; not used here); and `dtype`: "float32", "bfloat16", or
      "auto", which is float32 on CPUs and bfloat16 elsewhere. Whatever is left out has the module's default.

  Returns:
    A `Segmenter`.

  Raises:
    ValueError: if the architecture, a section or a field is not known.
  """
  modules = _modules(model_config)
  return Segmenter(**_networks(modules, _sections(modules, model_config)))


def make_minec2fnet(model_config) -> MineC2FNet:
  """The MineC2FNet student that `model_config` describes.

  Args:
    model_config: as for `make_segmenter`; `fusion` holds `levels` (a tuple of "c1" to "c5" and "decoder") and the
      fields of `AttentiveInjection`.

  Returns:
    A `MineC2FNet` with the encoder, decoder and head of `make_segmenter(model_config)`.

  Raises:
    ValueError: if the architecture, a section or a field is not known, or the architecture has no `fusion`.
  """
  modules = _modules(model_config)
  if "fusion" not in modules:
    raise ValueError(
      f"model.architecture is {model_config['architecture']!r}, and MineC2FNet injects features into {DEFAULT!r} "
      'alone; take a config with that, or method="supervised".'
    )
  sections = _sections(modules, model_config)
  fusion = sections["fusion"]
  levels = fusion.pop("levels", MineC2FNet.fusion_levels)
  return MineC2FNet(**_networks(modules, sections), injection=AttentiveInjection(**fusion), fusion_levels=levels)


def resolve_dtype(dtype: str) -> str:
  """What a network computes in: `dtype`, or for "auto" what suits the device, float32 on CPUs and bfloat16 elsewhere.

  Raises:
    ValueError: if `dtype` is not known.
  """
  if dtype not in DTYPES:
    raise ValueError(f"model.dtype is {dtype!r}; it must be one of {DTYPES}.")
  if dtype == "auto":
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"
  return dtype


def count_parameters(variables) -> dict[str, int]:
  """How many numbers a network holds.

  Args:
    variables: {"params", "batch_stats"} as `init` (or `jax.eval_shape` of it) returns; the latter
      may lack.

  Returns:
    {"trainable": size of "params", "total": with the BN statistics}.
  """
  size = lambda tree: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
  trainable = size(variables["params"])
  return {"trainable": trainable, "total": trainable + size(variables.get("batch_stats", {}))}


def _modules(config):
  """The sections of the config's architecture and their modules."""
  name = config.get("architecture", DEFAULT)
  if name not in ARCHITECTURES:
    raise ValueError(f"model.architecture is {name!r}; it must be one of {tuple(ARCHITECTURES)}.")
  return ARCHITECTURES[name]


def _networks(modules, sections):
  return {name: modules[name](**sections[name]) for name in ("encoder", "decoder", "head")}


def _sections(modules, config):
  """Every section's values as keywords of its module, with the dtype of the whole network."""
  _check_keys(config, "model", [*modules, "architecture", "dtype"])
  dtype = resolve_dtype(config.get("dtype", "float32"))
  sections = {}
  for name, module in modules.items():
    values = dict(config.get(name, {}))
    allowed = set(module.__dataclass_fields__) - {"dtype", "name", "parent"}
    _check_keys(values, f"model.{name}", allowed | ({"levels"} if name == "fusion" else set()))
    # A module must be hashable, and a config read from JSON holds lists.
    values = {key: tuple(x) if isinstance(x, list) else x for key, x in values.items()}
    sections[name] = {**values, "dtype": jnp.dtype(dtype)}
  return sections


def _check_keys(values, where, allowed):
  unknown = sorted(set(values) - set(allowed))
  if unknown:
    raise ValueError(f"{where} has no {unknown}; allowed are {sorted(allowed)}.")
