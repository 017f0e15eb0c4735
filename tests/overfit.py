"""How well a method learns four images by heart."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minec2f_jax import experiment, methods
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


def alone(config, *, size: int = 32):
  """`config`, changed to see nothing but four images of this size, all in a batch, with a network wide enough."""
  config.data.update(dict(batch_size=4, image_size=size))
  config.data.augment.update(dict(hflip=0.0, vflip=0.0, rot90=0.0, shift_scale_rotate=0.0))
  config.model.encoder.update(dict(growth_rate=8, stem_features=16))
  decoder = config.model.decoder
  decoder.update(dict.fromkeys({"pyramid_features", "segmentation_features"} & set(decoder), 16))
  config.optimizer.update(dict(learning_rate=1e-2, warmup_epochs=0))
  return config


def fit(config, name: str, train, source, prior=None, *, steps: int):
  """(variables before and after so many steps of a stage on `train`, IoU of mine on the images of `source`)."""
  stage = experiment.make_stage(config, name, wired := experiment.wire(config)[name], train, source)
  variables = jax.jit(stage.method.init)(jax.random.key(0), source.image[:1], prior)
  state = init_state(jax.tree.map(jnp.copy, variables), stage.optimizer)
  run = make_train_steps(stage.method.loss, stage.optimizer, stage.prepare, stage.feed.take)
  inputs = stage.feed.inputs(0)
  for _ in range(steps):
    batch = jax.tree.map(lambda x: x[None], next(inputs))
    state, _ = run(state, variables.frozen, stage.feed.held, batch, jax.random.key(0))
  result = methods.Variables(state.trainable, variables.frozen, state.extra)
  predicted = wired.predict(result, {"image": source.image, "valid": source.valid}) > 0
  return variables, result, np.sum(predicted & (source.label > 0)) / np.sum(predicted | (source.label > 0))
