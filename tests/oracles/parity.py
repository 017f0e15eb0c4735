"""Two implementations with the same random weights and statistics, run and compared: one `Row` a comparison.

Outputs and statistics are compared in float32. Gradients are compared in float64: a value that rounding puts on the
other side of a ReLU's 0 changes the gradient by a step, and that takes float32 gradients of single tensors of
DenseNet-121 percents away from float64 ones, in torch as here (with SiLU for ReLU it is a relative 1e-5).
"""

import copy
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tests.oracles import carry, layers

TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Row:
  """The largest difference over several arrays, and that in relation to the largest value of the same array."""

  what: str
  against: str
  size: str
  max_abs: float
  max_rel: float
  tolerance: float
  worst: str  # the array with the largest relative difference
  note: str = ""

  @property
  def ok(self) -> bool:
    return math.isfinite(self.max_rel) and self.max_rel <= self.tolerance


def row(what, against, size, ours: dict, theirs: dict, tolerance=TOLERANCE, *, floor=0.0, note="") -> Row:
  """Compares two dicts of arrays with the same keys; a NaN or an infinity, on either side, is infinitely far away.

  Args:
    floor: a difference is related to at least this (for arrays that are 0 but for rounding).
  """
  if ours.keys() != theirs.keys():
    raise ValueError(f"{what}: unlike names {sorted(ours.keys() ^ theirs.keys())[:5]}.")
  largest, relative = {}, {}
  for name, value in ours.items():
    value, other = np.asarray(value, np.float64), np.asarray(theirs[name], np.float64)
    if value.shape != other.shape:
      raise ValueError(f"{what}: {name} is {value.shape} here and {other.shape} there.")
    with np.errstate(invalid="ignore"):
      largest[name] = _or_infinite(np.abs(value - other).max())
      relative[name] = _or_infinite(largest[name] / max(np.abs(other).max(), floor, np.finfo(np.float32).tiny))
  worst = max(relative, key=relative.get)
  return Row(what, against, size, max(largest.values()), relative[worst], tolerance, worst, note)


def gradient_row(what, against, size, ours, theirs, tolerance=TOLERANCE, note="") -> Row:
  # A bias in front of a BN on the batch has gradient 0, and both sides have rounding there.
  floor = 1e-6 * max(np.abs(x).max() for x in theirs.values())
  return row(what, against, size, ours, theirs, tolerance, floor=floor, note=note)


def worst(rows, size) -> Row:
  """Several rows of one kind as one."""
  top = max(rows, key=lambda row: _or_infinite(row.max_rel))
  return dataclasses.replace(top, size=size, max_abs=max(_or_infinite(row.max_abs) for row in rows))


def _or_infinite(x) -> float:
  # Python's max skips a NaN that does not come first.
  return float(x) if np.isfinite(x) else math.inf


def size_of(image) -> str:
  return "x".join(str(n) for n in image.shape[:3])


def flat_outputs(outputs) -> dict:
  """{"c1", ..., "decoder", "logits"} of a network's outputs."""
  if not isinstance(outputs, dict):
    return {"output": outputs}
  outputs = dict(outputs)
  return {**outputs.pop("features", {}), **outputs}


def mean_square(outputs: dict):
  """The loss of the training rows: the sum over the outputs of each one's mean of squares."""
  return sum((x**2).mean() for x in outputs.values())


def step(net, variables, args):
  """A forward and backward pass of ours in training mode: (outputs, flat gradients, flat new statistics)."""

  def objective(params, args):
    outputs, updates = net.apply({**variables, "params": params}, *args, train=True, mutable=["batch_stats"])
    outputs = flat_outputs(outputs)
    return mean_square(outputs), (outputs, updates)

  grads, (outputs, updates) = jax.jit(jax.grad(objective, has_aux=True))(variables["params"], args)
  return outputs, carry.flatten({"params": grads}), carry.flatten(dict(updates))


def step_in_float64(net, variables, args):
  with jax.enable_x64(True):
    variables, args = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (variables, args))
    return step(in_float64(net), variables, args)


def in_float64(net):
  """The module with all its parts computing in float64 (the head's sums stay float32)."""
  values = {field.name: getattr(net, field.name) for field in dataclasses.fields(net)}
  changes = {
    name: in_float64(part) for name, part in values.items() if name != "parent" and isinstance(part, nn.Module)
  }
  return net.clone(**changes, **({"dtype": jnp.float64} if "dtype" in values else {}))


