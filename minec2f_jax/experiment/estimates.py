"""What a run will take, judged before it starts: operations, memory, disk and time.

Nothing is compiled: the training step is traced, and its lines are gone through as if they ran one by one. Time is
their operations and bytes over two rates of the machine, which are measured in a second.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from minec2f_jax.experiment.data import trained
from minec2f_jax.experiment.stages import batch_like, example, make_stage, wire
from minec2f_jax.training import trainer
from minec2f_jax.training.state import init_state
from minec2f_jax.training.step import make_train_steps

COPIES = 4  # Checkpoints of a stage at once: the two latest, the best, and one that is being written.
# Share of the two rates that whole steps reach: 0.6 to 0.8, measured with teacher and student, the demo's networks and
# those of full size (a step of 0.15 to 5.4 s), on two CPU cores. Not compared on a GPU yet.
EFFICIENCY = 0.7
_MEASURED_S = 0.5  # Each of the two rates.


class Work(NamedTuple):
  """Operations of matrix products and convolutions, a multiplication and an addition being two; and memory traffic."""

  flops: float
  bytes: float

  def times(self, factor: float) -> "Work":
    """So many times this."""
    return Work(factor * self.flops, factor * self.bytes)


class Cost(NamedTuple):
  """What one stage takes."""

  epochs: int  # at most: early stopping may come before
  steps_per_epoch: int
  step: Work
  validation: Work  # after each epoch, at a third of a training step's work an image
  state_bytes: int  # what the optimizer moves and carries along
  frozen_bytes: int  # a teacher
  temporary_bytes: int  # in use at once during a step, besides these

  @property
  def disk_bytes(self) -> int:
    """What its checkpoints take at most."""
    return COPIES * self.state_bytes + self.frozen_bytes


def stage_costs(config, counts: Mapping[tuple[str, str], int]) -> dict[str, Cost]:
  """The cost of every stage that is to be trained.

  Args:
    config: that has passed the check.
    counts: (domain, split) -> images; a split that is not there counts as one batch.
  """
  costs, prior = {}, None
  for name, wired in wire(config).items():
    variables = jax.eval_shape(wired.method.init, jax.random.key(0), example(config), prior)
    if name in trained(config):
      count = lambda *place: counts.get(place, config.data.batch_size)
      train = {stream: _Unread(count(stream, "train")) for stream in config[name].streams}
      validation_images = count(config[name].validation, "validation")
      stage = make_stage(config, name, wired, train, _Unread(validation_images))
      costs[name] = _stage_cost(config, stage, variables, validation_images=validation_images)
    prior = variables
  return costs


class _Unread:
  """As long as a source; nothing of it is read here."""

  def __init__(self, count: int):
    self.ids = ("",) * count

  def __len__(self) -> int:
    return len(self.ids)


def _stage_cost(config, stage: trainer.Stage, variables, *, validation_images: int) -> Cost:
  state = jax.eval_shape(lambda start: init_state(start, stage.optimizer), variables)
  run = make_train_steps(stage.method.loss, stage.optimizer, stage.prepare, stage.feed.take)
  inputs = batch_like(config[stage.name], _one_step(config))
  traced = run.trace(state, variables.frozen, (), inputs, jax.random.key(0))
  step = count_work(traced.jaxpr.jaxpr)
  return Cost(
    epochs=stage.epochs,
    steps_per_epoch=stage.steps_per_epoch,
    step=step,
    validation=step.times(validation_images / stage.batch_size / 3),
    state_bytes=tree_bytes(state),
    frozen_bytes=tree_bytes(variables.frozen),
    temporary_bytes=peak_bytes(traced.jaxpr.jaxpr),
  )


def _one_step(config):
  """The shapes of one batch, behind the axis of steps."""
  size, bands = config.data.image_size, len(config.data.bands)
  pixels = (1, config.data.batch_size, size, size)
  return {
    "image": jax.ShapeDtypeStruct((*pixels, bands), np.float32),
    "label": jax.ShapeDtypeStruct(pixels, np.uint8),
    "valid": jax.ShapeDtypeStruct(pixels, bool),
  }


def tree_bytes(tree) -> int:
  """Memory of all arrays in `tree`."""
  return sum(map(_bytes, jax.tree.leaves(tree)))


def count_work(jaxpr) -> Work:
  """The work of `jaxpr`: what each line computes, and all that it reads and writes.

  Of branches the one with most operations counts, of a loop without a known number of turns one turn. XLA's own count
  (`cost_analysis`) takes one turn of every loop, and misses a quarter of a training step on a CPU by that.
  """
  total = Work(0.0, 0.0)
  for line in jaxpr.eqns:
    inner = [count_work(called) for called in _inner(line)]
    if line.primitive.name == "cond":
      inner = [max(inner)]
    elif not inner:
      inner = [Work(_flops(line), sum(_bytes(var.aval) for var in (*line.invars, *line.outvars)))]
    turns = line.params["length"] if line.primitive.name == "scan" else 1
    total = Work(*(before + turns * sum(new) for before, new in zip(total, zip(*inner))))
  return total


def _flops(line) -> float:
  """Of a matrix product or a convolution; 0 of anything else, whose time is that of its memory."""
  if line.primitive.name == "dot_general":
    contracted = line.params["dimension_numbers"][0][0]
    terms = math.prod(line.invars[0].aval.shape[axis] for axis in contracted)
  elif line.primitive.name == "conv_general_dilated":
    kernel = line.invars[1].aval.shape
    features = kernel[line.params["dimension_numbers"].rhs_spec[0]]
    terms = math.prod(kernel) / features / math.prod(line.params["lhs_dilation"])  # Without the zeros in between.
  else:
    return 0.0
  return 2.0 * math.prod(line.outvars[0].aval.shape) * terms


def peak_bytes(jaxpr) -> int:
  """Memory in use at once, besides the arguments, if `jaxpr` ran line by line and let go of what no later line reads.

  XLA orders lines otherwise and fuses some. Compared with `compiled.memory_analysis()` of training steps on a CPU,
  teacher and student: 1.02 and 1.01 of what it takes at full size and batch 4, 1.09 and 1.19 for the demo's networks.
  """
  last = {var: i for i, line in enumerate(jaxpr.eqns) for var in line.invars if not _is_literal(var)}
  last |= {var: len(jaxpr.eqns) for var in jaxpr.outvars if not _is_literal(var)}
  used, most, held = 0, 0, {}
  for i, line in enumerate(jaxpr.eqns):
    most = max(most, used + max(map(peak_bytes, _inner(line)), default=0))
    held |= {var: _bytes(var.aval) for var in line.outvars}
    used += sum(_bytes(var.aval) for var in line.outvars)
    most = max(most, used)
    for var in {var for var in (*line.invars, *line.outvars) if not _is_literal(var)}:
      if last.get(var, i) <= i:
        used -= held.pop(var, 0)
  return most


def _inner(line):
  """The jaxprs that a line calls: loops, branches, functions with their own derivative."""
  for value in line.params.values():
    for one in value if isinstance(value, tuple | list) else (value,):
      inner = getattr(one, "jaxpr", one)
      if hasattr(inner, "eqns"):
        yield inner


def _is_literal(var) -> bool:
  return hasattr(var, "val")


def _bytes(leaf) -> int:
  """Memory of an array or of its type; 0 of what has none (a token), 8 of a random key."""
  dtype = getattr(leaf, "dtype", None)
  return 0 if dtype is None else math.prod(leaf.shape) * getattr(dtype, "itemsize", 8)


def measure_speed(dtype: str) -> Work:
  """Operations a second of a large matrix product in `dtype`, and bytes a second of a pass over fresh numbers."""
  on_cpu = jax.default_backend() == "cpu"
  side, length = (1024, 2**26) if on_cpu else (8192, 2**29)  # The second in bytes, beyond any cache.
  product = jax.jit(lambda a: a @ a)
  per_s = _rate(product, jnp.full((side, side), 1 / side, dtype))  # Its own square.
  passes = _rate(jax.jit(lambda a: a + 1, donate_argnums=0), jnp.ones(length // 4, np.float32))
  return Work(2.0 * side**3 * per_s, 2.0 * length * passes)


def _rate(function: Callable, array: jax.Array) -> float:
  """How often a second `function` runs, fed with its own result."""
  array, count = jax.block_until_ready(function(array)), 0
  began = time.monotonic()
  while (busy_s := time.monotonic() - began) < _MEASURED_S:
    array, count = jax.block_until_ready(function(array)), count + 1
  return count / busy_s


def seconds(work: Work, speed: Work, *, devices: int = 1) -> float:
  """About how long `work` takes: its operations and its traffic one after the other, at `EFFICIENCY`."""
  return (work.flops / speed.flops + work.bytes / speed.bytes) / EFFICIENCY / devices
