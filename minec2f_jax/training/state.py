"""What a training step carries from one step to the next."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minec2f_jax.methods.base import PyTree, Variables


class TrainState(NamedTuple):
  """Everything that moves; what is frozen stays outside, so that this alone can be donated and saved."""

  step: jax.Array  # [] int32, steps taken, skipped ones too
  trainable: PyTree
  extra: PyTree
  opt_state: optax.OptState
  lr_scale: jax.Array  # [] float32, what the plateau rule has left of the learning rate
  skipped: jax.Array  # [] int32, steps that moved nothing because their loss or gradient was not finite
  skipped_in_a_row: jax.Array  # [] int32, those since the last one that was finite


def init_state(variables: Variables, optimizer: optax.GradientTransformation) -> TrainState:
  """The state before the first step."""
  return TrainState(
    step=jnp.zeros([], jnp.int32),
    trainable=variables.trainable,
    extra=variables.extra,
    opt_state=jax.jit(optimizer.init)(variables.trainable),  # One program, not one a parameter.
    lr_scale=jnp.ones([], jnp.float32),
    skipped=jnp.zeros([], jnp.int32),
    skipped_in_a_row=jnp.zeros([], jnp.int32),
  )
