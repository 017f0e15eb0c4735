"""The loop around the train step: one stage from its first or its last saved epoch to its end."""

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minec2f_jax import console
from minec2f_jax.methods.base import Batch, Method, PyTree, Variables
from minec2f_jax.programs import NOT_KEPT, Programs
from minec2f_jax.training import checkpoints as checkpoints_lib
from minec2f_jax.training import logging
from minec2f_jax.training.optimizers import Progress, ScoreRules, after_epoch
from minec2f_jax.training.state import TrainState, init_state
from minec2f_jax.training.step import make_train_steps


class Feed(Protocol):
  """How batches reach the device, see `minec2f_jax.data.feed`."""

  held: PyTree
  inputs: Callable[[int], Iterator[PyTree]]
  take: Callable[[PyTree, PyTree], Batch]
  resident: bool


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
  programs: Programs = NOT_KEPT  # what the functions above are wrapped by


def run_stage(stage: Stage, key: jax.Array, prior: Variables | None, folder) -> Variables:
  """Trains `stage` and returns its best model; goes on from the latest checkpoint in `folder` if there is one.

  Args:
    stage: what to train.
    key: root key of the stage; every random draw follows from it and the step.
    prior: what the earlier stage left, or None.
    folder: absolute path for checkpoints and metrics.

  Returns:
    The variables with the best validation score.

  Raises:
    FloatingPointError: if the loss stops being finite; the checkpoints before it stay.
  """
  variables = start(stage, jax.random.fold_in(key, 0), prior)
  state, progress = init_state(variables, stage.optimizer), Progress()
  with contextlib.closing(checkpoints_lib.Checkpoints(folder)) as saver:
    if restored := saver.restore_latest(state):
      state, progress = restored
      frozen = on_device(saver.restore_frozen(variables.frozen))  # The prior may have been trained again.
      console.say(f"[{stage.name}] goes on after epoch {progress.epoch} (step {int(state.step)})")
    else:
      frozen = variables.frozen
      saver.write_spec(stage.spec, frozen)
    with contextlib.closing(logging.MetricsWriter(folder, start_step=int(state.step))) as writer:
      progress = _run_epochs(stage, jax.random.fold_in(key, 1), on_device(state), frozen, progress, saver, writer)
    saver.wait()
    saver.mark_finished(progress)
    return on_device(saver.restore_variables(variables))


def start(stage: Stage, key: jax.Array, prior: Variables | None) -> Variables:
  """What `stage` starts from, on the device."""
  batch = jax.eval_shape(stage.feed.take, stage.feed.held, next(stage.feed.inputs(0)))
  image = next(iter(batch.values()))["image"]
  # Run once: on a CPU, compiling hundreds of random draws with care costs more than the draws.
  options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
  init, weights = stage.method.init, ()
  if isinstance(init, jax.tree_util.Partial):  # Its weights become arguments, not constants of the program.
    init, weights = init.func, init.args
  run = stage.programs.wrap("start", lambda weights, *rest: tuple(init(*weights, *rest)), compiler_options=options)
  return on_device(Variables(*run(weights, key, jnp.zeros((1, *image.shape[1:]), image.dtype), prior)))


def on_device(tree):
  """`tree` committed to the first device: an argument that is only sometimes committed compiles the step again."""
  return jax.device_put(tree, jax.sharding.SingleDeviceSharding(jax.devices()[0]))


def _run_epochs(stage: Stage, key, state: TrainState, frozen, progress: Progress, saver, writer) -> Progress:
  if progress.epoch >= stage.epochs or progress.stalled(stage.rules):
    return progress
  inputs = _inputs_on_device(stage, int(state.step))
  first = next(inputs)
  run, inputs = compile_steps(stage, state, frozen, first, key), itertools.chain([first], inputs)
  clock = logging.Clock(total_steps=stage.epochs * stage.steps_per_epoch, images_per_step=stage.batch_size)
  while progress.epoch < stage.epochs and not progress.stalled(stage.rules):
    state, train = _run_epoch(stage, run, state, inputs, clock, progress.epoch + 1)
    scores = stage.validate(Variables(state.trainable, frozen, state.extra))
    score = scores[stage.monitor]
    progress = after_epoch(progress, score, stage.rules)
    state = state._replace(lr_scale=on_device(np.float32(progress.lr_scale)))
    step = int(state.step)
    scalars = {f"train/{name}": value for name, value in train.items()}
    scalars |= {f"validation/{name}": value for name, value in scores.items()}
    writer.write(step, {**scalars, "images_per_s": clock.images_per_s, "lr_scale": progress.lr_scale})
    saver.save(state, progress, -1.0 if math.isnan(score) else score)  # The undefined loses to all defined ones.
    _report(stage, progress, train, score, clock, step)
  if progress.stalled(stage.rules):
    console.say(f"[{stage.name}] stops: no better {stage.monitor} for {stage.rules.stop_patience} epochs")
  return progress


