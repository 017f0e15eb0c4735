"""Carries weights between this project's networks and Keras or torch ones, by name; and draws them.

Independent of `minec2f_jax.models.pretrained`, which it helps to test. A network here is flat:
{"params/encoder/stem_conv/kernel": array, "batch_stats/...": array}. `names` says what a module of ours is called
there: {"encoder/stem_conv": "conv1_conv"}; a module that it lacks has the same name with dots.
"""

import jax
import numpy as np
from flax import traverse_util

from tests.oracles import layers

_KERAS_NORM = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
_TORCH = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def flatten(tree) -> dict:
  """{"a/b/c": leaf} of a nested dict."""
  return traverse_util.flatten_dict(jax.tree.map(np.asarray, tree), sep="/")


def unflatten(flat) -> dict:
  return traverse_util.unflatten_dict(flat, sep="/")


def random_variables(module, *args, seed=0, **kwargs):
  """Variables of `module` in the range that training reaches; BN statistics are random too."""
  rng = np.random.default_rng(seed)
  shapes = traverse_util.flatten_dict(layers.init_shapes(module, *args, **kwargs), sep="/")
  draws = {
    "kernel": lambda shape: rng.normal(0, 1 / np.sqrt(np.prod(shape[:-1])), shape),
    "scale": lambda shape: rng.uniform(0.5, 1.5, shape),
    "bias": lambda shape: rng.normal(0, 0.2, shape),
    "mean": lambda shape: rng.normal(0, 0.3, shape),
    "var": lambda shape: rng.uniform(0.5, 2.0, shape),
  }
  flat = {path: draws[path.rpartition("/")[2]](leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
  return unflatten(flat)


def densenet_names(block_sizes) -> dict[str, tuple[str, str]]:
  """{our module: (name in keras.applications, name in torchvision)} of a DenseNet."""
  names = {"stem_conv": ("conv1_conv", "features.conv0"), "stem_norm": ("conv1_bn", "features.norm0")}
  for b, size in enumerate(block_sizes, start=1):
    for l in range(1, size + 1):
      keras, torch = f"conv{b + 1}_block{l}", f"features.denseblock{b}.denselayer{l}"
      for ours, theirs in {"norm1": "0_bn", "conv1": "1_conv", "norm2": "1_bn", "conv2": "2_conv"}.items():
        names[f"block{b}_layer{l}_{ours}"] = (f"{keras}_{theirs}", f"{torch}.{ours}")
    if b < len(block_sizes):
      for ours, theirs in {"norm": "bn", "conv": "conv"}.items():
        names[f"transition{b}_{ours}"] = (f"pool{b + 1}_{theirs}", f"features.transition{b}.{ours}")
  names["final_norm"] = ("bn", "features.norm5")
  return names


def keras_names(block_sizes, prefix="") -> dict[str, str]:
  return {prefix + ours: keras for ours, (keras, _) in densenet_names(block_sizes).items()}


def torch_names(block_sizes, prefix="") -> dict[str, str]:
  """`prefix` stands before both sides' names."""
  there = prefix.replace("/", ".")
  return {prefix + ours: there + torch for ours, (_, torch) in densenet_names(block_sizes).items()}


def fpn_names(decoder="", head="") -> dict[str, str]:
  """{our module: name in segmentation_models for Keras} of the FPN and its head, under the given prefixes."""
  names = {decoder + "top": "fpn_stage_p5_pre_conv", head.rstrip("/"): "head_conv"}
  for n in range(1, 5):
    names[f"{decoder}lateral_c{n}"] = f"fpn_stage_p{n + 1}_conv"
    for ours, theirs in (("1", "a"), ("2", "b")):
      names[f"{decoder}segment_c{n}_conv{ours}"] = f"segm_stage{n + 1}{theirs}_conv"
      names[f"{decoder}segment_c{n}_norm{ours}"] = f"segm_stage{n + 1}{theirs}_bn"
  return {**names, decoder + "final_conv": "final_stage_conv", decoder + "final_norm": "final_stage_bn"}


def unet_names(decoder="", head="") -> dict[str, str]:
  """{our module: name in segmentation_models for Keras} of the U-Net and its head, under the given prefixes."""
  names = {head.rstrip("/"): "final_conv"}
  for n in range(1, 6):
    for ours, theirs in (("1", "a"), ("2", "b")):
      names[f"{decoder}stage{n}_conv{ours}"] = f"decoder_stage{n - 1}{theirs}_conv"
      names[f"{decoder}stage{n}_norm{ours}"] = f"decoder_stage{n - 1}{theirs}_bn"
  return names


def keras_slots(model, variables, names) -> dict:
  """{our path: the Keras variable}; every one of both sides is met exactly once."""
  slots = {}
  for path in flatten(variables):
    module, leaf = _split(path)
    layer = model.get_layer(names[module])
    slots[path] = getattr(layer, _KERAS_NORM.get(leaf, leaf) if hasattr(layer, "moving_mean") else leaf)
  _check_complete({id(x) for x in slots.values()}, {id(x): x.path for x in model.variables}, len(slots))
  return slots


def to_keras(model, variables, names) -> dict:
  """Sets the model's weights; returns its `keras_slots`."""
  slots = keras_slots(model, variables, names)
  for path, value in flatten(variables).items():
    slots[path].assign(value.reshape(slots[path].shape))  # A 1x1 kernel here lacks the two unit axes.
  return slots


def to_torch(module, variables, names=None):
  """Sets the module's parameters and running statistics; returns the module."""
  import torch

  state = {name: x for name, x in module.state_dict().items() if not name.endswith("num_batches_tracked")}
  seen = set()
  for path, value in flatten(variables).items():
    name = torch_name(path, names)
    seen.add(name)
    state[name].copy_(torch.from_numpy(_to_torch_layout(value, state[name].ndim)))
  _check_complete(seen, {name: name for name in state}, len(flatten(variables)))
  return module


def torch_name(path, names=None) -> str:
  """The torch name of a leaf: "params/a/norm/scale" -> "a.norm.weight"."""
  module, leaf = _split(path)
  module = (names or {}).get(module, module.replace("/", "."))
  return f"{module}.{_TORCH[leaf]}".lstrip(".")


def from_torch_layout(value, like):
  """A torch kernel or vector in the layout of our leaf `like`."""
  value = value.detach().numpy()
  if value.ndim == 4:
    value = value.transpose(2, 3, 1, 0)
  elif value.ndim == 2:
    value = value.T
  return value.reshape(like.shape)


def _to_torch_layout(value, ndim):
  if value.ndim == 4:
    return np.ascontiguousarray(value.transpose(3, 2, 0, 1))
  if value.ndim == 2:
    return np.ascontiguousarray(value.T).reshape(value.shape[::-1] + (1,) * (ndim - 2))
  return value.copy()


def _split(path):
  """ "params/a/b/kernel" -> ("a/b", "kernel")."""
  module, _, leaf = path.partition("/")[2].rpartition("/")
  return module, leaf


def _check_complete(seen, expected: dict, count):
  missing = [name for key, name in expected.items() if key not in seen]
  if missing or count != len(expected):
    raise ValueError(f"{count} leaves for {len(expected)} weights there; not carried: {missing[:5]}.")
