"""A stage that compiles in a blink, for the trainer to be interrupted in: a weight a band, noise, a running mean."""

import jax
import jax.numpy as jnp
import numpy as np

from minec2f_jax import devices
from minec2f_jax.data import feed
from minec2f_jax.methods import Method, Variables
from minec2f_jax.training import checkpoints, optimizers, state, trainer
from tests import toy

KEY = jax.random.key(3)
STEPS = 4  # an epoch


def _init(key, image, prior):
  del prior
  weights = {"kernel": 0.1 * jax.random.normal(key, (image.shape[-1],)), "bias": jnp.zeros(())}
  return Variables(weights, {}, {"mean": jnp.zeros(())})


def _logits(trainable, frozen, extra, image):
  del frozen
  return (image - extra["mean"]) @ trainable["kernel"] + trainable["bias"]


def _loss(trainable, frozen, extra, batch, key):
  stream = batch["coarse"]
  image = stream["image"] * (1 + 0.1 * jax.random.normal(key, ()))
  value = jnp.mean((_logits(trainable, frozen, extra, image) - stream["label"]) ** 2)
  return value, ({"mean": 0.9 * extra["mean"] + 0.1 * jnp.mean(image)}, {"bce": value})


def make_stage(source=None, *, epochs: int = 3, batch_size: int = 2, **changed) -> trainer.Stage:
  """The stage on `source`, of eight toy images if none is given; its score rises and falls, so that rules act."""
  source = source or toy.ArraySource(STEPS * batch_size, size=8)
  score = jax.jit(lambda variables: jnp.sin(1e3 * jnp.sum(variables.trainable["kernel"])))
  stage = trainer.Stage(
    name="coarse",
    method=Method(_init, _loss, _logits),
    optimizer=optimizers.make_optimizer(learning_rate=1e-2, weight_decay=1e-2, warmup_steps=3),
    rules=optimizers.ScoreRules(warmup_epochs=1, plateau_patience=1, stop_patience=100),
    epochs=epochs,
    steps_per_epoch=len(source) // batch_size,
    feed=feed.make_feed({"coarse": source}, batch_size=batch_size, seed=5),
    steps_per_call=1,
    prepare=lambda key, stream: stream,
    validate=lambda variables: {"miou": float(score(variables))},
    monitor="miou",
    batch_size=batch_size,
    spec={"bands": ["red"]},
    mesh=devices.first_mesh(),
  )
  return stage._replace(**changed)


def latest(folder) -> tuple[state.TrainState, optimizers.Progress]:
  """The latest saved training state and progress."""
  stage = make_stage()
  template = state.init_state(trainer.start(stage, KEY, None), stage.optimizer)
  return checkpoints.Checkpoints(folder, read_only=True).restore_latest(template)


def with_nan(*places: int, **changed) -> toy.ArraySource:
  """Eight toy images, of which those in `places` are NaN."""
  source = toy.ArraySource(8, size=8, **changed)
  source.image[list(places)] = np.nan
  return source
