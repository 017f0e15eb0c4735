"""The one train step that every method shares."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from minec2f_jax.training.state import TrainState


def make_train_steps(
  loss_fn: Callable, optimizer: optax.GradientTransformation, prepare: Callable, take: Callable
) -> Callable:
  """A jit-compiled `(state, frozen, held, inputs, key) -> (state, metrics)`: one step after the other on the device.

  Args:
    loss_fn: a method's `loss`.
    optimizer: gradient transformation; its updates are scaled by `state.lr_scale`, which for AdamW is the same
      as scaling the learning rate, decay included.
    prepare: `(key, stream) -> stream`, augmentation and normalisation of one stream of the batch.
    take: `(held, input) -> batch`, see `data.feed.Feed`.

  Returns:
    The steps. Every leaf of `inputs` has the step as its first axis, as have the metrics, scalars that are still on
    the device; `state` is donated. There is one compilation for each number of steps. `key` is the run's root key: a
    step's own randomness is `fold_in(key, state.step)`, so a resumed run draws what an uninterrupted one would have
    drawn. A step whose loss or gradient is not finite moves nothing but the counters; its "skipped" is 1.
  """
  step = _make_step(loss_fn, optimizer, prepare)

  @functools.partial(jax.jit, donate_argnums=0)
  def train_steps(state: TrainState, frozen, held, inputs, key):
    body = lambda state, one: step(state, frozen, take(held, one), key)
    if len(jax.tree.leaves(inputs)[0]) > 1:
      return jax.lax.scan(body, state, inputs)
    # No loop for one step: in its body XLA's CPU compiler leaves gradients to convolutions that take ten times as long.
    state, metrics = body(state, jax.tree.map(lambda x: x[0], inputs))
    return state, jax.tree.map(lambda x: x[None], metrics)

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
    grad_norm = optax.global_norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    unless_skipped = functools.partial(jax.tree.map, lambda new, old: jnp.where(finite, new, old))
    state = TrainState(
      step=state.step + 1,
      trainable=unless_skipped(optax.apply_updates(state.trainable, updates), state.trainable),
      extra=unless_skipped(extra, state.extra),
      opt_state=unless_skipped(opt_state, state.opt_state),
      lr_scale=state.lr_scale,
      skipped=state.skipped + ~finite,
      skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )
    return state, {"loss": loss, "grad_norm": grad_norm, "skipped": 1.0 - finite, **metrics}

  return train_step
