"""UDAforRS (Li et al. 2022): a domain without labels is learnt from the answers of an averaged teacher.

The coarse set is the source, with its labels; of the fine set, the target, the images alone take part. Each step learns
source images, their classes weighted by how rare they are (gradual class weights), and target images into which a class
of the source is pasted (ClassMix), their pseudo-labels weighted by how sure the teacher is around (local quality).
"""

import jax
import jax.numpy as jnp

from minec2f_jax import adaptation, fields, ops
from minec2f_jax.methods import base, self_training, supervised
from minec2f_jax.models import factory

CLASSES = 2  # background and mine, as the softmax of (0, logit)
FIELDS = {
  **self_training.FIELDS,
  "class_temperature": fields.number(0.001, 1000.0),
  "class_momentum": fields.number(0.0, 1.0),
  "confidence": fields.number(0.0, 1.0, "probability"),
  "quality_window": fields.Field(
    lambda x: fields.whole(1, 255).fits(x) and x % 2 == 1, "give an odd whole number from 1 to 255"
  ),
  "mix_weight": fields.WEIGHT,
}


def make_method(config, stage) -> base.Method:
  """The UDAforRS method.

  Args:
    config: mapping with `model` (see `models.factory`) and `udaforrs`: `ema` (what the teacher keeps of itself a step)
      and `teacher_statistics` (one of `self_training.STATISTICS`), `class_temperature` and `class_momentum` as in
      `adaptation.gradual_class_weights`, `confidence` (least probability of a sure pixel) and `quality_window` as in
      `adaptation.local_quality`, `mix_weight` of the loss on mixed images, `jitter_strength`, `jitter` and `blur` as in
      `perturbations.strong_augmentation`.
    stage: mapping with `streams` (source, target), `loss` (its `bce` weighs the loss on source images) and
      `init_from_prior`.

  Returns:
    A `Method`; `trainable` is the student's parameters, `frozen` is empty, `extra` is {"batch_stats", "teacher",
    "step", "class_weights" [2]}. The student's statistics are of source and mixed images.
  """
  model, plain, own = factory.make_segmenter(config["model"]), supervised.make_method(config, stage), config["udaforrs"]

  def init(key, image, prior):
    start = self_training.start(plain.init(key, image, prior))
    return start._replace(extra={**start.extra, "class_weights": jnp.ones(CLASSES)})

  def mix(key, source, target, teacher_logits):
    """(the mixed batch {"image", "label", "valid"}, each pixel's weight)."""
    mask_key, image_key = jax.random.split(key)
    label, probability = adaptation.pseudo_label(teacher_logits)
    sure = target["valid"] & (probability >= own["confidence"])
    quality = adaptation.local_quality(sure, size=own["quality_window"])
    mask, _ = adaptation.class_mask(mask_key, source["label"], source["valid"], classes=CLASSES)
    both = ({**source, "label": source["label"].astype(label.dtype)}, {**target, "label": label})
    mixed, weight = adaptation.paste(mask, (both[0], jnp.ones_like(quality)), (both[1], quality))
    return self_training.augment(image_key, mixed, own), weight

  def loss(trainable, frozen, extra, batch, key):
    del frozen
    source, target = (batch[name] for name in stage["streams"])
    mix_key, source_key, mixed_key = jax.random.split(key, 3)
    teacher = self_training.follow(trainable, extra, decay=own["ema"])
    answers = self_training.answer(model, teacher, target["image"], statistics=own["teacher_statistics"])
    mixed, weight = mix(mix_key, source, target, adaptation.two_class_logits(answers[..., 0]))
    weights, class_weights = adaptation.gradual_class_weights(
      extra["class_weights"],
      source["label"],
      source["valid"],
      temperature=own["class_temperature"],
      momentum=own["class_momentum"],
    )
    statistics = self_training.student_statistics(extra)
    of_source, statistics = base.apply_in_training(model, trainable, statistics, source_key, source["image"])
    of_mixed, statistics = base.apply_in_training(model, trainable, statistics, mixed_key, mixed["image"])
    source_weight = adaptation.weight_map(weights, source["label"], source["valid"])
    parts = {
      "bce": _cross_entropy(of_source, source, source_weight),
      "mixed": _cross_entropy(of_mixed, mixed, weight),
    }
    value = stage["loss"]["bce"] * parts["bce"] + own["mix_weight"] * parts["mixed"]
    parts |= {"mine_weight": class_weights[1], "mixed_weight": ops.masked_mean(weight, mixed["valid"])}
    extra = {**statistics, "teacher": teacher, "step": extra["step"] + 1, "class_weights": class_weights}
    return value, (extra, parts)

  def logits(trainable, frozen, extra, image):
    return plain.logits(trainable, frozen, self_training.student_statistics(extra), image)

  return base.Method(init, loss, logits)


def _cross_entropy(outputs, batch, weight):
  logits = adaptation.two_class_logits(outputs["logits"][..., 0])
  return adaptation.weighted_cross_entropy_loss(logits, batch["label"], weight, batch["valid"])
