"""Checkpoints of one stage; the only file that knows orbax.

Layout of a stage's folder:
  stage.json         what the weights expect: bands, normalisation, model, method; and which frozen/ belongs to them
  finished.json      where the stage ended; absent while it is unfinished
  frozen/arrays/     the parameters that never move (a teacher), written once
  checkpoints/STEP/  trainable, extra, opt_state, scalars (arrays) and progress.json, so that a teacher loads without
                     the optimizer; the score is in the manifest

frozen/ and every STEP/ are folders of `minec2f_jax.training.manifest`: whole or not there, and hashed before orbax
reads them, because orbax loads a flipped bit as a weight, and an absent chunk as zeros. Arrays are NumPy's on both
ways, and no other process is waited for: where several train one model, the first alone may save and restore.
"""

import contextlib
import dataclasses
import json
import pathlib
import tempfile
from concurrent import futures

import jax
import numpy as np
import orbax.checkpoint as ocp

from minec2f_jax import console, files
from minec2f_jax.methods.base import PyTree, Variables
from minec2f_jax.training import manifest
from minec2f_jax.training.manifest import CheckpointError
from minec2f_jax.training.optimizers import Progress
from minec2f_jax.training.state import TrainState

_TREES = ("trainable", "extra", "opt_state")  # What else a state has are its scalars.


def read_json(path: pathlib.Path) -> dict:
  """The JSON object in `path`; CheckpointError if the file is absent or damaged."""
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise CheckpointError(f"{path} cannot be read: {error}. Restore the file, or start in another workdir.") from error


def has_checkpoints(folder) -> bool:
  """Whether a stage has saved a checkpoint in `folder`."""
  return bool(_steps(pathlib.Path(folder) / "checkpoints"))


def damage(folder) -> tuple[list[str], int]:
  """(what is wrong with each damaged checkpoint of the stage in `folder`, the number of checkpoints)."""
  places = [pathlib.Path(folder) / "checkpoints" / str(step) for step in _steps(pathlib.Path(folder) / "checkpoints")]
  return [_listed(faults) for place in places if (faults := manifest.damage(place))], len(places)


