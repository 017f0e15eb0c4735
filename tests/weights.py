"""Toy-size weight files of a DenseNet, laid out and named as other frameworks do it."""

import h5py
import numpy as np
from safetensors.numpy import save_file

from minec2f_jax.models import DenseNet
from tests import toy
from tests.oracles import layers

NET = DenseNet(**toy.ENCODER)
# Ours -> Keras', torch's.
LEAVES = {
  "kernel": ("kernel", "weight"),
  "scale": ("gamma", "weight"),
  "bias": ("beta", "bias"),
  "mean": ("moving_mean", "running_mean"),
  "var": ("moving_variance", "running_var"),
}
KERAS_3 = {"conv": ("conv2d", ("kernel",)), "norm": ("batch_normalization", ("scale", "bias", "mean", "var"))}


def random_encoder(net=NET, *, seed=0):
  """{"params", "batch_stats"} of a network for three bands, statistics random too."""
  return layers.random_variables(net, np.zeros((1, 32, 32, 3), np.float32), seed=seed, train=False)


def layer_names(block_sizes=NET.block_sizes) -> dict[str, tuple[str, str]]:
  """Ours -> keras.applications', torchvision's."""
  names = {"stem_conv": ("conv1_conv", "features.conv0"), "stem_norm": ("conv1_bn", "features.norm0")}
  for b, size in enumerate(block_sizes, start=1):
    for l in range(1, size + 1):
      for ours, keras in (("norm1", "0_bn"), ("conv1", "1_conv"), ("norm2", "1_bn"), ("conv2", "2_conv")):
        names[f"block{b}_layer{l}_{ours}"] = (
          f"conv{b + 1}_block{l}_{keras}",
          f"features.denseblock{b}.denselayer{l}.{ours}",
        )
  for t in range(1, len(block_sizes)):
    for ours, keras in (("norm", "bn"), ("conv", "conv")):
      names[f"transition{t}_{ours}"] = (f"pool{t + 1}_{keras}", f"features.transition{t}.{ours}")
  return {**names, "final_norm": ("bn", "features.norm5")}


def torch_tensors(variables) -> dict[str, np.ndarray]:
  """A state dict as torchvision's: [C_out, C_in, h, w], a classifier, counters."""
  tensors = {"classifier.weight": np.zeros((10, 4), np.float32), "classifier.bias": np.zeros(10, np.float32)}
  for module, (_, name) in layer_names().items():
    for leaf, array in _leaves(variables, module).items():
      tensors[f"{name}.{LEAVES[leaf][1]}"] = (
        np.ascontiguousarray(array.transpose(3, 2, 0, 1)) if array.ndim == 4 else array
      )
    if "norm" in module:
      tensors[f"{name}.num_batches_tracked"] = np.array(7)
  return tensors


def _leaves(variables, module) -> dict[str, np.ndarray]:
  """The arrays of a module, a matrix as the 1x1 convolution that it is elsewhere."""
  leaves = {**variables["params"][module], **variables["batch_stats"].get(module, {})}
  return {name: np.asarray(x)[None, None] if x.ndim == 2 else np.asarray(x) for name, x in leaves.items()}


def resnet50_names() -> list[str]:
  """What keras.applications' ResNet50 calls its tensors in HDF5."""
  layers = {"conv1_conv": "conv", "conv1_bn": "bn"}
  for stack, size in enumerate((3, 4, 6, 3), start=2):
    for block in range(1, size + 1):
      for n in range(0 if block == 1 else 1, 4):
        layers |= {f"conv{stack}_block{block}_{n}_{kind}": kind for kind in ("conv", "bn")}
  leaves = {"conv": ("kernel", "bias"), "bn": ("gamma", "beta", "moving_mean", "moving_variance")}
  names = [f"{layer}/{layer}/{leaf}" for layer, kind in layers.items() for leaf in leaves[kind]]
  return [*names, "predictions/predictions/kernel", "predictions/predictions/bias"]


def write_safetensors(path, variables):
  save_file(torch_tensors(variables), path)


def write_keras(path, variables, *, published=False):
  """The layout of tf.keras' `save_weights("NAME.h5")`; `published`: the older names of the files on the web."""
  with h5py.File(path, "w") as file:
    for module, (layer, _) in layer_names().items():
      if published:
        layer = layer.replace("conv1_conv", "conv1/conv").replace("conv1_bn", "conv1/bn")
      group, names = file.create_group(layer), []
      for leaf, array in _leaves(variables, module).items():
        names.append(f"{layer}/{LEAVES[leaf][0]}:0")
        group[names[-1]] = array
      group.attrs["weight_names"] = np.array(names, "S")
    file["fc1000/fc1000/kernel:0"] = np.zeros((4, 10), np.float32)


def write_keras_3(path, variables, *, named=True):
  """The layout of Keras 3's `save_weights("NAME.weights.h5")`."""
  counts = {"conv": 0, "norm": 0}
  with h5py.File(path, "w") as file:
    for module, (layer, _) in layer_names().items():
      kind = "norm" if "norm" in module else "conv"
      group, order = KERAS_3[kind]
      group += f"_{counts[kind]}" if counts[kind] else ""
      counts[kind] += 1
      held = file.create_group(f"layers/{group}/vars")
      if named:
        held.attrs["name"] = layer
      for index, leaf in enumerate(order):
        held[str(index)] = _leaves(variables, module)[leaf]
    file["optimizer/vars/0"] = np.array(3)
