"""A small saved stage whose every weight is known from its step, for the faults to strike."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from minec2f_jax.methods import Variables
from minec2f_jax.training import checkpoints, optimizers, state

OPTIMIZER = optimizers.make_optimizer(learning_rate=0.1, weight_decay=0.1, warmup_steps=4)


def variables(fill: float = 0.0, *, width: int = 3, dtype=np.float32) -> Variables:
  """A model with all weights `fill`; the frozen ones are 7."""
  return Variables(
    trainable={"layer": {"kernel": np.full((2, width), fill, dtype), "half": np.full(2, fill, ml_dtypes.bfloat16)}},
    frozen={"params": {"kernel": np.full(2, 7.0, np.float32)}},
    extra={"batch_stats": {"mean": np.full(3, fill, np.float32)}},
  )


def state_at(step: int, **changed) -> state.TrainState:
  """The training state whose weights are all `step`."""
  return state.init_state(variables(step, **changed), OPTIMIZER)._replace(step=jnp.int32(step))


def progress_at(step: int) -> optimizers.Progress:
  """Progress as a run might have it after `step` epochs."""
  return optimizers.Progress(epoch=step, best_score=step / 100, best_epoch=step)


def save(folder, scores, *, first: int = 1):
  """Saves a checkpoint a score, at steps `first`, `first` + 1, ..."""
  saver = checkpoints.Checkpoints(folder)
  if not checkpoints.has_checkpoints(folder):
    saver.write_spec({"bands": ["red"]}, variables().frozen)
  for step, score in enumerate(scores, start=first):
    saver.save(state_at(step), progress_at(step), score)
  saver.close()


def same(tree, other) -> bool:
  """Whether two trees agree in structure, dtypes, shapes and every bit."""
  leaves, others = jax.tree.leaves(tree), jax.tree.leaves(other)
  return jax.tree.structure(tree) == jax.tree.structure(other) and all(
    a.dtype == b.dtype and a.shape == b.shape and np.asarray(a).tobytes() == np.asarray(b).tobytes()
    for a, b in zip(leaves, others)
  )


def is_step(restored: tuple[state.TrainState, optimizers.Progress], step: int) -> bool:
  """Whether what was restored is what was saved at `step`, to the bit."""
  return same(restored[0], state_at(step)) and restored[1] == progress_at(step)
