"""The loop around the train step: one stage from its first or its last saved step to its end."""

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minec2f_jax import console, devices
from minec2f_jax.methods.base import Batch, Method, PyTree, Variables
from minec2f_jax.programs import NOT_KEPT, Programs
from minec2f_jax.training import checkpoints as checkpoints_lib
from minec2f_jax.training import interrupt, logging
from minec2f_jax.training.optimizers import Progress, ScoreRules, after_epoch
from minec2f_jax.training.state import TrainState, init_state
from minec2f_jax.training.step import make_train_steps

_SKIPPED_AT_MOST = 2  # in a row; one more, and the run stops


class Feed(Protocol):
  """How batches reach the device, see `minec2f_jax.data.feed`."""

  held: PyTree
  inputs: Callable[[int], Iterator[PyTree]]
  take: Callable[[PyTree, PyTree], Batch]
  resident: bool
  ids: Callable[[int], dict[str, list[str]]]


class Stage(NamedTuple):
  """One stage of a run: Task 1 is ("coarse", supervised), Task 2 is ("fine", attentive distillation)."""

  name: str
  method: Method
  optimizer: optax.GradientTransformation
  rules: ScoreRules
  epochs: int
  steps_per_epoch: int
  feed: Feed
  steps_per_call: int  # of the device, between two words with the host; divides steps_per_epoch
  prepare: Callable  # (key, stream) -> stream, inside jit
  validate: Callable[[Variables], dict[str, float]]  # scores on the validation split
  monitor: str  # which score rules the learning rate and the stop
  batch_size: int
  spec: dict  # what the weights expect, for stage.json
  mesh: jax.sharding.Mesh  # the devices that share a batch, see `minec2f_jax.devices`
  programs: Programs = NOT_KEPT  # what the functions above are wrapped by
  save_every_s: float = 600.0  # at most, within an epoch; at its end the stage is saved anyway


def run_stage(stage: Stage, key: jax.Array, prior: Variables | None, folder) -> Variables:
  """Trains `stage` and returns its best model; goes on from the latest checkpoint in `folder` if there is one.

  Where it was interrupted changes nothing: not the order of the data, nor what is drawn, nor an epoch's mean metrics.

  Args:
    stage: what to train.
    key: root key of the stage; every random draw follows from it and the step.
    prior: what the earlier stage left, or None.
    folder: absolute path for checkpoints and metrics.

  Returns:
    The variables with the best validation score.

  Raises:
    FloatingPointError: three steps in a row had a loss or gradient that is not finite; names their samples. The
      checkpoints before them stay.
    Interrupted: a signal asked for it, and where the stage stands is saved.
    CheckpointError: it cannot be saved, or what was saved is damaged or does not fit `stage`.
  """
  variables = start(stage, jax.random.fold_in(key, 0), prior)
  state, progress = init_state(variables, stage.optimizer), Progress()
  with contextlib.closing(_open_checkpoints(folder)) as saver:
    restored = saver.restore_latest(state)
    _require_same_checkpoint(folder, int(restored[0].step) if restored else 0)
    if restored:
      state, progress = restored
      _require_same_epochs(stage, int(state.step), progress, folder)
      variables = variables._replace(frozen=saver.restore_frozen(variables.frozen))  # It may have been trained again.
      console.say(f"[{stage.name}] goes on after epoch {progress.epoch} (step {int(state.step)})")
    else:
      saver.write_spec(stage.spec, variables.frozen)
    # Of the epoch under way a killed run may have written the line that is to be written again.
    start_step = progress.epoch * stage.steps_per_epoch
    written = folder if devices.is_first() else None
    with contextlib.closing(logging.MetricsWriter(written, start_step=start_step)) as writer:
      course = _Course(stage, variables.frozen, state, progress, saver, writer)
      course.run(jax.random.fold_in(key, 1))
    saver.wait()
    devices.meet("the stage is saved")
    saver.mark_finished(course.progress)
    return devices.everywhere(saver.restore_variables(variables), stage.mesh.local_mesh)


def _open_checkpoints(folder) -> checkpoints_lib.Checkpoints:
  """Of several processes the first one's are written, and the others look on."""
  saver = checkpoints_lib.Checkpoints(folder) if devices.is_first() else None
  devices.meet("the folder is made")
  return saver or checkpoints_lib.Checkpoints(folder, read_only=True)


def _require_same_checkpoint(folder, step: int):
  if step != (of_first := devices.of_first({"step": step})["step"]):
    raise checkpoints_lib.CheckpointError(
      f"{folder}: this process finds the checkpoint of step {step} there, the first one that of step {of_first:.0f}. "
      "Processes that train together need a workdir that they all see: give one on a shared file system."
    )


def _require_same_epochs(stage: Stage, step: int, progress: Progress, folder):
  if not 0 <= step - progress.epoch * stage.steps_per_epoch <= stage.steps_per_epoch:
    raise checkpoints_lib.CheckpointError(
      f"{folder} stands at step {step} after {progress.epoch} epochs, which does not fit epochs of "
      f"{stage.steps_per_epoch} steps: the number of training images has changed. Restore the data set, or give "
      "another --workdir."
    )


