"""ImageNet weights for the DenseNet encoder, from a file of Keras, torchvision or timm.

  python -m minec2f_jax.models.pretrained PATH [--bands=red,green,blue,nir,swir1,swir2] [--adapter=inflate]

prints what a file holds, and a probe that another implementation can be compared with.

The weights expect RGB with ImageNet's mean taken off and divided by its standard deviation. Here they get what every
encoder gets: each band standardised by its own mean and deviation of reflectance (`config.data.mean` and `std`), so
numbers of the same range. Networks of torch add 1e-5 to the variance, those of Keras 1.001e-5; what is added here
stays `config.model.encoder.bn_epsilon`.
"""

import functools
import sys
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags
from flax import traverse_util

from minec2f_jax import console, files
from minec2f_jax.errors import UserError
from minec2f_jax.models import weight_files, weight_names
from minec2f_jax.models.densenet import DenseNet

RGB = ("red", "green", "blue")  # The order in both Keras' and torchvision's kernels.
BANDS = (*RGB, "nir", "swir1", "swir2")
ADAPTERS = ("inflate", "conv1x1", "scratch")
_STEM = ("stem_conv", "stem_norm")


class Encoder(NamedTuple):
  """A DenseNet's weights out of a file, fitted to the bands."""

  variables: dict  # {"params", "batch_stats"} of the encoder, NumPy arrays; without what stays random
  module: DenseNet  # a network that takes them; its `bn_epsilon` is that of the file's framework
  format: str  # see `weight_files.WeightFile`
  ignored: tuple[str, ...]  # names in the file that an encoder does not have: the classifier, counters
  sha256: str


def load(path, *, bands, adapter: str = "inflate", encoder: DenseNet | None = None) -> Encoder:
  """The weights of `path` for an encoder that takes `bands`.

  Args:
    path: see `weight_files.read`.
    bands: roles of the image's bands in their order.
    adapter: how an encoder for red, green and blue takes these. "inflate": red, green and blue keep their kernels, the
      other bands get the mean of the three, and all are scaled by 3 / len(bands), so that an image which is the same
      in all bands gives the activations of a grey one (if red, green and blue are among them). "conv1x1": the stem
      stays, and `DenseNet.input_adapter` before it starts by passing on red, green and blue. "scratch": the stem, its
      normalisation included, stays random.
    encoder: the network that the weights must fit; None takes whichever DenseNet the file holds.

  Raises:
    UserError: the file cannot be read, holds another network, or misses, adds or misshapes a tensor.
  """
  bands = tuple(bands)
  _check_request(bands, adapter, encoder)
  file = weight_files.read(path)
  tensors = weight_names.sort_out(file.tensors)
  fields = weight_names.network(tensors)
  if not fields:
    raise UserError(
      f"{path}: holds no DenseNet but {len(file.tensors)} tensors called {', '.join(list(file.tensors)[:4])}, ...; "
      "give the weights of a DenseNet-121 from Keras, torchvision or timm"
    )
  module = DenseNet(**fields, input_adapter=adapter == "conv1x1")
  if encoder is not None:
    _check_network(path, fields, encoder)
    module = encoder
  variables = _adapt(_fit(path, tensors, module, adapter), bands, adapter)
  module = module.clone(bn_epsilon=weight_names.BN_EPSILON[tensors.dialect])
  return Encoder(variables, module, file.format, tensors.ignored, files.sha256(path))


def _check_request(bands, adapter, encoder):
  if adapter not in ADAPTERS:
    raise UserError(f"adapter {adapter!r} is not known; choose one of {', '.join(ADAPTERS)}")
  if not bands or len(set(bands)) < len(bands) or not set(bands) <= set(BANDS):
    raise UserError(f"bands {','.join(bands)!r} are not different ones out of {', '.join(BANDS)}; give such")
  if adapter == "conv1x1" and (absent := [band for band in RGB if band not in bands]):
    raise UserError(f"adapter conv1x1 passes on red, green and blue, but the bands lack {absent}; take inflate")
  if encoder is not None and encoder.input_adapter != (adapter == "conv1x1"):
    raise UserError(
      f"adapter {adapter!r} (config.pretrained_adapter) does not go with config.model.encoder.input_adapter="
      f"{encoder.input_adapter}: that is True for conv1x1 and False for all others; change one of them"
    )


