"""Learning without Forgetting (Li & Hoiem 2016, arXiv:1606.09282): fine labels, and the old model's answers as targets.

The old model runs on the same fine images. Both tasks have the same classes, so the student has the old head and no
new one: what the original does with tasks of their own classes becomes standard distillation of every pixel.
"""

import jax

from minec2f_jax import distillation, fields, losses
from minec2f_jax.methods import base, supervised
from minec2f_jax.models import factory

FIELDS = {"weight": fields.WEIGHT, **fields.SOFT_TARGETS}


def make_method(config, stage) -> base.Method:
  """The LwF method.

  Args:
    config: mapping with `model` (see `models.factory`) and `lwf` (`weight` lambda, and the keywords of
      `distillation.soft_target_loss`).
    stage: as for `supervised`; the original starts from the old model, `init_from_prior=True`.

  Returns:
    A `Method`; `trainable` is the parameters, `extra` is `{"batch_stats"}`, `frozen` the old model's `{"params",
    "batch_stats"}`.
  """
  model, plain = factory.make_segmenter(config["model"]), supervised.make_method(config, stage)
  loss_weights, transfer = dict(stage["loss"]), dict(config["lwf"])
  weight = transfer.pop("weight")

  def init(key, image, prior):
    teacher = base.make_teacher(prior)
    return plain.init(key, image, prior)._replace(frozen=teacher)

  def loss(trainable, frozen, extra, batch, key):
    stream = batch[stage["streams"][0]]
    old = model.apply(jax.lax.stop_gradient(frozen), stream["image"])["logits"][..., 0]
    outputs, extra = base.apply_in_training(model, trainable, extra, key, stream["image"])
    logits, valid = outputs["logits"][..., 0], stream["valid"]
    value, parts = losses.segmentation_loss(logits, stream["label"], valid, **loss_weights)
    transferred = distillation.soft_target_loss(logits, old, valid, **transfer)
    return value + weight * transferred, (extra, {**parts, "distillation": transferred})

  return base.Method(init, loss, plain.logits)
