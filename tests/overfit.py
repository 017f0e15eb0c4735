"""How well a method learns four images by heart."""

import jax
import numpy as np
import optax

from minec2f_jax import methods
from minec2f_jax.training.state import init_state
from minec2f_jax.training.step import make_train_steps
from tests import toy


def iou_of_learnt_images(config, *, steps: int, learning_rate: float = 1e-2) -> float:
  """IoU of mines on the four images that the fine stage of `config` has been trained with for so many steps.

  Predicted as in evaluation, with running statistics; no augmentation.
  """
  source = toy.ArraySource(4)
  images = (source.image - 0.15) / 0.1
  batch = {"fine": {"image": images, "label": source.label, "valid": source.valid}}
  method, optimizer = methods.make_method(config, config["fine"]), optax.adam(learning_rate)
  variables = jax.jit(lambda key: method.init(key, images[:1], None))(jax.random.key(0))
  run = make_train_steps(method.loss, optimizer, lambda key, stream: stream, lambda held, step: held)
  state = init_state(variables, optimizer)
  for step in range(steps):
    state, _ = run(state, {}, batch, np.array([step]), jax.random.key(1))
  predicted = np.asarray(jax.jit(method.logits)(state.trainable, {}, state.extra, images))[..., 0] > 0
  label = source.label > 0
  return (predicted & label).sum() / (predicted | label).sum()
