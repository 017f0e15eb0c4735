"""BUS (Choe et al. 2024): adaptation to a domain that may hold what the source does not, called "unknown".

As in UDAforRS the coarse set is the source, and of the fine set the images alone take part; a third class stands for
whatever a teacher is not sure of. Each step learns source images, mixed images (ClassMix) with the source's mines in
half their size among them (OpenReMix), target images with holes (MIC), and that features of unknown regions agree with
each other more than with what surrounds them (DECON).
"""

import jax
import jax.numpy as jnp

from minec2f_jax import adaptation, fields, ops, perturbations
from minec2f_jax.methods import base, self_training, supervised
from minec2f_jax.models import factory, padding

MINE, UNKNOWN = 1, 2  # after background, 0
VERDICTS = ("background", "ignored")
FIELDS = {
  **self_training.FIELDS,
  "unknown_threshold": fields.number(0.0, 1.0, "probability"),
  "confidence": fields.number(0.0, 1.0, "probability"),
  **dict.fromkeys(("mix_weight", "mask_weight", "contrast_weight"), fields.WEIGHT),
  "mask_block": fields.whole(1, 4096),
  "mask_ratio": fields.number(0.0, 1.0),
  "contrast_samples": fields.whole(1, 65536),
  "attach_share": fields.number(0.0, 1.0),
  "attach_period": fields.whole(1, 100_000_000),
  "unknown_is": fields.one_of(*VERDICTS),
}


def make_method(config, stage) -> base.Method:
  """The BUS method.

  Args:
    config: mapping with `model` (see `models.factory`; the head gets three classes) and `bus`: the fields of
      `self_training`; `unknown_threshold` (up to which probability the teacher's best class becomes unknown),
      `confidence` (from which on a pixel is sure; their share in a batch weighs all pseudo-labels), `mix_weight`,
      `mask_weight` and `contrast_weight` of the three losses on target images, `mask_block` (pixels) and `mask_ratio`
      as in `perturbations.block_mask`, `contrast_samples` as in `adaptation.contrast_loss`; the last `attach_share` of
      every `attach_period` steps attach unknown pixels to source images; `unknown_is` background for `logits`, or
      ignored: the better one of background and mine counts.
    stage: as for `udaforrs`; with `init_from_prior` encoder and decoder start from the earlier stage, not the head.

  Returns:
    A `Method`; `trainable` is the student's parameters, `frozen` is empty, `extra` is {"batch_stats", "teacher",
    "step"}. The student's statistics are of source and mixed images, not of those with holes.
  """
  head = {**config["model"].get("head", {}), "classes": UNKNOWN + 1}
  config = {"model": {**config["model"], "head": head}, "bus": config["bus"]}
  model, plain, own = factory.make_segmenter(config["model"]), supervised.make_method(config, stage), config["bus"]

  def init(key, image, prior):
    if prior is not None:
      prior = prior._replace(trainable={name: tree for name, tree in prior.trainable.items() if name != "head"})
    return self_training.start(plain.init(key, image, prior))

  def loss(trainable, frozen, extra, batch, key):
    del frozen
    source, target = (batch[name] for name in stage["streams"])
    mix_key, hole_key, contrast_key, *dropout_keys = jax.random.split(key, 6)
    teacher = self_training.follow(trainable, extra, decay=own["ema"])
    answers = self_training.answer(model, teacher, target["image"], statistics=own["teacher_statistics"])
    target, weight = with_pseudo_label(target, answers, own)
    source = {**source, "label": source["label"].astype(jnp.int32), "weight": jnp.ones_like(weight)}
    target = {**target, "weight": weight}
    attaching = adaptation.is_late(extra["step"], period=own["attach_period"], share=own["attach_share"])
    batches = (attach(source, target, attaching), mix(mix_key, source, target, own), pierce(hole_key, target, own))
    statistics, outputs = self_training.student_statistics(extra), []
    for one, dropout_key in zip(batches, dropout_keys, strict=True):
      found, after = base.apply_in_training(model, trainable, statistics, dropout_key, one["image"])
      outputs.append(found)
      statistics = statistics if one is batches[-1] else after
    names = ("bce", "mixed", "masked")
    parts = {name: _cross_entropy(found, one) for name, found, one in zip(names, outputs, batches)}
    parts["contrast"] = contrast(contrast_key, outputs[1]["decoder"], batches[1], own)
    value = stage["loss"]["bce"] * parts["bce"] + own["mix_weight"] * parts["mixed"]
    value += own["mask_weight"] * parts["masked"] + own["contrast_weight"] * parts["contrast"]
    unknown = (target["label"] == UNKNOWN).astype(jnp.float32)
    parts |= {"sure_share": jnp.max(weight), "unknown_share": ops.masked_mean(unknown, target["valid"])}
    return value, ({**statistics, "teacher": teacher, "step": extra["step"] + 1}, parts)

  def logits(trainable, frozen, extra, image):
    scores = plain.logits(trainable, frozen, self_training.student_statistics(extra), image)
    others = scores[..., 0] if own["unknown_is"] == "ignored" else jnp.maximum(scores[..., 0], scores[..., UNKNOWN])
    return (scores[..., MINE] - others)[..., None]

  return base.Method(init, loss, logits)