class Checkpoints:
  """Saves and restores one stage: the latest checkpoints (to resume) and the best one (to use)."""

  def __init__(self, folder, *, keep_latest: int = 2, read_only: bool = False):
    """Opens `folder`, an absolute path; creates it, and removes what a killed run left half done.

    With `read_only` nothing is written, whatever is asked: of several processes that train together one writes.

    Raises:
      CheckpointError: `read_only` and nothing there, of an earlier version, or no place to write in.
    """
    self.folder = pathlib.Path(folder)
    self._steps_folder = self.folder / "checkpoints"
    self._keep_latest, self._read_only = keep_latest, read_only
    self._damaged: set[int] = set()  # Found by their hashes: they look whole, and must not count.
    self._saving: futures.Future | None = None
    self._thread = futures.ThreadPoolExecutor(1, "checkpoints")
    if read_only and not self._steps_folder.is_dir():
      raise CheckpointError(
        f"{self.folder} holds no checkpoints. Give the workdir of a run that has finished at least one epoch of this "
        "stage."
      )
    self._refuse_earlier_versions()
    if not read_only:
      with manifest.told(self.folder, "or choose another workdir"):
        self._steps_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._steps_folder):  # Better refused now than after an epoch.
          pass
        manifest.sweep(self.folder)
        manifest.sweep(self._steps_folder)

  def write_spec(self, spec: dict, frozen: PyTree):
    """Writes what the stage's weights expect and what stays frozen, over what a start without a checkpoint left."""
    if self._read_only:
      return
    place = self.folder / "frozen"
    with manifest.told(place, "and start again"):
      if frozen:
        with manifest.made(place, {}) as partial:
          _write_trees(partial, {"arrays": jax.device_get(frozen)})
      elif place.exists():
        manifest.remove(place)
      noted = files.sha256(place / manifest.NAME) if frozen else None
    files.write_bytes(self.folder / "stage.json", manifest.seal({"expects": spec, "frozen": noted}))

  def spec(self) -> dict:
    """What `write_spec` wrote."""
    return self._stage()["expects"]

  def mark_finished(self, progress: Progress):
    """Notes that the stage has come to its end."""
    if self._read_only:
      return
    files.write_text(self.folder / "finished.json", json.dumps(dataclasses.asdict(progress), indent=2) + "\n")

  def mark_under_way(self):
    """Takes back `mark_finished`: the stage is prolonged."""
    if not self._read_only:
      (self.folder / "finished.json").unlink(missing_ok=True)

  def finished(self) -> bool:
    """Whether the stage has come to its end."""
    return (self.folder / "finished.json").exists()

  def save(self, state: TrainState, progress: Progress, score: float | None):
    """Saves `state` and `progress` under the state's step; returns before the disk is done, free to donate `state`.

    A checkpoint of that step is replaced, unless it has a score and this one has none; later ones, of a course that the
    run has left, are removed; of the earlier ones the latest and the best stay.

    Args:
      state: what to save.
      progress: saved beside it.
      score: by which the best is found, the first of equals; None: not scored, never the best.

    Raises:
      CheckpointError: the save before this one has failed.
    """
    if self._read_only:
      return
    self.wait()
    trees = jax.tree.map(np.array, jax.device_get(_trees_of(state)))  # A copy: on a CPU, device_get gives a view.
    self._saving = self._thread.submit(self._write, trees, dataclasses.asdict(progress), score)

  def _write(self, trees: dict[str, PyTree], progress: dict, score: float | None):
    step = int(trees["scalars"]["step"])
    if score is None and _best({step: self._notes().get(step)}) == step and self._looks_whole(step):
      return  # A run that is interrupted as soon as it has resumed; the score must not get lost.
    after = "and the same command goes on from the checkpoint before, which is intact"
    with manifest.told(self._place(step), after):
      with manifest.made(self._place(step), {"score": score}) as partial:
        _write_trees(partial, trees)
        (partial / "progress.json").write_text(json.dumps(progress))
      self._damaged.discard(step)
      self._prune(step)

  def wait(self):
    """Returns when everything saved so far is on the disk.

    Raises:
      CheckpointError: it could not be written; what was half written is gone, and earlier checkpoints are intact.
    """
    saving, self._saving = self._saving, None
    if saving:
      saving.result()

  def busy(self) -> bool:
    """Whether a save is still under way, for which the next one would wait."""
    return self._saving is not None and not self._saving.done()

  def close(self):
    """Waits for the disk, as `wait`."""
    try:
      self.wait()
    finally:
      self._thread.shutdown()

  def latest_step(self) -> int | None:
    """The latest step whose checkpoint looks whole; `restore_latest` checks its hashes, too."""
    self.wait()
    return max(filter(self._looks_whole, _steps(self._steps_folder)), default=None)

  def best_step(self) -> int | None:
    """The step with the best score of those that look whole; of equals, the first."""
    self.wait()
    return _best({step: note for step, note in self._notes().items() if self._looks_whole(step)})

  def restore_latest(self, template: TrainState) -> tuple[TrainState, Progress] | None:
    """The training state to go on from, the latest that is whole, as NumPy arrays; None if none has been saved yet.

    All checkpoints are hashed and the damaged ones named on the console: an older one may be the best.

    Raises:
      CheckpointError: all are damaged, or what is frozen is; or they do not fit `template`, as in `restore_state`.
    """
    self.wait()
    if not (steps := _steps(self._steps_folder)):
      return None
    self._require_frozen()
    damaged = {step: faults for step in steps if (faults := manifest.damage(self._place(step)))}
    self._damaged = set(damaged)
    if len(damaged) == len(steps):
      raise CheckpointError(
        f"no checkpoint in {self.folder} is whole: {_listed(sum(damaged.values(), []))}. Put the files back from a "
        f"copy, or delete {self.folder} to train the stage from its start."
      )
    step, best = max(set(steps) - set(damaged)), _best(self._notes())
    for other, faults in damaged.items():
      what = f"checkpoint {step} is taken instead" if other > step else "it is not needed to go on"
      if other == best:
        what += ", but it is the best so far, and the stage will end with an error unless a later one replaces it"
      console.say(f"checkpoint {other} is damaged: {_listed(faults)}; {what}")
    return self._load_state(template, step)

  def restore_state(self, template: TrainState, step: int) -> tuple[TrainState, Progress]:
    """The training state saved at `step`, as NumPy arrays.

    Raises:
      CheckpointError: it is damaged, or differs from `template` in tree, shape or dtype.
    """
    self.wait()
    self._require_whole(step)
    return self._load_state(template, step)

  def restore_variables(self, template: Variables, step: int | None = None) -> Variables:
    """The model saved at `step` (default: the best), without the optimizer, as NumPy arrays.

    Raises:
      CheckpointError: it is absent or damaged, as is one that may be the best, or it differs from `template`.
    """
    self.wait()
    step = self._best_to_use() if step is None else step
    self._require_whole(step)
    place = self._place(step)
    return Variables(
      _load_tree(place / "trainable", template.trainable),
      self.restore_frozen(template.frozen),
      _load_tree(place / "extra", template.extra),
    )

  def restore_frozen(self, template: PyTree) -> PyTree:
    """What `write_spec` was given as frozen, as NumPy arrays.

    Raises:
      CheckpointError: it is damaged, or differs from `template`.
    """
    self._require_frozen()
    return _load_tree(self.folder / "frozen" / "arrays", template)

  def _load_state(self, template: TrainState, step: int) -> tuple[TrainState, Progress]:
    place = self._place(step)
    trees = {name: _load_tree(place / name, tree) for name, tree in _trees_of(template).items()}
    progress, known = read_json(place / "progress.json"), {field.name for field in dataclasses.fields(Progress)}
    if different := sorted(known ^ set(progress)):
      raise CheckpointError(
        f"{place / 'progress.json'} was written by another version of this program, which has more or fewer of "
        f"{different}. Use that version, or another workdir."
      )
    return TrainState(**trees.pop("scalars"), **trees), Progress(**progress)

  def _place(self, step: int) -> pathlib.Path:
    return self._steps_folder / str(step)

  def _notes(self) -> dict[int, dict | None]:
    """Step -> what its manifest says, None if that is damaged."""
    notes = dict.fromkeys(_steps(self._steps_folder))
    for step in notes:
      with contextlib.suppress(manifest.DamagedError):
        notes[step] = manifest.unseal(self._place(step) / manifest.NAME)
    return notes

  def _looks_whole(self, step: int) -> bool:
    return step not in self._damaged and manifest.looks_whole(self._place(step))

  def _best_to_use(self) -> int:
    notes = self._notes()
    for step in (step for step, note in notes.items() if note is None):  # With its score: it may be the best.
      self._require_whole(step)
    if (best := _best(notes)) is None:
      raise CheckpointError(f"{self.folder} holds no finished checkpoint yet.")
    return best

  def _require_whole(self, step: int):
    if faults := manifest.damage(self._place(step)):
      raise CheckpointError(
        f"checkpoint {step} is damaged: {_listed(faults)}. Put it back from a copy, or delete {self._place(step)} to "
        "use the best of the others."
      )

  def _stage(self) -> dict:
    try:
      return manifest.unseal(self.folder / "stage.json")
    except manifest.DamagedError as error:
      raise CheckpointError(
        f"{error}. Put it back from a copy, or train the stage again in another workdir."
      ) from error

  def _require_frozen(self):
    place, noted = self.folder / "frozen", self._stage()["frozen"]
    faults = manifest.damage(place) if noted else []
    if noted and not faults and files.sha256(place / manifest.NAME) != noted:
      faults = [f"{place} is not the one that {self.folder / 'stage.json'} was written with"]
    if faults:
      raise CheckpointError(
        f"the stage's copy of its teacher is damaged: {_listed(faults)}. Put it back from a copy, or train the stage "
        "again in another workdir, from the same teacher (config.teacher, or the run's own earlier stage)."
      )

  def _prune(self, step: int):
    notes = self._notes()
    whole = [number for number in notes if number <= step and self._looks_whole(number)]
    # A damaged one that is the best, or may be, stays: no other takes its place without a word.
    unknown = [number for number, note in notes.items() if note is None]
    kept = {*whole[-self._keep_latest :], *unknown, _best(notes)}
    for number in notes:
      if number > step or number not in kept:
        manifest.remove(self._place(number))

  def _refuse_earlier_versions(self):
    for step in _steps(self._steps_folder):
      if (self._place(step) / "_CHECKPOINT_METADATA").exists():  # Orbax' own manager writes it.
        raise CheckpointError(
          f"{self._place(step)} was written by an earlier version of this program, without hashes. Use that version, "
          "or train again in another workdir."
        )


