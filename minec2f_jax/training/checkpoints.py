"""Checkpoints of one stage; the only file that knows orbax.

Layout of a stage's folder:
  stage.json         what the weights expect: bands, normalisation, model, method
  finished.json      where the stage ended; absent while it is unfinished
  frozen/            the parameters that never move (a teacher), written once
  checkpoints/STEP/  trainable, extra, opt_state, scalars (arrays) and progress (JSON), so that a teacher loads
                     without the optimizer
"""

import dataclasses
import json
import pathlib

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from minec2f_jax import files
from minec2f_jax.errors import UserError
from minec2f_jax.methods.base import PyTree, Variables
from minec2f_jax.training.optimizers import Progress
from minec2f_jax.training.state import TrainState

_ARRAYS = ("trainable", "extra", "opt_state", "scalars")


class CheckpointError(UserError):
  """A checkpoint that is absent, or that does not fit the model which should take it."""


def read_json(path: pathlib.Path) -> dict:
  """The JSON object in `path`; CheckpointError if the file is absent or damaged."""
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise CheckpointError(f"{path} cannot be read: {error}. Restore the file, or start in another workdir.") from error


def has_checkpoints(folder) -> bool:
  """Whether a stage has saved a checkpoint in `folder`."""
  return any(path.name.isdigit() for path in (pathlib.Path(folder) / "checkpoints").glob("*"))


def _abstract(tree: PyTree) -> PyTree:
  return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def _rank(metrics) -> tuple[float, int]:
  return metrics["score"], -metrics["step"]  # Of equal scores, the first.


def _require_same_arrays(saved: PyTree, wanted: PyTree, where: pathlib.Path):
  """Orbax casts dtypes silently and its tree errors are long: one sentence instead.

  `saved` is orbax' metadata, in which tuples have become dicts and lists: compared by path, not by type.
  """

  def by_path(tree):
    return {
      "/".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path): (
        tuple(leaf.shape),
        str(leaf.dtype),
      )
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }

  saved, wanted = by_path(saved), by_path(wanted)
  for path in sorted(saved.keys() | wanted.keys()):
    if saved.get(path) != wanted.get(path):
      found, expected = ("{} {}".format(*entry[path]) if path in entry else "nothing" for entry in (saved, wanted))
      raise CheckpointError(
        f"{where}: {path!r} holds {found}, but this configuration expects {expected}. Use the configuration that "
        "the checkpoint was trained with (config.json in its workdir), or another workdir."
      )


class Checkpoints:
  """Saves and restores one stage: the latest checkpoints (to resume) and the best one (to use)."""

  def __init__(self, folder, *, keep_latest: int = 2, read_only: bool = False):
    """Opens `folder`, an absolute path, and creates it unless `read_only`."""
    self.folder = pathlib.Path(folder)
    if read_only and not (self.folder / "checkpoints").is_dir():
      raise CheckpointError(
        f"{self.folder} holds no checkpoints. Give the workdir of a run that has finished at least "
        "one epoch of this stage."
      )
    # `best_fn` with `max_to_keep` would delete the newest checkpoint when the score falls, and with it the place
    # to resume from: both are kept by name instead. `best_fn` alone makes orbax write the scores.
    policy = checkpoint_managers.AnyPreservationPolicy(
      [checkpoint_managers.LatestN(keep_latest), checkpoint_managers.BestN(get_metric_fn=_rank, n=1)]
    )
    self._manager = ocp.CheckpointManager(
      self.folder / "checkpoints",
      item_handlers={
        **{name: ocp.StandardCheckpointHandler() for name in _ARRAYS},
        "progress": ocp.JsonCheckpointHandler(),
      },
      options=ocp.CheckpointManagerOptions(
        best_fn=_rank,
        preservation_policy=policy,
        create=not read_only,
        cleanup_tmp_directories=not read_only,
      ),
    )

  def write_spec(self, spec: dict, frozen: PyTree):
    """Writes what the stage's weights expect and what stays frozen, over what a start without a checkpoint left."""
    spec_path = self.folder / "stage.json"
    if frozen:
      with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(self.folder / "frozen", frozen, force=True)
    files.write_text(spec_path, json.dumps(spec, indent=2, sort_keys=True) + "\n")

  def mark_finished(self, progress: Progress):
    """Notes that the stage has come to its end."""
    files.write_text(self.folder / "finished.json", json.dumps(dataclasses.asdict(progress), indent=2) + "\n")

  def finished(self) -> bool:
    """Whether the stage has come to its end (a prolonged one has, once)."""
    return (self.folder / "finished.json").exists()

  def spec(self) -> dict:
    """What `write_spec` wrote."""
    return read_json(self.folder / "stage.json")

  def save(self, state: TrainState, progress: Progress, score: float):
    """Saves `state` and `progress` under the state's step, scored `score`; returns before the disk is done."""
    trees = {
      "trainable": state.trainable,
      "extra": state.extra,
      "opt_state": state.opt_state,
      "scalars": {"step": state.step, "lr_scale": state.lr_scale},
    }
    saved = self._manager.save(
      int(state.step),
      metrics={"score": score, "step": int(state.step)},
      args=ocp.args.Composite(
        progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
        **{name: ocp.args.StandardSave(tree) for name, tree in trees.items()},
      ),
    )
    if not saved:  # Orbax returns False without a word for a step that exists.
      raise CheckpointError(f"{self.folder}: step {int(state.step)} was not saved: a checkpoint of it exists already.")

  def latest_step(self) -> int | None:
    """The step to resume from."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """The step with the best score; of equals, the first."""
    return self._manager.best_step()

  def restore_state(self, template: TrainState, step: int) -> tuple[TrainState, Progress]:
    """The training state saved at `step`, checked against `template`'s tree, shapes and dtypes."""
    trees = {
      "trainable": template.trainable,
      "extra": template.extra,
      "opt_state": template.opt_state,
      "scalars": {"step": template.step, "lr_scale": template.lr_scale},
    }
    restored = self._restore(step, trees, progress=ocp.args.JsonRestore())
    return (
      TrainState(
        trainable=restored["trainable"], extra=restored["extra"], opt_state=restored["opt_state"], **restored["scalars"]
      ),
      Progress(**restored["progress"]),
    )

  def restore_variables(self, template: Variables, step: int | None = None) -> Variables:
    """The model saved at `step` (default: the best), without the optimizer, checked against `template`."""
    step = self.best_step() if step is None else step
    if step is None:
      raise CheckpointError(f"{self.folder} holds no finished checkpoint yet.")
    restored = self._restore(step, {"trainable": template.trainable, "extra": template.extra})
    frozen = template.frozen
    if frozen:
      with ocp.StandardCheckpointer() as checkpointer:
        path = self.folder / "frozen"
        _require_same_arrays(checkpointer.metadata(path).item_metadata.tree, frozen, path)
        frozen = checkpointer.restore(path, _abstract(frozen))
    return Variables(restored["trainable"], frozen, restored["extra"])

  def _restore(self, step: int, trees: dict[str, PyTree], **others):
    saved = self._manager.item_metadata(step)
    for name, tree in trees.items():
      _require_same_arrays(
        saved[name].tree if hasattr(saved[name], "tree") else saved[name],
        tree,
        self.folder / "checkpoints" / str(step) / name,
      )
    return self._manager.restore(
      step,
      args=ocp.args.Composite(
        **{name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in trees.items()}, **others
      ),
    )

  def wait(self):
    """Returns when everything saved so far is on the disk."""
    self._manager.wait_until_finished()

  def close(self):
    """Waits for the disk and lets go of the folder."""
    self._manager.close()
