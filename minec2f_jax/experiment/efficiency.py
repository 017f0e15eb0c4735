"""What inference of a config's networks costs on the machine at hand: size, operations, time, memory (Table 12).

efficiency.json:
{"version": 1, "image_size", "bands", "model" (config.model), "environment" (see `record.environment`), "warm_up",
 "device_peak_bytes" (null where the device does not tell),
 "networks": [{"stage", "name", "method", "macs" (of one image), "xla_flops" or null,
               "numbers": {"trainable", "own" (with BN statistics), "with_teacher", "read" (by inference)}}],
 "timings": [{"stage", "batch", "seconds": [of each round], "memory_bytes" (planned) or null}]}
Networks stand in the order of the stages, which "timings" of a batch size keep; rounds are the same for all of them.
"""

import json
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from minec2f_jax import console, files
from minec2f_jax.evaluation import efficiency as tables
from minec2f_jax.experiment import estimates, record
from minec2f_jax.experiment.checks import check_fields, check_networks
from minec2f_jax.experiment.stages import example, programs_of, wire
from minec2f_jax.methods import Method, Variables
from minec2f_jax.models import factory
from minec2f_jax.programs import Programs

VERSION = 1
BATCHES = (1, 8)
BUDGET_S = 60.0  # Of one batch size, all networks together.
ROUNDS = (11, 201)  # At least, at most.
WARM_UP = 3  # Calls of each network before the clock counts.


class Network(NamedTuple):
  """A network for inference.

  Attributes:
    stage: whose.
    name: what tables call it.
    method: as config.STAGE.method has it.
    logits: `Method.logits`.
    variables: random ones.
  """

  stage: str
  name: str
  method: str
  logits: Callable
  variables: Variables


def run_efficiency(config, workdir, *, cache=None):
  """Measures inference of the networks of all stages, and writes efficiency.{json,md,csv,tex} into `workdir`.

  Needs neither data nor trained weights. Beside a training run it would measure that too, so it refuses a workdir in
  which one is at work.

  Args:
    config: the experiment; of its data, size and bands count.
    workdir: folder for the files.
    cache: as of `run.train`.

  Raises:
    UserError: the config is faulty, or `workdir` cannot be written or is held.
  """
  check_fields(config)
  workdir = pathlib.Path(workdir)
  with files.held(workdir, "--workdir"):
    found = measure(config, programs_of(config, cache))
    files.write_json(workdir / "efficiency.json", found)
    for name, text in tables.texts(found).items():
      files.write_text(workdir / name, text)
  console.say(
    f"\n{(workdir / 'efficiency.md').read_text()}\nThe tables (md, csv, tex) and their numbers are in {workdir}"
  )


