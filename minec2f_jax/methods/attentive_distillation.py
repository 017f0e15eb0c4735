"""MineC2FNet's Task 2: a student beside a frozen teacher (paper Sec. 4.2-4.4).

The teacher's encoder runs once a step and serves both the attentive feature injection (Sec. 4.3) and the
teacher's logits for the attentive knowledge transfer (Sec. 4.4).
"""

import jax
import jax.numpy as jnp

from minec2f_jax import distillation, fields, losses, ops
from minec2f_jax.methods import base
from minec2f_jax.models import factory

FIELDS = {
  "weight": fields.WEIGHT,
  "selection": fields.one_of(*distillation.SELECTIONS),
  "temperature": fields.number(0.01, 1000.0),
  "epsilon": fields.EPSILON,
  "normalizer": fields.one_of("selected", "all"),
}


def make_method(config, stage) -> base.Method:
  """The attentive distillation method.

  Args:
    config: mapping with `model` (see `models.factory`) and `distillation` (`weight`, and the keywords of
      `distillation.distillation_loss`).
    stage: mapping with `streams` (the one that is learned), `loss` (keywords of `losses.segmentation_loss`, Eq. 3) and
      `init_from_prior` (start the student's encoder and decoder from the teacher's).

  Returns:
    A `Method`; `trainable` is the student's parameters, `extra` its `{"batch_stats"}`, `frozen` the teacher's
    `{"params", "batch_stats"}`.
  """
  teacher = factory.make_segmenter(config["model"])
  student = factory.make_minec2fnet(config["model"])
  loss_weights = dict(stage["loss"])
  transfer = dict(config["distillation"])
  weight = transfer.pop("weight")
  selection = transfer["selection"]

  def run_teacher(frozen, image):
    outputs = teacher.apply(jax.lax.stop_gradient(frozen), image)
    return {**outputs["features"], "decoder": outputs["decoder"]}, outputs["logits"]

  def init(key, image, prior):
    frozen = base.make_teacher(prior)
    features, _ = jax.eval_shape(run_teacher, frozen, image)
    features = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), features)
    variables = student.init(key, image, features)
    trainable, batch_stats = variables["params"], variables["batch_stats"]
    if stage["init_from_prior"]:
      trainable = base.merge_parameters(trainable, prior.trainable)
      batch_stats = base.merge_parameters(batch_stats, prior.extra["batch_stats"])
    return base.Variables(trainable, frozen, {"batch_stats": batch_stats})

  def loss(trainable, frozen, extra, batch, key):
    stream = batch[stage["streams"][0]]
    features, teacher_logits = run_teacher(frozen, stream["image"])
    outputs, extra = base.apply_in_training(student, trainable, extra, key, stream["image"], features)
    label, valid = stream["label"], stream["valid"]
    logits, teacher_logits = outputs["logits"][..., 0], teacher_logits[..., 0]
    value, metrics = losses.segmentation_loss(logits, label, valid, **loss_weights)
    if selection != "none":
      transferred = distillation.distillation_loss(logits, teacher_logits, label, valid, **transfer)
      selected = distillation.selection_mask(logits, teacher_logits, label, valid, selection=selection)
      value += weight * transferred
      metrics = {**metrics, "distillation": transferred, "distilled_share": ops.masked_mean(selected, valid)}
    return value, (extra, metrics)

  def logits(trainable, frozen, extra, image):
    features, _ = run_teacher(frozen, image)
    return student.apply({"params": trainable, **extra}, image, features)["logits"]

  return base.Method(init, loss, logits)
