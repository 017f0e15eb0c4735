"""What Keras and torchvision call the tensors of a DenseNet: the table of `models.densenet`, tensor by tensor."""

import re
from typing import NamedTuple

import numpy as np

# Kind of layer -> (collection and name here, Keras' name, torch's) of each tensor it holds.
_LEAVES = {
  "conv": ((("params", "kernel"), "kernel", "weight"),),
  "norm": (
    (("params", "scale"), "gamma", "weight"),
    (("params", "bias"), "beta", "bias"),
    (("batch_stats", "mean"), "moving_mean", "running_mean"),
    (("batch_stats", "var"), "moving_variance", "running_var"),
  ),
}
# One digit for the block: each doubles the image that the network's shapes are told from.
_LAYER = {
  "keras": re.compile(r"conv(\d)_block(\d{1,3})_[012]_(?:bn|conv)/"),
  "torch": re.compile(r"denseblock(\d)\.denselayer(\d{1,3})\.(?:norm|conv)[12]\."),
}
_POSITION = {"keras": (0, "/"), "torch": (1, ".")}  # Of a dialect in the tables here, and what it puts between names.
# What data parallelism, torch.compile, Lightning, segmentation_models_pytorch and torchvision put before a name.
_WRAPPERS = re.compile(r"((module|_orig_mod|model|encoder|features)\.)+")
_TORCH_OTHERS = ("classifier.", "decoder.", "segmentation_head.", "classification_head.")
BN_EPSILON = {"keras": 1.001e-5, "torch": 1e-5}


class Tensors(NamedTuple):
  """A weight file's tensors, sorted out by name."""

  dialect: str  # "keras" or "torch"
  known: dict[str, np.ndarray]  # by the names of `table`, as the file has them
  called: dict[str, str]  # name of `table` -> the file's
  ignored: tuple[str, ...]  # the file's names of what no encoder has: classifier, decoder, counters, an optimizer
  twice: tuple[str, ...]  # names of `table` that several tensors of the file have


def table(block_sizes, dialect: str) -> dict[str, tuple[str, str, str]]:
  """Name in a file of `dialect` -> (collection, module, name) here, for every tensor of a DenseNet."""
  names = {}
  position, separator = _POSITION[dialect]
  for kind, module, *elsewhere in _layers(block_sizes):
    for (collection, leaf), *leaves in _LEAVES[kind]:
      names[elsewhere[position] + separator + leaves[position]] = (collection, module, leaf)
  return names


def _layers(block_sizes):
  """(kind, name here, Keras' name, torchvision's) of each layer."""
  yield "conv", "stem_conv", "conv1_conv", "conv0"
  yield "norm", "stem_norm", "conv1_bn", "norm0"
  for b, size in enumerate(block_sizes, start=1):
    for l in range(1, size + 1):
      ours, keras, torch = f"block{b}_layer{l}", f"conv{b + 1}_block{l}", f"denseblock{b}.denselayer{l}"
      yield "norm", f"{ours}_norm1", f"{keras}_0_bn", f"{torch}.norm1"
      yield "conv", f"{ours}_conv1", f"{keras}_1_conv", f"{torch}.conv1"
      yield "norm", f"{ours}_norm2", f"{keras}_1_bn", f"{torch}.norm2"
      yield "conv", f"{ours}_conv2", f"{keras}_2_conv", f"{torch}.conv2"
    if b < len(block_sizes):
      yield "norm", f"transition{b}_norm", f"pool{b + 1}_bn", f"transition{b}.norm"
      yield "conv", f"transition{b}_conv", f"pool{b + 1}_conv", f"transition{b}.conv"
  yield "norm", "final_norm", "bn", "norm5"


def sort_out(tensors: dict[str, np.ndarray]) -> Tensors:
  """`tensors` of a file with either framework's names by those of `table`; what is not in a DenseNet keeps its own."""
  dialect = "keras" if any("/" in name for name in tensors) else "torch"
  rename, is_other = {"keras": (_keras_name, _keras_other), "torch": (_torch_name, _torch_other)}[dialect]
  known, called, ignored, twice = {}, {}, [], []
  for raw, array in tensors.items():
    name = rename(raw)
    if is_other(name):
      ignored.append(raw)
      continue
    if name in known:
      twice.append(name)
    known[name], called[name] = array, raw
  return Tensors(dialect, known, called, tuple(ignored), tuple(twice))