def measure(config, programs: Programs) -> dict:
  """The content of efficiency.json."""
  check_networks(config, programs)
  networks = make_networks(config, programs)
  return {
    "version": VERSION,
    "image_size": config.data.image_size,
    "bands": list(config.data.bands),
    "model": json.loads(config.model.to_json_best_effort()),
    "environment": record.environment(config),
    "warm_up": WARM_UP,
    "networks": [
      {"stage": network.stage, "name": network.name, "method": network.method, **count(network, example(config))}
      for network in networks
    ],
    "timings": [entry for batch in BATCHES for entry in _timings(networks, example(config).shape[1:], batch)],
    "device_peak_bytes": (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
  }


def make_networks(config, programs: Programs) -> list[Network]:
  """The networks of all stages with random weights, on the first device."""
  networks, prior, architecture = [], None, config.model.get("architecture", factory.DEFAULT)
  for stage, wired in wire(config, programs=programs).items():
    prior = _random_weights(wired.method, config, prior, programs.within(stage))
    name = tables.network_name(architecture, config[stage].method)
    networks.append(Network(stage, name, config[stage].method, wired.method.logits, prior))
  return networks


def _random_weights(method: Method, config, prior: Variables | None, programs: Programs) -> Variables:
  image = example(config)
  # As in `trainer.start`: what runs once is not worth compiling with care.
  options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
  start = programs.wrap("random weights", lambda *given: tuple(method.init(*given)), compiler_options=options)
  return Variables(*start(jax.random.key(config.seed), jnp.zeros(image.shape, image.dtype), prior))


def count(network: Network, image: jax.ShapeDtypeStruct) -> dict:
  """Numbers that a network holds and reads, and operations of inference, exactly as its layers' shapes have them.

  Args:
    network: arrays or their shapes as variables.
    image: [1, H, W, C].

  Returns:
    "numbers", "macs" and "xla_flops" as in efficiency.json.
  """
  traced = jax.jit(network.logits).trace(*network.variables, image)
  jaxpr, read = needed(traced.jaxpr.jaxpr)
  size = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
  leaves = jax.tree.leaves(network.variables)
  own = size(network.variables.trainable) + size(network.variables.extra)
  return {
    "numbers": {
      "trainable": size(network.variables.trainable),
      "own": own,
      "with_teacher": own + size(network.variables.frozen),
      "read": size([leaf for leaf, is_read in zip(leaves, read[:-1], strict=True) if is_read]),
    },
    "macs": int(estimates.count_work(jaxpr).flops) // 2,
    "xla_flops": _xla_flops(traced),
  }


def _xla_flops(traced) -> float | None:
  return (traced.lower().cost_analysis() or {}).get("flops")


def needed(jaxpr: core.Jaxpr) -> tuple[core.Jaxpr, list[bool]]:
  """`jaxpr` without the lines that no result needs, and which of its arguments the others read.

  XLA leaves the same lines out: of a teacher, decoder and head.
  """
  variables = lambda found: {var for var in found if not isinstance(var, core.Literal)}
  wanted, lines = variables(jaxpr.outvars), []
  for line in reversed(jaxpr.eqns):
    if wanted.intersection(line.outvars):
      lines.append(line)
      wanted |= variables(line.invars)
  return jaxpr.replace(eqns=lines[::-1]), [var in wanted for var in jaxpr.invars]


def _timings(networks: Sequence[Network], image_shape: tuple[int, ...], batch: int) -> list[dict]:
  """The entries of "timings" at one batch size."""
  image = jnp.asarray(np.random.default_rng(0).normal(size=(batch, *image_shape)), jnp.float32)
  calls, memory = [], []
  for network in networks:
    began = time.perf_counter()
    compiled = jax.jit(network.logits).lower(*network.variables, image).compile()
    console.say(f"[{network.name}, batch {batch}] compiled in {console.duration(time.perf_counter() - began)}")
    calls.append(lambda network=network, compiled=compiled: compiled(*network.variables, image))
    memory.append(_planned_bytes(compiled))
  seconds = take_turns(calls, title=f"batch {batch}")
  return [
    {"stage": network.stage, "batch": batch, "seconds": found, "memory_bytes": planned}
    for network, found, planned in zip(networks, seconds, memory)
  ]


def _planned_bytes(compiled) -> int | None:
  plan = compiled.memory_analysis()
  return plan and plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes


def take_turns(calls: Sequence[Callable], *, title: str) -> list[list[float]]:
  """Seconds of every call of each function, until its result is there; all have equally many.

  In every other round the order is reversed, so that none always comes after the same.

  Args:
    calls: functions without arguments, that return arrays.
    title: of the lines on the console.
  """
  warm_up = [[_seconds(call) for _ in range(WARM_UP)] for call in calls]
  least, most = ROUNDS
  rounds = min(most, max(least, int(BUDGET_S / sum(map(min, warm_up)))))
  found = [[] for _ in calls]
  for number in console.track(range(rounds), total=rounds, unit="rounds", title=title):
    places = range(len(calls))
    for place in places if number % 2 == 0 else reversed(places):
      found[place].append(_seconds(calls[place]))
  return found


def _seconds(call: Callable) -> float:
  began = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - began