def start(stage: Stage, key: jax.Array, prior: Variables | None) -> Variables:
  """What `stage` starts from, on the devices of this process."""
  batch = jax.eval_shape(stage.feed.take, stage.feed.held, next(stage.feed.inputs(0)))
  image = next(iter(batch.values()))["image"]
  # Run once: on a CPU, compiling hundreds of random draws with care costs more than the draws.
  options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
  init, weights = stage.method.init, ()
  if isinstance(init, jax.tree_util.Partial):  # Its weights become arguments, not constants of the program.
    init, weights = init.func, init.args
  run = stage.programs.wrap("start", lambda weights, *rest: tuple(init(*weights, *rest)), compiler_options=options)
  variables = Variables(*run(weights, key, jnp.zeros((1, *image.shape[1:]), image.dtype), prior))
  return devices.everywhere(variables, stage.mesh.local_mesh)


def compile_steps(stage: Stage, state: TrainState, frozen: PyTree, inputs: PyTree, key: jax.Array) -> Callable:
  """`(state, inputs) -> (state, metrics)`, `make_train_steps` compiled before the clock starts."""
  began, tree = time.monotonic(), jax.tree.structure(state)
  take = lambda held, one: devices.keep_cut(stage.feed.take(held, one), stage.mesh)
  train_steps = make_train_steps(stage.method.loss, stage.optimizer, stage.prepare, take)
  held, key = devices.everywhere((stage.feed.held, key), stage.mesh)

  def leaves_of_steps(*arguments):
    state, metrics = train_steps(*arguments)
    return devices.keep_whole((jax.tree.leaves(state), metrics), stage.mesh)

  program = stage.programs.wrap("train steps", leaves_of_steps, donate=True)
  compiled = program.compile(state, frozen, held, inputs, key)
  where = "lie on the device" if stage.feed.resident else "are sent to the device"
  console.say(f"[{stage.name}] compiled in {console.duration(time.monotonic() - began)}; the samples {where}")

  def run(state, inputs):
    leaves, metrics = compiled(state, frozen, held, inputs, key)
    return jax.tree.unflatten(tree, leaves), metrics

  return run


def _inputs_on_device(stage: Stage, start_step: int, steps: int) -> Iterator[PyTree]:
  """The inputs of every call of so many `steps`, on their way to the device while the one before is at work."""
  inputs = stage.feed.inputs(start_step)
  stacked = lambda: jax.tree.map(lambda *steps: np.stack(steps), *itertools.islice(inputs, steps))
  upcoming = devices.cut(stacked(), stage.mesh, axis=1)
  while True:
    ready, upcoming = upcoming, devices.cut(stacked(), stage.mesh, axis=1)
    yield ready


