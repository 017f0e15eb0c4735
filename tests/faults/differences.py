"""Restores a saved stage into states and configs that differ from it in one thing each, and counts the refusals."""

import contextlib
import copy
import functools
import json
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from ml_collections import ConfigDict

from configs import fine_hybrid
from minec2f_jax import experiment
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import stages
from minec2f_jax.methods import Variables
from minec2f_jax.training import checkpoints, optimizers, state
from tests import toy
from tests.faults import stage

_DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int32, np.uint32, np.bool_)
_TREES = ("trainable", "extra", "frozen")


def restore_states(folder) -> dict:
  """What restoring does into states that differ from the saved one in one array.

  Args:
    folder: an empty folder; a small stage is saved in it.

  Returns:
    "tree", "shape", "dtype": how many of each difference; "wrong": a text for each that was not refused in one line
    with the name of the array (and, on the other hand, if what does not differ was refused).
  """
  folder, counts, wrong = pathlib.Path(folder), {"tree": 0, "shape": 0, "dtype": 0}, []
  stage.save(folder, [0.1])
  with contextlib.closing(checkpoints.Checkpoints(folder, read_only=True)) as saver:
    same = saver.restore_latest(stage.state_at(0)), saver.restore_variables(stage.variables())
    if not (stage.is_step(same[0], 1) and stage.same(same[1].trainable, stage.variables(1).trainable)):
      wrong.append("what does not differ was not restored")
    for kind, name, template in _changed_states():
      counts[kind] += 1
      wrong += _refused(functools.partial(saver.restore_latest, template), name, f"{kind} of {name} in a state")
    for kind, name, template in _changed_variables():
      counts[kind] += 1
      wrong += _refused(functools.partial(saver.restore_variables, template), name, f"{kind} of {name} in a model")
  return {**counts, "wrong": wrong}


def _refused(call, name: str, what: str) -> list[str]:
  try:
    call()
  except UserError as error:
    text = str(error)
    return [] if name in text and "\n" not in text else [f"{what} was not refused by name: {text}"]
  except Exception as error:  # What a user would see as a traceback.
    return [f"{what} ended in a traceback: {type(error).__name__}: {error}"]
  return [f"{what} was taken without a word"]


def _changed_states() -> Iterator[tuple[str, str, state.TrainState]]:
  """(kind, name of the array, state) of every array of the small stage's state, changed in every way."""
  template = stage.state_at(0)
  leaves, tree = jax.tree.flatten_with_path(template)
  for place, (path, leaf) in enumerate(leaves):
    name = repr("/".join(_key(key) for key in (path if len(path) == 1 else path[1:])))
    for kind, changed in _changed_leaves(leaf):
      others = [leaf for _, leaf in leaves]
      yield kind, name, jax.tree.unflatten(tree, [*others[:place], changed, *others[place + 1 :]])
  for field in ("trainable", "extra"):
    for name, changed in _changed_trees(getattr(template, field)):
      yield "tree", name, template._replace(**{field: changed})


def _changed_variables() -> Iterator[tuple[str, str, Variables]]:
  """As `_changed_states`, of the model that an evaluation or a student asks for."""
  template = stage.variables()
  for field in _TREES:
    leaves, tree = jax.tree.flatten_with_path(getattr(template, field))
    for place, (path, leaf) in enumerate(leaves):
      for kind, changed in _changed_leaves(leaf):
        others = [leaf for _, leaf in leaves]
        changed = jax.tree.unflatten(tree, [*others[:place], changed, *others[place + 1 :]])
        yield kind, repr("/".join(map(_key, path))), template._replace(**{field: changed})
    for name, changed in _changed_trees(getattr(template, field)):
      yield "tree", name, template._replace(**{field: changed})


def _key(key) -> str:
  return str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))


def _changed_leaves(leaf) -> Iterator[tuple[str, np.ndarray]]:
  array = np.asarray(leaf)
  yield from (("dtype", array.astype(dtype)) for dtype in _DTYPES if dtype != array.dtype)
  shapes = {(*array.shape, 1), (1, *array.shape), array.shape[::-1], array.shape[:-1]}
  shapes |= {(*array.shape[:-1], array.shape[-1] + 1)} if array.shape else set()
  yield from (("shape", np.zeros(shape, array.dtype)) for shape in sorted(shapes - {array.shape}))


