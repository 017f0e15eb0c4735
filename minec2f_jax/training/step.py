"""The one train step that every method shares."""

import functools
from collections.abc import Callable

import jax
import optax

from minec2f_jax.training.state import TrainState


def make_train_step(loss_fn: Callable, optimizer: optax.GradientTransformation, prepare: Callable) -> Callable:
  """A jit-compiled `(state, frozen, batch, key) -> (state, metrics)` that donates `state`.

  Args:
    loss_fn: a method's `loss`.
    optimizer: gradient transformation; its updates are scaled by `state.lr_scale`, which for AdamW is the same
      as scaling the learning rate, decay included.
    prepare: `(key, stream) -> stream`, augmentation and normalisation of one stream of the batch.

  Returns:
    The step. `key` is the run's root key: the step's own randomness is `fold_in(key, state.step)`, so a resumed
    run draws what an uninterrupted one would have drawn. `metrics` are scalars, still on the device.
  """

  return jax.jit(_make_step(loss_fn, optimizer, prepare), donate_argnums=0)


def make_train_steps(
  loss_fn: Callable, optimizer: optax.GradientTransformation, prepare: Callable, take: Callable
) -> Callable:
  """A jit-compiled `(state, frozen, held, inputs, key) -> (state, metrics)`: one step after the other on the device.

  Args:
    loss_fn: this and the next two as for `make_train_step`.
    optimizer: gradient transformation.
    prepare: `(key, stream) -> stream`.
    take: `(held, input) -> batch`, see `data.feed.Feed`.

  Returns:
    The steps. Every leaf of `inputs` has the step as its first axis, as have the metrics; `state` is donated. There is
    one compilation for each number of steps.
  """
  step = _make_step(loss_fn, optimizer, prepare)

  @functools.partial(jax.jit, donate_argnums=0)
  def train_steps(state: TrainState, frozen, held, inputs, key):
    return jax.lax.scan(lambda state, one: step(state, frozen, take(held, one), key), state, inputs)

  return train_steps


def _make_step(loss_fn, optimizer, prepare):
  def train_step(state: TrainState, frozen, batch, key):
    prepare_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
    batch = {name: prepare(jax.random.fold_in(prepare_key, i), batch[name]) for i, name in enumerate(sorted(batch))}
    (loss, (extra, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.trainable, frozen, state.extra, batch, loss_key
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
    updates = jax.tree.map(lambda update: state.lr_scale * update, updates)
    state = TrainState(
      step=state.step + 1,
      trainable=optax.apply_updates(state.trainable, updates),
      extra=extra,
      opt_state=opt_state,
      lr_scale=state.lr_scale,
    )
    return state, {"loss": loss, "grad_norm": optax.global_norm(grads), **metrics}

  return train_step
