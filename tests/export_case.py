"""An export of a toy network with random weights, for tests: no run stands behind it."""

import pathlib

import jax
import numpy as np

from configs import fine_hybrid
from minec2f_jax import files
from minec2f_jax.experiment import exporter, stages
from minec2f_jax.export import weights
from minec2f_jax.methods import Variables
from tests import toy


def make_config():
  """The paper's run at toy size, in float32, of a named data set with a known pixel size."""
  config = toy.shrink(fine_hybrid.get_config())
  config.stages, config.model.dtype, config.data.gsd_m = ("coarse",), "float32", 10.0
  config.data.coarse.path = config.data.fine.path = "somewhere"
  return config


def make_model(config) -> exporter.Model:
  """The network of the last stage with random parameters and statistics."""
  wired, variables, rng = stages.wire(config), None, np.random.default_rng(0)

  def leaf(path, shape):
    spread = rng.normal(0, 0.2, shape.shape)
    return (np.exp(spread) if path[-1].key in ("var", "scale") else spread).astype(np.float32)

  for stage in config.stages:
    shapes = jax.eval_shape(wired[stage].method.init, jax.random.key(0), stages.example(config), variables)
    variables = Variables(*jax.tree_util.tree_map_with_path(leaf, shapes))
  return exporter.Model(stage, wired[stage], variables, "ab" * 32, "mines")


def write_export(folder: pathlib.Path, config, model: exporter.Model):
  """What `exporter.export` writes, but for card and item, without the gate."""
  program, sizes = exporter._program(config, model, ("cpu",))
  folder.mkdir(parents=True)
  (folder / "model.stablehlo").write_bytes(program)
  (folder / "model.safetensors").write_bytes(weights.to_bytes(model.variables))
  files.write_json(folder / "model.json", exporter._facts(config, folder, model, sizes))
  hashes = {path.name: files.sha256(path) for path in sorted(folder.iterdir())}
  files.write_json(folder / "report.json", {"files": hashes, "parity": {}, "versions": {}})