def _check_network(path, fields, encoder):
  different = {name: value for name, value in fields.items() if value != getattr(encoder, name)}
  if different:
    there = ", ".join(f"{name}={value}" for name, value in different.items())
    here = ", ".join(f"{name}={getattr(encoder, name)}" for name in different)
    raise UserError(
      f"{path}: holds a DenseNet with {there}, but config.model.encoder has {here}; give the encoder the file's "
      "values, or leave out config.pretrained"
    )


def _fit(path, tensors: weight_names.Tensors, module: DenseNet, adapter: str) -> dict:
  """{"params", "batch_stats"} of `module`'s encoder for three bands, with every tensor in its place and shape.

  Raises:
    UserError: lists all that are missing, too many, given twice, of another shape, or no weights.
  """
  expected = _shapes(module)
  names = weight_names.table(module.block_sizes, tensors.dialect)
  problems = {
    "missing": [name for name in names if name not in tensors.known],
    "not in a DenseNet": [name for name in tensors.known if name not in names],
    "given twice": list(tensors.twice),
    "of another shape": [],
    "not finite numbers, or a negative variance": [],
  }
  flat = {}
  for name in names.keys() & tensors.known.keys():
    place, array = names[name], tensors.known[name]
    if adapter == "scratch" and place[1] in _STEM:
      continue
    if len(expected[place]) == 2 and array.shape[:2] == (1, 1):  # A 1x1 convolution, here a matrix.
      array = array[0, 0]
    if array.shape != expected[place]:
      problems["of another shape"].append(f"{name} {array.shape} instead of {expected[place]}")
    elif array.dtype != np.float32 or not np.isfinite(array).all() or (place[2] == "var" and (array < 0).any()):
      problems["not finite numbers, or a negative variance"].append(name)
    flat[place] = array
  if any(problems.values()):
    listed = "; ".join(f"{len(found)} {what}: {', '.join(sorted(found))}" for what, found in problems.items() if found)
    raise UserError(f"{path}: does not fit this DenseNet ({listed}); give its weights whole and unchanged")
  return traverse_util.unflatten_dict(flat)


def _shapes(module: DenseNet) -> dict[tuple[str, str, str], tuple[int, ...]]:
  """(collection, module, name) -> shape, of `module` for three bands."""
  size = 2 ** (len(module.block_sizes) + 1)
  init = functools.partial(module.clone(input_adapter=False).init, train=False)
  shapes = jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), np.float32))
  return {place: leaf.shape for place, leaf in traverse_util.flatten_dict(shapes).items()}


def _adapt(variables: dict, bands, adapter: str) -> dict:
  params = variables["params"]
  if adapter == "inflate":
    params = {**params, "stem_conv": {"kernel": inflate(params["stem_conv"]["kernel"], bands)}}
  if adapter == "conv1x1":
    kernel = np.array([[band == colour for colour in RGB] for band in bands], np.float32)
    params = {**params, "input_adapter": {"kernel": kernel, "bias": np.zeros(3, np.float32)}}
  return {**variables, "params": params}


def inflate(kernel: np.ndarray, bands) -> np.ndarray:
  """[h, w, 3, C_out] for red, green and blue as [h, w, len(bands), C_out] for `bands`; see `load`."""
  mean = kernel.mean(axis=2)
  planes = [kernel[:, :, RGB.index(band)] if band in RGB else mean for band in bands]
  return np.stack(planes, axis=2) * np.float32(3 / len(bands))


def main(argv):
  from minec2f_jax.models import pretrained_summary

  if len(argv) != 2:
    raise app.UsageError("give the path of one weight file")
  try:
    bands = flags.FLAGS.bands
    encoder = load(argv[1], bands=bands, adapter=flags.FLAGS.adapter)
    console.say(pretrained_summary.describe(argv[1], encoder, bands=bands, adapter=flags.FLAGS.adapter))
  except UserError as error:
    sys.exit(f"minec2f_jax.models.pretrained: {error}")


if __name__ == "__main__":
  flags.DEFINE_list("bands", list(RGB), f"The image's bands in their order, out of {','.join(BANDS)}.")
  flags.DEFINE_string("adapter", "inflate", f"How the encoder takes these bands: {', '.join(ADAPTERS)}.")
  app.run(main)