def _changed_trees(tree: dict) -> Iterator[tuple[str, dict]]:
  """(name, tree) with an array more, less, and under another name."""
  more = copy.deepcopy(tree)
  more["more"] = np.zeros(2, np.float32)
  yield "'more'", more
  for path, leaf in jax.tree.leaves_with_path(tree):
    names = [_key(key) for key in path]
    for renamed in (False, True):
      changed = copy.deepcopy(tree)
      holder = changed
      for name in names[:-1]:
        holder = holder[name]
      del holder[names[-1]]
      if renamed:
        holder["renamed"] = leaf
      yield repr("/".join(names)), changed


def restore_teachers(folder) -> dict:
  """What a student's config that differs from its teacher's in one field does with it.

  Args:
    folder: an empty folder; a teacher at toy size, all zeros, is saved in it.

  Returns:
    "bands", "normalisation", "architecture": how many of each; "wrong": a text for each that was not refused with the
    name of the field and both values.
  """
  folder, config = pathlib.Path(folder), toy.shrink(fine_hybrid.get_config())
  _save_teacher(folder / "coarse", config)
  counts, wrong = {"bands": 0, "normalisation": 0, "architecture": 0}, []
  try:
    _load(config, folder)
  except UserError as error:
    wrong.append(f"the teacher of the same config was refused: {error}")
  for kind, path, changed in _changed_configs(config):
    counts[kind] += 1
    found, wanted = (json.loads(json.dumps(_get(c, path), default=tuple)) for c in (config, changed))
    name = f"config.{'.'.join(path)}"
    both = f"{name} ({found} there, {wanted} here)"
    wrong += _refused(functools.partial(_load, changed, folder), both, both)
  return {**counts, "wrong": wrong}


def _save_teacher(folder: pathlib.Path, config: ConfigDict):
  method = experiment.wire(config)["coarse"].method
  shapes = jax.eval_shape(method.init, jax.random.key(0), stages.example(config), None)
  variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  saved = state.init_state(variables, stage.OPTIMIZER)._replace(step=jnp.int32(1))
  with contextlib.closing(checkpoints.Checkpoints(folder)) as saver:
    saver.write_spec(stages.stage_spec(config, "coarse"), variables.frozen)
    saver.save(saved, optimizers.Progress(epoch=1), 0.5)
    saver.wait()
    saver.mark_finished(optimizers.Progress(epoch=1))


def _load(config: ConfigDict, folder: pathlib.Path):
  return experiment.load_stage(config, "coarse", experiment.wire(config)["coarse"].method, folder)


def _get(config: ConfigDict, path):
  for name in path:
    config = config[name]
  return config


def _changed_configs(config: ConfigDict) -> Iterator[tuple[str, tuple[str, ...], ConfigDict]]:
  bands = config.data.bands
  for others in (bands[:4], bands[::-1], (bands[1], bands[0], *bands[2:]), bands[1:]):
    yield "bands", ("data", "bands"), _with(config, ("data", "bands"), others)
  for name in ("mean", "std"):
    for band in bands:
      path = ("data", name, band)
      yield "normalisation", path, _with(config, path, config.data[name][band] * 1.001)
  for part in ("encoder", "decoder"):
    for field, value in config.model[part].items():
      path = ("model", part, field)
      yield "architecture", path, _with(config, path, _other(value))


def _other(value):
  if isinstance(value, bool):
    return not value
  if isinstance(value, tuple):
    return (*value[:-1], value[-1] + 1)
  return {"conv": "pool", "concat": "sum"}.get(value, "other") if isinstance(value, str) else value + 1


def _with(config: ConfigDict, path, value) -> ConfigDict:
  changed = copy.deepcopy(config)
  with changed.ignore_type():
    _get(changed, path[:-1])[path[-1]] = value
  return changed
