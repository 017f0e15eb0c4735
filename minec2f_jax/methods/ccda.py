"""CCDA (Shenaj et al. 2022): adaptation to a domain without labels, from coarse classes to fine ones.

The first step learns one domain's labels while answers on the other domain's images are to become certain (maximum
squares). The second goes on, and answers on these images are to stay what the old network says, whose classes may be
sums of finer ones. `split` says whether they are: the old network's mine is then fine mine and the margin around it.
"""

import jax
import jax.numpy as jnp

from minec2f_jax import adaptation, fields
from minec2f_jax.methods import base, margin, supervised
from minec2f_jax.models import factory

SAME = ((0,), (1,))  # classes of the new network that each one of the old has become
FIELDS = {
  **dict.fromkeys(("squares_weight", "distillation_weight"), fields.WEIGHT),
  "exponent": fields.number(0.0, 1.0),
  "start_after": fields.whole(0, 100_000_000),
  "split": fields.FLAG,
}


def make_start(config, stage) -> base.Method:
  """The first step of CCDA, without an old network.

  Args:
    config: mapping with `model` (see `models.factory`) and `ccda`: `squares_weight`, and `exponent` as in
      `adaptation.maximum_squares_loss`, on images without labels, from the step `start_after` on.
    stage: mapping with `streams` (with labels, without), `loss` (its `bce` weighs the cross-entropy) and
      `init_from_prior`.

  Returns:
    A `Method`; `trainable` is the parameters, `frozen` is empty, `extra` is {"batch_stats", "step"}.
  """
  model, plain, own = factory.make_segmenter(config["model"]), supervised.make_method(config, stage), config["ccda"]

  def init(key, image, prior):
    start = plain.init(key, image, prior)
    return start._replace(extra={**start.extra, "step": jnp.zeros([], jnp.int32)})

  def loss(trainable, frozen, extra, batch, key):
    del frozen
    source, target = (batch[name] for name in stage["streams"])
    statistics = {"batch_stats": extra["batch_stats"]}
    of_source, of_target, statistics = _answers(model, trainable, statistics, key, source, target)
    parts = _parts(_two(of_source), source["label"], source["valid"], _two(of_target), target["valid"], own)
    weight = jnp.where(extra["step"] >= own["start_after"], own["squares_weight"], 0.0)
    value = stage["loss"]["bce"] * parts["bce"] + weight * parts["squares"]
    return value, ({**statistics, "step": extra["step"] + 1}, parts)

  def logits(trainable, frozen, extra, image):
    return plain.logits(trainable, frozen, {"batch_stats": extra["batch_stats"]}, image)

  return base.Method(init, loss, logits)


def make_method(config, stage) -> base.Method:
  """The second step of CCDA.

  Args:
    config: mapping with `model` (see `models.factory`) and `ccda`: `squares_weight` and `exponent` as for `make_start`,
      `distillation_weight` of `adaptation.parent_divergence_loss` on images without labels, and `split`.
    stage: as for `make_start`; the original starts from the old network, `init_from_prior=True`.

  Returns:
    A `Method`; `trainable` is the parameters, with three classes in the head if `split`, `extra` is {"batch_stats"},
    `frozen` the old network's {"params", "batch_stats"}.
  """
  old, plain, own = factory.make_segmenter(config["model"]), supervised.make_method(config, stage), config["ccda"]
  split = own["split"]
  model = margin.make_segmenter(config["model"]) if split else old
  children = margin.CHILDREN if split else SAME
  classes = (lambda outputs: outputs["logits"]) if split else _two

  def init(key, image, prior):
    teacher = base.make_teacher(prior)
    start = plain.init(key, image, prior)
    head = start.trainable["head"]
    trainable = {**start.trainable, "head": margin.split_head(head, share=True) if split else head}
    return start._replace(trainable=trainable, frozen=teacher)

  def loss(trainable, frozen, extra, batch, key):
    source, target = (batch[name] for name in stage["streams"])
    frozen, label = jax.lax.stop_gradient(frozen), source["label"]
    if split:
      old_mine = old.apply(frozen, source["image"])["logits"][..., 0] > 0
      label = margin.fine_label(label > 0, old_mine)
    teacher = _two(old.apply(frozen, target["image"]))
    of_source, of_target, extra = _answers(model, trainable, extra, key, source, target)
    of_target = classes(of_target)
    parts = _parts(classes(of_source), label, source["valid"], of_target, target["valid"], own)
    parts["distillation"] = adaptation.parent_divergence_loss(of_target, teacher, target["valid"], children=children)
    value = stage["loss"]["bce"] * parts["bce"] + own["squares_weight"] * parts["squares"]
    return value + own["distillation_weight"] * parts["distillation"], (extra, parts)

  def logits(trainable, frozen, extra, image):
    del frozen
    answers = model.apply({"params": trainable, **extra}, image)["logits"]
    return margin.mine_logit(answers) if split else answers

  return base.Method(init, loss, logits)


def _answers(model, trainable, statistics, key, source, target):
  """What the network answers on both domains' images, one after the other, and its statistics then."""
  source_key, target_key = jax.random.split(key)
  of_source, statistics = base.apply_in_training(model, trainable, statistics, source_key, source["image"])
  of_target, statistics = base.apply_in_training(model, trainable, statistics, target_key, target["image"])
  return of_source, of_target, statistics


def _parts(of_source, label, source_valid, of_target, target_valid, own):
  """The losses that both steps have, of logits of two classes or more."""
  weight = jnp.ones(label.shape)
  return {
    "bce": adaptation.weighted_cross_entropy_loss(of_source, label, weight, source_valid),
    "squares": adaptation.maximum_squares_loss(of_target, target_valid, exponent=own["exponent"]),
  }


def _two(outputs):
  return adaptation.two_class_logits(outputs["logits"][..., 0])
