"""ImageNet weights for the DenseNet encoder, from a file of Keras, torchvision or timm.

The weights expect RGB with ImageNet's mean taken off and divided by its standard deviation. Here they get what every
encoder gets: each band standardised by its own mean and deviation of reflectance, so numbers of the same range.
Networks of torch add 1e-5 to the variance, those of Keras 1.001e-5; what is added in a run stays
`config.model.encoder.bn_epsilon`.
"""

import functools

import jax
import numpy as np
from flax import traverse_util

from minec2f_jax.errors import UserError
from minec2f_jax.models import weight_check, weight_names
from minec2f_jax.models.densenet import DenseNet
from minec2f_jax.models.pretrained.family import Family

RGB = ("red", "green", "blue")  # The order in both Keras' and torchvision's kernels.
_STEM = ("stem_conv", "stem_norm")


def fit(tensors, *, bands, adapter: str, encoder: DenseNet | None):
  """The file's weights for a DenseNet that takes `bands`; see `family.Family`.

  Args:
    tensors: {the file's name: array}.
    bands: roles of the image's bands in their order.
    adapter: how an encoder for red, green and blue takes these. "inflate": red, green and blue keep their kernels, the
      other bands get the mean of the three, and all are scaled by 3 / len(bands), so that an image which is the same
      in all bands gives the activations of a grey one (if red, green and blue are among them). "conv1x1": the stem
      stays, and `DenseNet.input_adapter` before it starts by passing on red, green and blue. "scratch": the stem, its
      normalisation included, stays random.
    encoder: the network that the weights must fit; None takes that of the file.

  Returns:
    ({"params", "batch_stats"}; the network with the `bn_epsilon` of the file's framework; names left out).

  Raises:
    UserError: the adapter does not go with the bands or the encoder.
    weight_check.Misfit: the tensors do not fit.
  """
  _check_adapter(bands, adapter, encoder)
  tensors = weight_names.sort_out(tensors)
  fields = weight_names.network(tensors)
  module = DenseNet(**fields, input_adapter=adapter == "conv1x1") if encoder is None else encoder
  weight_check.check_fields("DenseNet", fields, module)
  variables = _adapt(_place(tensors, module, adapter), bands, adapter)
  return variables, module.clone(bn_epsilon=weight_names.BN_EPSILON[tensors.dialect]), tensors.ignored


def _check_adapter(bands, adapter, encoder):
  if adapter == "conv1x1" and (absent := [band for band in RGB if band not in bands]):
    raise UserError(f"adapter conv1x1 passes on red, green and blue, but the bands lack {absent}; take inflate")
  if encoder is not None and encoder.input_adapter != (adapter == "conv1x1"):
    raise UserError(
      f"adapter {adapter!r} (config.pretrained_adapter) does not go with config.model.encoder.input_adapter="
      f"{encoder.input_adapter}: that is True for conv1x1 and False for all others; change one of them"
    )


def _place(tensors: weight_names.Tensors, module: DenseNet, adapter: str) -> dict:
  """{"params", "batch_stats"} of `module`'s encoder for three bands, with every tensor in its place and shape."""
  names = weight_names.table(module.block_sizes, tensors.dialect)
  left_out = {name for name, place in names.items() if adapter == "scratch" and place[1] in _STEM}
  places = {name: place for name, place in names.items() if name not in left_out}
  expected, dialect = _shapes(module), tensors.dialect
  shapes = {name: weight_names.shape_in_file(expected[place], dialect) for name, place in places.items()}
  known = {name: array for name, array in tensors.known.items() if name not in left_out}
  variances = [name for name, place in places.items() if place[2] == "var" and name in known]
  negative = [tensors.called[name] for name in variances if (known[name] < 0).any()]
  others = {"given twice": tensors.twice, "with a negative variance": negative}
  options = {} if adapter == "scratch" else _stem_remedy(tensors)
  weight_check.check_tensors("DenseNet", shapes, known, others=others, called=tensors.called, **options)
  return traverse_util.unflatten_dict(
    {place: weight_names.from_file(known[name], expected[place], dialect) for name, place in places.items()}
  )


def _stem_remedy(tensors: weight_names.Tensors) -> dict[str, str]:
  """What to do about a stem that takes other bands than red, green and blue."""
  name = {"keras": "conv1_conv/kernel", "torch": "conv0.weight"}[tensors.dialect]
  shape = tensors.known[name].shape if name in tensors.known else ()
  bands = shape[{"keras": 2, "torch": 1}[tensors.dialect]] if len(shape) == 4 else 3
  if bands == 3:
    return {}
  return {"remedy": f"it has a stem of {bands} bands; config.pretrained_adapter=scratch leaves it out"}


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
  """[h, w, 3, C_out] for red, green and blue as [h, w, len(bands), C_out] for `bands`; see `fit`."""
  mean = kernel.mean(axis=2)
  planes = [kernel[:, :, RGB.index(band)] if band in RGB else mean for band in bands]
  return np.stack(planes, axis=2) * np.float32(3 / len(bands))


def _notes(module: DenseNet) -> dict[str, str]:
  shape = ("block_sizes", "growth_rate", "stem_features", "bottleneck")
  return {
    "network": ", ".join(["DenseNet", *(f"{field}={getattr(module, field)}" for field in shape)]),
    "bn_epsilon": f"{module.bn_epsilon:g} where the file comes from; the probe uses it, a run config.model.encoder's",
  }


FAMILY = Family(
  name="DenseNet",
  files="the weights of a DenseNet-121 from Keras, torchvision or timm",
  module=DenseNet,
  fields=lambda tensors: weight_names.network(weight_names.sort_out(tensors)),
  fit=fit,
  notes=_notes,
)