def compile_steps(stage: Stage, state: TrainState, frozen: PyTree, inputs: PyTree, key: jax.Array) -> Callable:
  """`(state, inputs) -> (state, metrics)`, `make_train_steps` compiled before the clock starts."""
  began, tree = time.monotonic(), jax.tree.structure(state)
  train_steps = make_train_steps(stage.method.loss, stage.optimizer, stage.prepare, stage.feed.take)

  def leaves_of_steps(*arguments):
    state, metrics = train_steps(*arguments)
    return jax.tree.leaves(state), metrics

  program = stage.programs.wrap("train steps", leaves_of_steps, donate=True)
  compiled = program.compile(state, frozen, stage.feed.held, inputs, key)
  where = "lie on the device" if stage.feed.resident else "are sent to the device"
  console.say(f"[{stage.name}] compiled in {console.duration(time.monotonic() - began)}; the samples {where}")

  def run(state, inputs):
    leaves, metrics = compiled(state, frozen, stage.feed.held, inputs, key)
    return jax.tree.unflatten(tree, leaves), metrics

  return run


def _inputs_on_device(stage: Stage, start_step: int) -> Iterator[PyTree]:
  """The inputs of every call, on their way to the device while the one before is at work."""
  inputs = stage.feed.inputs(start_step)
  stacked = lambda: jax.tree.map(lambda *steps: np.stack(steps), *itertools.islice(inputs, stage.steps_per_call))
  upcoming = on_device(stacked())
  while True:
    ready, upcoming = upcoming, on_device(stacked())
    yield ready


def _run_epoch(stage: Stage, run: Callable, state: TrainState, inputs: Iterator, clock: logging.Clock, epoch: int):
  """The state after one epoch, and the epoch's mean metrics."""
  metrics = []
  clock.start()
  for step in range(stage.steps_per_call, stage.steps_per_epoch + 1, stage.steps_per_call):
    state, step_metrics = run(state, next(inputs))
    jax.block_until_ready(metrics[-1:])  # One call ahead of the device, not an epoch.
    metrics.append(step_metrics)
    clock.tick(stage.steps_per_call)
    if clock.due():
      done = (epoch - 1) * stage.steps_per_epoch + step
      console.say(
        f"[{stage.name}] epoch {epoch}: step {step}/{stage.steps_per_epoch}, {clock.images_per_s:.1f} images/s, "
        f"{clock.left(done)} left"
      )
  jax.block_until_ready(metrics[-1:])
  clock.tick(0)
  means = _means(metrics)
  if not math.isfinite(means["loss"]):
    raise FloatingPointError(
      f"[{stage.name}] the loss of epoch {epoch} is {means['loss']}. The checkpoints before it are intact; try a "
      "smaller config.optimizer.learning_rate or config.optimizer.clip_norm=1.0."
    )
  return state, means


def _means(metrics: list[dict[str, jax.Array]]) -> dict[str, float]:
  fetched = jax.device_get(metrics)
  return {name: float(np.mean([call[name] for call in fetched], dtype=np.float64)) for name in fetched[0]}


def _report(stage: Stage, progress: Progress, train: dict[str, float], score: float, clock: logging.Clock, step: int):
  parts = " ".join(
    f"{name} {train[name]:.3f}" for name in ("bce", "dice", "ssim", "boundary", "distillation") if name in train
  )
  distilled = f"  distilled {train['distilled_share']:.1%}" if "distilled_share" in train else ""
  console.say(
    f"[{stage.name}] epoch {progress.epoch}/{stage.epochs}  loss {train['loss']:.3f} ({parts}){distilled}  "
    f"val {stage.monitor} {score:.4f} (best {progress.best_score:.4f} @{progress.best_epoch})  "
    f"{clock.images_per_s:.0f} images/s  {clock.left(step)} left"
  )
