"""What tests run on many devices, in processes of their own: python -m tests.device_runs compare | train FOLDER [...].

`compare` prints, as JSON, how far train steps on all devices differ from those on one. `train FOLDER PROCESS PROCESSES
PORT` trains the tiny stage, slowly, as one of so many processes; it can be interrupted.
"""

import json
import os
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from configs import fine_hybrid
from minec2f_jax import devices, experiment
from minec2f_jax.data import feed, resident
from minec2f_jax.training import interrupt, trainer
from minec2f_jax.training.state import init_state
from tests import toy

_BATCH_SIZE, _STEPS = 8, 3
_STEP_S = 0.05


def compare():
  """Steps from the same states: rounding must not add up, and AdamW's first steps follow its sign."""
  config = toy.simplify(toy.shrink(fine_hybrid.get_config()))
  config.data.batch_size = _BATCH_SIZE
  streamed, prior, found = toy.ArraySource(2 * _BATCH_SIZE), None, {}
  sources = {"coarse": streamed, "fine": resident.hold(streamed)}
  for name, wired in experiment.wire(config).items():
    stage = experiment.make_stage(config, name, wired, sources[name], sources[name])
    prior = trainer.start(stage._replace(mesh=devices.first_mesh()), jax.random.key(0), prior)
    found[name] = _differences(stage, prior)
  print(json.dumps(found))


def _differences(stage: trainer.Stage, variables) -> dict[str, float]:
  inputs = [jax.tree.map(lambda x: x[None], one) for _, one in zip(range(_STEPS), stage.feed.inputs(0))]
  state = jax.device_get(init_state(variables, stage.optimizer))
  meshes, found = (devices.first_mesh(), stage.mesh), {"devices": stage.mesh.size, "shards": _shards(stage, inputs[0])}
  runs = [_compiled(stage._replace(mesh=mesh), state, variables.frozen, inputs[0]) for mesh in meshes]
  for one in inputs:
    ends = [
      jax.device_get(run(devices.everywhere(state, mesh), devices.cut(one, mesh, axis=1)))
      for run, mesh in zip(runs, meshes)
    ]
    (state, metrics), (other, others) = ends
    _note(found, "gradient", metrics.pop("grad_norm"), others.pop("grad_norm"))
    _note(found, "losses", metrics, others)
    _note(found, "statistics", state.extra, other.extra)
  return found


def _compiled(stage: trainer.Stage, state, frozen, one):
  placed = devices.everywhere((state, frozen), stage.mesh)
  return trainer.compile_steps(stage, *placed, devices.cut(one, stage.mesh, axis=1), jax.random.key(1))


def _shards(stage: trainer.Stage, one) -> int:
  """Pieces that a batch lies in."""
  leaf = jax.tree.leaves(devices.cut(one, stage.mesh, axis=1))[0]
  return len({str(shard.index) for shard in leaf.addressable_shards})


def _note(found: dict, what: str, tree, other):
  far = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b)) / max(np.max(np.abs(a)), 1e-6)), tree, other)
  found[what] = max(found.get(what, 0.0), *jax.tree.leaves(far))


def train(folder: str, process: str, processes: str, port: str):
  """Trains the tiny stage; with one process of two devices it must come to the same bits as with two of one."""
  interrupt.install("run")
  if processes != "1":
    devices.join(f"localhost:{port}", int(processes), int(process))
  from tests.faults import tiny  # It makes an array, for which `join` would be too late.

  stage = tiny.make_stage(mesh=devices.make_mesh(2))
  parts = feed.make_feed({"coarse": toy.ArraySource(2 * tiny.STEPS, size=8)}, batch_size=2, seed=5, part=devices.part())
  stage = stage._replace(feed=parts._replace(inputs=lambda step: _slowly(parts.inputs(step))))
  try:
    variables = trainer.run_stage(stage, tiny.KEY, None, pathlib.Path(folder))
  except interrupt.Interrupted as error:
    devices.leave()
    os._exit(128 + error.signum)
  print("kernel", jnp.sum(variables.trainable["kernel"]))


def _slowly(inputs):
  for one in inputs:
    time.sleep(_STEP_S)
    yield one


if __name__ == "__main__":
  {"compare": compare, "train": train}[sys.argv[1]](*sys.argv[2:])
