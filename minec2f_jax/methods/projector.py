"""The stage of SPPA (Lin et al. 2022, ECCV) between old and new: a projector of the old encoder's deepest features.

With a decoder of its own it is an autoencoder of these features, on the new images; their labels take no part.
"""

import jax
import jax.numpy as jnp

from minec2f_jax import ops
from minec2f_jax.methods import base, lwm
from minec2f_jax.models import Projector, Reconstruction, factory


def make_network(config) -> Projector:
  """The projector that `config` describes, a mapping with `model` and `sppa` (`features`)."""
  return Projector(features=config["sppa"]["features"], dtype=_dtype(config))


def deepest(outputs):
  """The map [B, h, w, C] of an encoder that has the largest stride, of what a `Segmenter` returns."""
  return outputs["features"][max(outputs["features"])]


def make_method(config, stage) -> base.Method:
  """The method that trains a projector.

  What its `logits` are has a score, as the trainer wants, that tells good projectors from bad ones: the old network's,
  with what the autoencoder makes of its deepest features in their place.

  Args:
    config: mapping with `model` (see `models.factory`) and `sppa` (`features`).
    stage: mapping with `streams` (the one whose images are learnt).

  Returns:
    A `Method`; `trainable` is {"projector", "reconstruction"}, `extra` is empty, `frozen` the old network's {"params",
    "batch_stats"}.
  """
  model, projector = factory.make_segmenter(config["model"]), make_network(config)

  def restore(trainable, features):
    wide = Reconstruction(features=2 * projector.features, channels=features.shape[-1], dtype=_dtype(config))
    narrow = projector.apply({"params": trainable["projector"]}, features)
    return wide.apply({"params": trainable["reconstruction"]}, narrow)

  def init(key, image, prior):
    teacher = base.make_teacher(prior)
    shape = jax.eval_shape(lambda image: deepest(model.apply(teacher, image)), image)
    wide = Reconstruction(features=2 * projector.features, channels=shape.shape[-1], dtype=_dtype(config))
    keys, features = jax.random.split(key), jnp.zeros(shape.shape, shape.dtype)
    narrow = jnp.zeros((*shape.shape[:-1], projector.features), shape.dtype)
    trainable = {
      "projector": projector.init(keys[0], features)["params"],
      "reconstruction": wide.init(keys[1], narrow)["params"],
    }
    return base.Variables(trainable, teacher, {})

  def loss(trainable, frozen, extra, batch, key):
    del key
    stream = batch[stage["streams"][0]]
    features = deepest(model.apply(jax.lax.stop_gradient(frozen), stream["image"])).astype(jnp.float32)
    error = jnp.mean((restore(trainable, features).astype(jnp.float32) - features) ** 2, axis=-1)
    value = ops.masked_mean(error, lwm.valid_positions(stream["valid"], error.shape))
    return value, (extra, {"reconstruction": value})

  def logits(trainable, frozen, extra, image):
    del extra
    features = model.apply(frozen, image)["features"]
    features = {**features, max(features): restore(trainable, features[max(features)])}
    return model.apply(frozen, features, size=image.shape[1:3], method="decode")["logits"]

  return base.Method(init, loss, logits)


def _dtype(config):
  return jnp.dtype(factory.resolve_dtype(config["model"].get("dtype", "float32")))