def _steps(folder: pathlib.Path) -> list[int]:
  return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def _best(notes: dict[int, dict | None]) -> int | None:
  scored = [step for step, note in notes.items() if note and note["score"] is not None]
  return max(scored, key=lambda step: (notes[step]["score"], -step), default=None)  # Of equal scores, the first.


def _listed(faults: list[str]) -> str:
  return "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")


def _trees_of(state: TrainState) -> dict[str, PyTree]:
  """The parts of `state` as they lie on the disk."""
  fields = state._asdict()
  return {name: fields.pop(name) for name in _TREES} | {"scalars": fields}


def _handler() -> ocp.PyTreeCheckpointHandler:
  return ocp.PyTreeCheckpointHandler(
    use_compression=False,  # Weights shrink by 7 %, at a fifth of the pace.
    multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}),
  )


def _write_trees(folder: pathlib.Path, trees: dict[str, PyTree]):
  """Writes trees of NumPy arrays, one without leaves (orbax refuses it) as nothing."""
  leaves = {name: jax.tree.leaves(tree) for name, tree in trees.items() if jax.tree.leaves(trees[name])}
  # Orbax would tell of a full disk in a traceback for each array.
  manifest.reserve(folder, [2**16 + sum(2**10 + leaf.nbytes for leaf in arrays) for arrays in leaves.values()])
  for name in leaves:
    (folder / name).mkdir()
    with contextlib.closing(_handler()) as handler:
      handler.save(folder / name, args=ocp.args.PyTreeSave(trees[name]))
      handler.finalize(folder / name)


