"""The loop around the train step: one stage from its first or its last saved epoch to its end."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
import optax

from minec2f_jax import console
from minec2f_jax.methods.base import Batch, Method, Variables
from minec2f_jax.training import checkpoints as checkpoints_lib
from minec2f_jax.training import logging
from minec2f_jax.training.optimizers import Progress, ScoreRules, after_epoch
from minec2f_jax.training.state import TrainState, init_state
from minec2f_jax.training.step import make_train_step


class Stage(NamedTuple):
  """One stage of a run: Task 1 is ("coarse", supervised), Task 2 is ("fine", attentive distillation)."""

  name: str
  method: Method
  optimizer: optax.GradientTransformation
  rules: ScoreRules
  epochs: int
  steps_per_epoch: int
  batches: Callable[[int], Iterator[Batch]]  # step to start from -> endless batches
  prepare: Callable  # (key, stream) -> stream, inside jit
  validate: Callable[[Variables], dict[str, float]]  # scores on the validation split
  monitor: str  # which score rules the learning rate and the stop
  batch_size: int
  spec: dict  # what the weights expect, for stage.json


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
  example = next(stage.batches(0))
  image = next(iter(example.values()))["image"][:1]
  # Run once: on a CPU, compiling hundreds of random draws with care costs more than the draws.
  options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
  init = jax.jit(stage.method.init, compiler_options=options)
  variables = _on_device(init(jax.random.fold_in(key, 0), image, prior))
  state, progress = init_state(variables, stage.optimizer), Progress()
  with contextlib.closing(checkpoints_lib.Checkpoints(folder)) as saver:
    if (step := saver.latest_step()) is None:
      saver.write_spec(stage.spec, variables.frozen)
    else:
      state, progress = saver.restore_state(state, step)
      console.say(f"[{stage.name}] goes on after epoch {progress.epoch} (step {step})")
    with contextlib.closing(logging.MetricsWriter(folder, start_step=int(state.step))) as writer:
      progress = _run_epochs(
        stage, jax.random.fold_in(key, 1), _on_device(state), variables.frozen, progress, saver, writer
      )
    saver.wait()
    saver.mark_finished(progress)
    return saver.restore_variables(variables)


def _on_device(tree):
  """`tree` committed to the first device: an argument that is only sometimes committed compiles the step again."""
  return jax.device_put(tree, jax.sharding.SingleDeviceSharding(jax.devices()[0]))


def _run_epochs(stage: Stage, key, state: TrainState, frozen, progress: Progress, saver, writer) -> Progress:
  train_step = make_train_step(stage.method.loss, stage.optimizer, stage.prepare)
  clock = logging.Clock(total_steps=stage.epochs * stage.steps_per_epoch, images_per_step=stage.batch_size)
  batches = stage.batches(int(state.step))
  while progress.epoch < stage.epochs and not progress.stalled(stage.rules):
    state, train = _run_epoch(stage, train_step, state, frozen, batches, key, clock, progress.epoch + 1)
    scores = stage.validate(Variables(state.trainable, frozen, state.extra))
    score = scores[stage.monitor]
    progress = after_epoch(progress, score, stage.rules)
    state = state._replace(lr_scale=_on_device(np.float32(progress.lr_scale)))
    step = int(state.step)
    scalars = {f"train/{name}": value for name, value in train.items()}
    scalars |= {f"validation/{name}": value for name, value in scores.items()}
    if clock.images_per_s:
      scalars["images_per_s"] = clock.images_per_s
    writer.write(step, {**scalars, "lr_scale": progress.lr_scale})
    saver.save(state, progress, -1.0 if math.isnan(score) else score)  # The undefined loses to all defined ones.
    _report(stage, progress, train, score, clock, step)
  if progress.stalled(stage.rules):
    console.say(f"[{stage.name}] stops: no better {stage.monitor} for {stage.rules.stop_patience} epochs")
  return progress


def _run_epoch(stage: Stage, train_step, state: TrainState, frozen, batches, key, clock: logging.Clock, epoch: int):
  """The state after one epoch, and the epoch's mean metrics."""
  metrics = []
  clock.start()
  for step in range(1, stage.steps_per_epoch + 1):
    state, step_metrics = train_step(state, frozen, next(batches), key)
    jax.block_until_ready(metrics[-1:])  # One step ahead of the device, not an epoch.
    metrics.append(step_metrics)
    clock.tick()
    if clock.images_per_s and clock.due():
      done = (epoch - 1) * stage.steps_per_epoch + step
      console.say(
        f"[{stage.name}] epoch {epoch}: step {step}/{stage.steps_per_epoch}, {clock.images_per_s:.1f} images/s, "
        f"{clock.left(done)} left"
      )
  means = _means(metrics)
  if not math.isfinite(means["loss"]):
    raise FloatingPointError(
      f"[{stage.name}] the loss of epoch {epoch} is {means['loss']}. The checkpoints before it are intact; try a "
      "smaller config.optimizer.learning_rate or config.optimizer.clip_norm=1.0."
    )
  return state, means


def _means(metrics: list[dict[str, jax.Array]]) -> dict[str, float]:
  fetched = jax.device_get(metrics)
  return {name: float(np.mean([step[name] for step in fetched], dtype=np.float64)) for name in fetched[0]}


def _report(stage: Stage, progress: Progress, train: dict[str, float], score: float, clock: logging.Clock, step: int):
  parts = " ".join(
    f"{name} {train[name]:.3f}" for name in ("bce", "dice", "ssim", "boundary", "distillation") if name in train
  )
  distilled = f"  distilled {train['distilled_share']:.1%}" if "distilled_share" in train else ""
  console.say(
    f"[{stage.name}] epoch {progress.epoch}/{stage.epochs}  loss {train['loss']:.3f} ({parts}){distilled}  "
    f"val {stage.monitor} {score:.4f} (best {progress.best_score:.4f} @{progress.best_epoch})  "
    f"{clock.images_per_s or 0:.0f} images/s  {clock.left(step)} left"
  )