class _Course:
  """A stage under way: what moves from one call of the device to the next, and who is told of it."""

  def __init__(self, stage: Stage, frozen: PyTree, state: TrainState, progress: Progress, saver, writer):
    self.progress = dataclasses.replace(progress, sums={})
    self._stage, self._saver, self._writer = stage, saver, writer
    self._tally = logging.Tally(progress.sums, step=int(state.step), skipped_in_a_row=int(state.skipped_in_a_row))
    total_steps = stage.epochs * stage.steps_per_epoch
    self._clock = logging.Clock(total_steps=total_steps, images_per_step=stage.batch_size)
    self._state, self._frozen = devices.everywhere((state, frozen), stage.mesh)
    self._saved_at = time.monotonic()

  def run(self, key: jax.Array):
    """Trains to the end of the stage; `key` is the root of what steps draw."""
    stage = self._stage
    if not self._over() and not self._left():  # Interrupted in the validation.
      with interrupt.held():
        self._end_epoch()
        self._saver.wait()
    if self._left() % stage.steps_per_call:  # Saved by a machine whose calls are shorter.
      self._run(key, 1, self.progress.epoch + 1)
    self._run(key, stage.steps_per_call, stage.epochs)
    if self.progress.stalled(stage.rules):
      console.say(f"[{stage.name}] stops: no better {stage.monitor} for {stage.rules.stop_patience} epochs")

  def _over(self) -> bool:
    return self.progress.epoch >= self._stage.epochs or self.progress.stalled(self._stage.rules)

  def _left(self) -> int:
    """Steps that the epoch under way still has."""
    return (self.progress.epoch + 1) * self._stage.steps_per_epoch - self._tally.step

  def _run(self, key: jax.Array, steps_per_call: int, epochs: int):
    if self._over():
      return
    inputs = _inputs_on_device(self._stage, self._tally.step, steps_per_call)
    first = next(inputs)
    run = compile_steps(self._stage, self._state, self._frozen, first, key)
    inputs = itertools.chain([first], inputs)
    self._clock.begin()
    with interrupt.held():
      self._saver.mark_under_way()
      while self.progress.epoch < epochs and not self._over():
        self._train(run, inputs, steps_per_call)
        self._end_epoch()
      self._saver.wait()

  def _train(self, run: Callable, inputs: Iterator, steps_per_call: int):
    """Trains to the end of the epoch."""
    under_way = None
    self._clock.start()
    for _ in range(self._left() // steps_per_call):
      self._state, metrics = run(self._state, next(inputs))
      self._count(under_way)  # One call ahead of the device, not an epoch.
      under_way = metrics
      self._clock.tick(steps_per_call)
      asked = devices.largest(interrupt.asked())
      if asked or time.monotonic() - self._saved_at >= self._stage.save_every_s:
        self._count(under_way)
        under_way = None
        self._save(None)
        self._leave_if(asked)
        self._clock.start()
      self._say_step()
    self._count(under_way)
    self._clock.tick(0)

  def _count(self, metrics: dict[str, jax.Array] | None):
    """Adds the metrics of a call's steps, once the device has them."""
    if metrics is None:
      return
    # A good step may follow in the same call.
    if len(skipped := self._tally.add(jax.device_get(metrics))[: _SKIPPED_AT_MOST + 1]) > _SKIPPED_AT_MOST:
      *most, last = (str(step + 1) for step in skipped)
      samples = [f"{name} {', '.join(ids)}" for step in skipped for name, ids in self._stage.feed.ids(step).items()]
      raise FloatingPointError(
        f"[{self._stage.name}] loss or gradient of the steps {', '.join(most)} and {last} is not finite; their samples "
        f"are {'; '.join(samples)}. What was saved before is intact; look at these samples, or try a smaller "
        "config.optimizer.learning_rate or config.optimizer.clip_norm=1.0."
      )

  def _end_epoch(self):
    """Validates, applies the rules on the score, writes and saves."""
    stage = self._stage
    train, scores = self._tally.means(stage.steps_per_epoch), devices.of_first(self._validate())
    score = scores[stage.monitor]
    self.progress = after_epoch(self.progress, score, stage.rules)
    self._state = self._state._replace(lr_scale=devices.everywhere(np.float32(self.progress.lr_scale), stage.mesh))
    self._tally.sums = {}
    scalars = {f"train/{name}": value for name, value in train.items()}
    scalars |= {f"validation/{name}": value for name, value in scores.items()}
    pace = {} if self._clock.images_per_s is None else {"images_per_s": self._clock.images_per_s}
    self._writer.write(self._tally.step, {**scalars, **pace, "lr_scale": self.progress.lr_scale})
    asked, best = devices.largest(interrupt.asked()), self.progress.best_epoch == self.progress.epoch
    # Where epochs are shorter than the disk is slow, the next one that finds it idle is saved.
    if asked or best or self._over() or not self._saver.busy():
      self._save(-1.0 if math.isnan(score) else score)  # The undefined loses to all defined ones.
    self._say_epoch(train, score)
    self._leave_if(asked)

  def _validate(self) -> dict[str, float]:
    """The scores; in a thread beside, as a signal cannot wait for all of it."""
    variables = Variables(self._state.trainable, self._frozen, self._state.extra)
    pool = futures.ThreadPoolExecutor(1, "validation")
    scores = pool.submit(self._stage.validate, devices.here(variables, self._stage.mesh))
    pool.shutdown(wait=False)
    while not futures.wait([scores], timeout=0.2).done:
      if interrupt.asked() and not self._stage.mesh.is_multi_process:  # Those wait for each other at its end.
        self._save(None)
        self._leave_if(interrupt.asked())
    return scores.result()

  def _save(self, score: float | None):
    self._saver.save(self._state, dataclasses.replace(self.progress, sums=self._tally.sums), score)
    self._saved_at = time.monotonic()

  def _leave_if(self, signum: int | None):
    if signum:
      self._saver.wait()
      epoch, epochs = min(self.progress.epoch + 1, self._stage.epochs), self._stage.epochs
      raise interrupt.Interrupted(
        signum, f"in [{self._stage.name}] after step {self._tally.step}, epoch {epoch}/{epochs}"
      )

  def _say_step(self):
    if self._clock.due():
      stage = self._stage
      console.say(
        f"[{stage.name}] epoch {self.progress.epoch + 1}: step {stage.steps_per_epoch - self._left()}/"
        f"{stage.steps_per_epoch}, {self._clock.images_per_s:.1f} images/s, {self._clock.left(self._tally.step)} left"
      )

  def _say_epoch(self, train: dict[str, float], score: float):
    stage, progress, clock = self._stage, self.progress, self._clock
    names = ("bce", "dice", "ssim", "boundary", "distillation")
    parts = " ".join(f"{name} {train[name]:.3f}" for name in names if name in train)
    parts = f" ({parts})" if parts else ""
    distilled = f"  distilled {train['distilled_share']:.1%}" if "distilled_share" in train else ""
    skipped = f"  {train['skipped']:.0f} steps skipped" if train["skipped"] else ""
    pace = f"  {clock.images_per_s:.0f} images/s" if clock.images_per_s else ""
    console.say(
      f"[{stage.name}] epoch {progress.epoch}/{stage.epochs}  loss {train['loss']:.3f}{parts}{distilled}{skipped}  "
      f"val {stage.monitor} {score:.4f} (best {progress.best_score:.4f} @{progress.best_epoch}){pace}  "
      f"{clock.left(self._tally.step)} left"
    )