def keras_training(what, net, variables, image, make, names, keys) -> list[Row]:
  """Outputs and moved statistics (float32) and gradients (float64) of a training step beside a Keras model's."""
  from tests.oracles import keras_models

  loss = lambda outputs: mean_square(dict(zip(keys, outputs)))
  size = size_of(image)

  def run(model, image):
    slots = carry.to_keras(model, variables, names)
    outputs, grads, stats = keras_models.train(model, image, loss)
    return dict(zip(keys, outputs)), slots, grads, stats

  outputs, _, stats = step(net, variables, (image,))
  expected, slots, _, moved = run(make(), image)
  rows = [
    row(f"{what}, training: outputs", "keras", size, outputs, expected),
    # No correction: on its JAX backend, Keras' moving variance is the biased one, as flax's.
    row(f"{what}, training: statistics", "keras", size, stats, {path: moved[id(slots[path])] for path in stats}),
  ]
  _, grads, _ = step_in_float64(net, variables, (image,))
  with keras_models.in_float64():
    _, slots, by_id, _ = run(make(), image.astype(np.float64))
  expected = {path: by_id[id(slots[path])].reshape(g.shape) for path, g in grads.items()}
  return rows + [gradient_row(f"{what}, training: gradients, float64", "keras", size, grads, expected)]


def torch_training(what, net, variables, args, theirs, names=None, *, noise=False) -> list[Row]:
  """As `keras_training` beside a torch module that holds the weights already.

  Args:
    args: of both, in our layout.
    noise: add a row for the float32 gradients, held against float64.
  """
  import torch

  size = size_of(args[0])
  outputs, noisy, stats = step(net, variables, args)
  expected, noisy_there, moved = _torch_step(theirs, args, torch.float32, noisy, stats, variables, names)
  rows = [row(f"{what}, training: outputs", "torch", size, outputs, expected)]
  if stats:
    rows.append(row(f"{what}, training: statistics", "torch", size, stats, moved))
  _, grads, _ = step_in_float64(net, variables, args)
  _, exact, _ = _torch_step(theirs, args, torch.float64, grads, {}, variables, names)
  rows.append(gradient_row(f"{what}, training: gradients, float64", "torch", size, grads, exact))
  if noise:
    there = gradient_row("", "", "", noisy_there, exact).max_rel
    note = f"gradients step where a ReLU's input is 0; torch's own float32 is {there:.1e} away; tolerance: 3 times that"
    name = f"{what}, training: gradients, float32"
    rows.append(gradient_row(name, "torch, float64", size, noisy, exact, max(TOLERANCE, 3 * there), note))
  return rows


def run_torch(module, *args):
  """The module's outputs at inference as arrays; layouts are ours."""
  import torch

  with torch.no_grad():
    return jax.tree.map(_as_array, module.eval()(*jax.tree.map(_as_tensor, args)), is_leaf=torch.is_tensor)


def _torch_step(module, args, dtype, grads, stats, variables, names):
  """(outputs, gradients, moved statistics) of a copy of `module`, named and shaped as ours."""

  module = copy.deepcopy(module).to(dtype).train()
  counts = _count_values(module)
  outputs = flat_outputs(module(*jax.tree.map(lambda x: _as_tensor(x).to(dtype), args)))
  mean_square(outputs).backward()
  parameters, state = dict(module.named_parameters()), module.state_dict()
  there = {path: parameters[carry.torch_name(path, names)].grad for path in grads}
  moved, old = {}, carry.flatten(variables)
  for path in stats:
    name = carry.torch_name(path, names)
    moved[path] = state[name].numpy()
    if path.endswith("/var"):  # torch takes in the unbiased variance, n / (n - 1) times the biased one.
      kept, n = (1 - module_momentum(module)) * old[path], counts[name.rpartition(".")[0]]
      moved[path] = kept + (moved[path] - kept) * (n - 1) / n
  return (
    {name: _as_array(x) for name, x in outputs.items()},
    {path: carry.from_torch_layout(g, grads[path]) for path, g in there.items()},
    moved,
  )


def module_momentum(module) -> float:
  """The one momentum of all BNs."""
  import torch

  (momentum,) = {part.momentum for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)}
  return momentum


def _count_values(module) -> dict:
  """{name of a BN: over how many values its statistics are taken}, filled by the next forward pass."""
  import torch

  counts = {}

  def watch(name):
    def hook(_, inputs):
      counts[name] = inputs[0].numel() // inputs[0].shape[1]

    return hook

  for name, part in module.named_modules():
    if isinstance(part, torch.nn.BatchNorm2d):
      part.register_forward_pre_hook(watch(name))
  return counts


def _as_tensor(x):
  import torch

  return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def _as_array(x):
  return np.moveaxis(x.detach().numpy(), 1, -1)


def apply(net, variables, *args, **kwargs) -> dict:
  return flat_outputs(layers.apply(net, variables, *args, **kwargs))
