"""Pretrained weights for encoders, from files of other frameworks.

  python -m minec2f_jax.models.pretrained PATH [--bands=red,green,blue,nir,swir1,swir2] [--adapter=inflate]

prints what a file holds, and a probe that another implementation can be compared with. Each kind of network has a
module here that knows its files: `densenet` and `prithvi`. All get images of which each band is standardised by its own
mean and deviation of reflectance (`config.data.mean` and `std`).
"""

from typing import NamedTuple

from flax import linen as nn

from minec2f_jax import files
from minec2f_jax.errors import UserError
from minec2f_jax.models import weight_check, weight_files
from minec2f_jax.models.pretrained import densenet, prithvi
from minec2f_jax.models.pretrained.densenet import RGB
from minec2f_jax.models.pretrained.family import Family

__all__ = ["ADAPTERS", "BANDS", "FAMILIES", "RGB", "Encoder", "load"]

BANDS = (*RGB, "nir", "swir1", "swir2")
ADAPTERS = ("inflate", "conv1x1", "scratch")
FAMILIES = (densenet.FAMILY, prithvi.FAMILY)


class Encoder(NamedTuple):
  """An encoder's weights out of a file, fitted to the bands."""

  variables: dict  # {"params"} of the encoder, with BN "batch_stats" too; NumPy arrays, without what stays random
  module: nn.Module  # a network that takes them, with the file's framework's number in its normalisations
  family: Family  # what kind of network it is
  format: str  # see `weight_files.WeightFile`
  ignored: tuple[str, ...]  # names in the file of what an encoder does not take: classifier, counters, a decoder
  sha256: str


def load(path, *, bands, adapter: str = "inflate", encoder: nn.Module | None = None) -> Encoder:
  """The weights of `path` for an encoder that takes `bands`.

  Args:
    path: see `weight_files.read`.
    bands: roles of the image's bands in their order, different ones out of `BANDS`.
    adapter: how a network for other bands takes these, one of `ADAPTERS`; see `densenet.fit`. Prithvi knows all
      bands, so that each keeps its own kernel and only "inflate" is allowed; see `prithvi.fit`.
    encoder: the network that the weights must fit, a `DenseNet` or a `ViTEncoder`; None takes whichever of these the
      file holds.

  Raises:
    UserError: the file cannot be read, holds another network, or misses, adds or misshapes a tensor.
  """
  bands = tuple(bands)
  if adapter not in ADAPTERS:
    raise UserError(f"adapter {adapter!r} is not known; choose one of {', '.join(ADAPTERS)}")
  if not bands or len(set(bands)) < len(bands) or not set(bands) <= set(BANDS):
    raise UserError(f"bands {','.join(bands)!r} are not different ones out of {', '.join(BANDS)}; give such")
  file = weight_files.read(path)
  family = _find_family(path, file.tensors, encoder)
  try:
    variables, module, ignored = family.fit(file.tensors, bands=bands, adapter=adapter, encoder=encoder)
  except weight_check.Misfit as error:
    raise UserError(f"{path}: {error}") from error
  return Encoder(variables, module, family, file.format, ignored, files.sha256(path))


def _find_family(path, tensors, encoder: nn.Module | None) -> Family:
  """What kind of network a file holds, if it is that of `encoder`."""
  wanted = [family for family in FAMILIES if encoder is None or isinstance(encoder, family.module)]
  if not wanted:
    raise UserError(
      f"{path}: weights can be given to a {' or a '.join(family.name for family in FAMILIES)}, but the encoder of this "
      f"config.model.architecture is a {type(encoder).__name__}; leave out config.pretrained"
    )
  held = next((family for family in FAMILIES if family.fields(tensors)), None)
  give = " or ".join(family.files for family in wanted)
  if held is None:
    raise UserError(
      f"{path}: holds no {' and no '.join(family.name for family in wanted)} but {len(tensors)} tensors called "
      f"{weight_check.listed(tensors)}; give {give}"
    )
  if held not in wanted:
    raise UserError(
      f"{path}: holds a {held.name}, but the encoder of this config.model.architecture is a {wanted[0].name}; "
      f"give {give}, or take a config of another architecture"
    )
  return held