def with_pseudo_label(target, answers, own):
  """(`target` with what the teacher's `answers` [B, H, W, 3] say as its label, the weight [B, H, W] of it all).

  The weight is one number: the share of sure pixels in the batch.
  """
  label, probability = adaptation.pseudo_label(answers)
  label = jnp.where(probability > own["unknown_threshold"], label, UNKNOWN)
  sure = ops.masked_mean((probability >= own["confidence"]).astype(jnp.float32), target["valid"])
  return {**target, "label": label}, jnp.full(label.shape, sure)


def attach(source, target, attaching):
  """`source` with the unknown pixels of `target`, if `attaching` (AP of OpenReMix)."""
  return adaptation.paste(attaching & target["valid"] & (target["label"] == UNKNOWN), target, source)


def mix(key, source, target, own):
  """`target` with the pixels of one class of each source image and, if that is not mine, its mines at half size.

  ClassMix and RO of OpenReMix, with other colours and sharpness.
  """
  class_key, place_key, image_key = jax.random.split(key, 3)
  mask, chosen = adaptation.class_mask(class_key, source["label"], source["valid"], classes=UNKNOWN)
  mixed = adaptation.paste(mask, source, target)
  mines = source["valid"] & (source["label"] == MINE) & ~chosen[:, MINE, None, None]
  image, where = perturbations.shrunk_copy(place_key, source["image"], mines)
  mixed = adaptation.paste(where, {**source, "image": image, "label": where * MINE, "valid": where}, mixed)
  return self_training.augment(image_key, mixed, own)


def pierce(key, target, own):
  """`target` in other colours and with holes, which are to be filled from what surrounds them (MIC)."""
  hole_key, image_key = jax.random.split(key)
  target = self_training.augment(image_key, target, own)
  seen = perturbations.block_mask(hole_key, target["valid"].shape, size=own["mask_block"], ratio=own["mask_ratio"])
  return {**target, "image": jnp.where(seen[..., None], target["image"], 0)}


def contrast(key, features, mixed, own):
  """`adaptation.contrast_loss` of the unknown regions at the resolution of `features`, the map before the head."""
  unknown = padding.pad_mask(mixed["valid"] & (mixed["label"] == UNKNOWN))
  stride = unknown.shape[1] // features.shape[1]
  thin = lambda mask: mask[:, ::stride, ::stride]
  valid = padding.pad_mask(mixed["valid"])
  return adaptation.contrast_loss(key, features, thin(unknown), thin(valid), samples=own["contrast_samples"])


def _cross_entropy(outputs, batch):
  return adaptation.weighted_cross_entropy_loss(outputs["logits"], batch["label"], batch["weight"], batch["valid"])