def shape_in_file(shape: tuple[int, ...], dialect: str) -> tuple[int, ...]:
  """The shape there of what has `shape` here: [height, width, C_in, C_out], and [C_in, C_out] if height = width = 1."""
  kernel = (1, 1, *shape) if len(shape) == 2 else shape
  return tuple(kernel[axis] for axis in (3, 2, 0, 1)) if dialect == "torch" and len(kernel) == 4 else kernel


def from_file(array: np.ndarray, shape: tuple[int, ...], dialect: str) -> np.ndarray:
  """An array of `shape_in_file(shape, dialect)` as one of `shape`."""
  return (array.transpose(2, 3, 1, 0) if dialect == "torch" and array.ndim == 4 else array).reshape(shape)


def _keras_name(raw: str) -> str:
  parts = raw.removesuffix(":0").split("/")
  if parts[0] in ("optimizer", "optimizer_weights"):
    return f"optimizer/{raw}"
  if parts[-3:-2] == ["conv1"]:  # The published files call the stem's layers conv1/conv and conv1/bn.
    parts[-2] = f"conv1_{parts[-2]}"
  return "/".join(parts[-2:])


def _keras_other(name: str) -> bool:
  return name.startswith(("predictions/", "fc1000/", "optimizer/"))


def _torch_name(raw: str) -> str:
  name = raw[match.end() :] if (match := _WRAPPERS.match(raw)) else raw
  return re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", name)  # So called in torchvision's published file.


def _torch_other(name: str) -> bool:
  return name.startswith(_TORCH_OTHERS) or name.endswith(".num_batches_tracked")


def network(tensors: Tensors) -> dict:
  """The fields of the `DenseNet` that a file holds, as far as its names and shapes tell; {} if it holds none."""
  block_sizes = _block_sizes(tensors)
  if not block_sizes or not _has_layers(block_sizes, tensors):
    return {}
  names = table(block_sizes, tensors.dialect)
  by_place = {place: tensors.known[name] for name, place in names.items() if name in tensors.known}
  out = {"keras": -1, "torch": 0}[tensors.dialect]
  widths = {
    field: by_place["params", module, "kernel"].shape[out]
    for field, module in (
      ("stem_features", "stem_conv"), ("growth_rate", "block1_layer1_conv2"), ("bottleneck", "block1_layer1_conv1")
    )
    if by_place.get(("params", module, "kernel"), np.empty(0)).ndim == 4
  }  # fmt: skip
  if "bottleneck" in widths:
    widths["bottleneck"] //= widths.get("growth_rate", 32) or 1
  return {"block_sizes": block_sizes, **widths}


def _block_sizes(tensors: Tensors) -> tuple[int, ...]:
  """The highest layer of each block, () if that makes no network."""
  sizes: dict[int, int] = {}
  offset = {"keras": 1, "torch": 0}[tensors.dialect]
  for name in tensors.known:
    if match := _LAYER[tensors.dialect].match(name):
      block, layer = int(match[1]) - offset, int(match[2])
      sizes[block] = max(sizes.get(block, 0), layer)
  if sorted(sizes) != list(range(1, len(sizes) + 1)) or 0 in sizes.values():
    return ()
  return tuple(sizes[block] for block in sorted(sizes))


def _has_layers(block_sizes, tensors: Tensors) -> bool:
  """Whether there is something of the stem, the last normalisation and every layer's first one.

  Keras' ResNets have a third of a DenseNet's names, of these the stem and the first normalisation of each block.
  """
  position, separator = _POSITION[tensors.dialect]
  held = {name.rpartition(separator)[0] for name in tensors.known}
  return all(
    elsewhere[position] in held
    for _, ours, *elsewhere in _layers(block_sizes)
    if ours in ("stem_conv", "final_norm") or ours.endswith("_norm1")
  )
