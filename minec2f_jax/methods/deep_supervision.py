"""Supervised segmentation with a second loss inside the encoder, as GSMF-RS-DIL trains its first domain.

The auxiliary head predicts from one of the encoder's maps; it takes no part in what evaluation, prediction and later
stages see.
"""

import jax
import jax.numpy as jnp

from minec2f_jax import fields, losses
from minec2f_jax.methods import base, supervised
from minec2f_jax.models import FCNHead, factory, padding

LEVELS = ("c2", "c3", "c4", "c5")
FIELDS = {
  "weight": fields.WEIGHT,
  "level": fields.one_of(*LEVELS),
  "features": fields.CHANNELS,
  "dropout": fields.DROPOUT,
}


def make_method(config, stage) -> base.Method:
  """The `supervised` method, which see, with an auxiliary head.

  Args:
    config: mapping with `model` (see `models.factory`) and `deep_supervision`: `weight` of the auxiliary loss, `level`
      of the encoder's map (one of `LEVELS`), and the head's `features` and `dropout`.
    stage: as for `supervised`; the auxiliary head always starts at random.

  Returns:
    A `Method`; `trainable` and `extra["batch_stats"]` are those of `supervised` with the head's as "auxiliary".
  """
  own, plain = config["deep_supervision"], supervised.make_method(config, stage)
  model = factory.make_segmenter(config["model"])
  dtype = jnp.dtype(factory.resolve_dtype(config["model"].get("dtype", "float32")))
  head = FCNHead(features=own["features"], dropout=own["dropout"], dtype=dtype)
  weight, level, loss_weights = own["weight"], own["level"], dict(stage["loss"])

  def init(key, image, prior):
    start = plain.init(key, image, prior)
    features = jax.eval_shape(lambda x: model.apply({"params": start.trainable, **start.extra}, x)["features"], image)
    if level not in features:
      raise ValueError(
        f"config.deep_supervision.level={level!r}: the encoder has {sorted(features)}; give one of them."
      )
    example = jnp.zeros(features[level].shape, features[level].dtype)
    auxiliary = head.init(jax.random.fold_in(key, 1), example, train=False)
    trainable = {**start.trainable, "auxiliary": auxiliary["params"]}
    batch_stats = {**start.extra["batch_stats"], "auxiliary": auxiliary["batch_stats"]}
    return base.Variables(trainable, start.frozen, {"batch_stats": batch_stats})

  def loss(trainable, frozen, extra, batch, key):
    del frozen
    stream, statistics = batch[stage["streams"][0]], dict(extra["batch_stats"])
    label, valid, own_statistics = stream["label"], stream["valid"], {"batch_stats": statistics.pop("auxiliary")}
    own_key = jax.random.fold_in(key, 1)
    outputs, moved = base.apply_in_training(model, trainable, {"batch_stats": statistics}, key, stream["image"])
    low, own_moved = base.apply_in_training(
      head, trainable["auxiliary"], own_statistics, own_key, outputs["features"][level]
    )
    value, parts = losses.segmentation_loss(outputs["logits"][..., 0], label, valid, **loss_weights)
    parts["auxiliary"], _ = losses.segmentation_loss(_enlarge(low, label.shape), label, valid, **loss_weights)
    extra = {"batch_stats": {**moved["batch_stats"], "auxiliary": own_moved["batch_stats"]}}
    return value + weight * parts["auxiliary"], (extra, parts)

  return plain._replace(init=init, loss=loss)


def _enlarge(logits, shape):
  """[B, H, W] of logits [B, h, w, 1] of the padded image, by bilinear interpolation; `shape` is (B, H, W)."""
  batch, height, width = shape
  multiple = padding.MULTIPLE
  padded = (batch, height + -height % multiple, width + -width % multiple, 1)
  return padding.crop(jax.image.resize(logits, padded, "bilinear"), (height, width))[..., 0]