def _load_tree(folder: pathlib.Path, template: PyTree) -> PyTree:
  """The arrays in `folder`, whose hashes are checked, in the tree of `template`.

  Raises:
    CheckpointError: tree, shape or dtype differ. Orbax would cast the dtype and fill what is missing.
  """
  saved = {}
  if folder.is_dir():
    with contextlib.closing(_handler()) as handler:
      saved = _by_path(handler.restore(folder))
  wanted = _by_path(template)
  found, expected = ({path: f"{tuple(x.shape)} {x.dtype}" for path, x in tree.items()} for tree in (saved, wanted))
  different = [
    f"{'/'.join(path)!r} holds {found.get(path, 'nothing')}, but this configuration expects "
    f"{expected.get(path, 'nothing')}"
    for path in sorted(found.keys() | expected.keys())
    if found.get(path) != expected.get(path)
  ]
  if different:
    raise CheckpointError(
      f"{folder}: {_listed(different)}. Use the configuration that the checkpoint was trained with (config.json in its "
      "workdir), or another workdir."
    )
  return jax.tree.unflatten(jax.tree.structure(template), [saved[path] for path in wanted])


def _by_path(tree: PyTree) -> dict[tuple[str, ...], PyTree]:
  """Path -> leaf, in the tree's order; in what orbax restores, tuples have become lists and dicts."""
  return {
    tuple(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
