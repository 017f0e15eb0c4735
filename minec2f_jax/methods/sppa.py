"""SPPA (Lin et al. 2022, ECCV): structure-preserving, prototype-guided alignment in class-incremental segmentation.

Written from the paper's losses alone. The new class is the fine mine: what the old network calls mine and a fine label
does not becomes a class of its own, the margin. Old and new features are compared after a projector each, the old one
as a stage of its own leaves it (`projector`); the features of old classes keep their structure, and those of the new
one gather around a prototype.
"""

import jax
import jax.numpy as jnp

from minec2f_jax import adaptation, fields, incremental
from minec2f_jax.methods import base, lwm, margin, projector, supervised
from minec2f_jax.models import factory, padding

FIELDS = {
  "new_class": fields.FLAG,
  "features": fields.CHANNELS,
  **dict.fromkeys(("align_weight", "intra_weight", "inter_weight", "compact_weight"), fields.WEIGHT),
  "keep": fields.number(0.0, 1.0),
  "prototype_momentum": fields.number(0.0, 1.0),
}


def make_method(config, stage) -> base.Method:
  """The SPPA method.

  Args:
    config: mapping with `model` (see `models.factory`) and `sppa`: `new_class` (fine mines are a third class; without
      it there are two, labels serve in place of the old network's answers, and there is no prototype), `features` of
      the projector, the weights of `incremental.alignment_loss`, `intra_class_loss`, `inter_class_loss` and
      `compactness_loss`, `keep` as in `incremental.doubt_thresholds`, `prototype_momentum` as `keep` in
      `incremental.running_prototype`.
    stage: mapping with `streams` (the one that is learned), `loss` (its `bce` weighs the cross-entropy) and
      `init_from_prior`: encoder, decoder and head start from the old network, as in the original.

  Returns:
    A `Method`; `trainable` is the parameters, "projector" among them, `frozen` the old network's {"params",
    "batch_stats"} and its "projector", `extra` is {"batch_stats"} and, with a new class, "counts" (of
    `incremental.doubt_counts`, summed), "prototype" [C] and "seen" [].
  """
  own, plain = dict(config["sppa"]), supervised.make_method(config, stage)
  old, network, new_class = factory.make_segmenter(config["model"]), projector.make_network(config), own["new_class"]
  model = margin.make_segmenter(config["model"]) if new_class else old

  def init(key, image, prior):
    if prior is None or "projector" not in prior.trainable:
      raise ValueError(
        "the method 'sppa' needs the projector of the stage before it: put a stage with the method 'projector' between "
        '"coarse" and it in config.stages, as configs/baselines/sppa.py does.'
      )
    before = base.Variables(prior.frozen["params"], {}, {"batch_stats": prior.frozen["batch_stats"]})
    start, projecting = plain.init(key, image, before), {"projector": prior.trainable["projector"]}
    frozen = base.make_teacher(before._replace(trainable={**before.trainable, **projecting}))
    trainable = {**start.trainable, **base.copy_tree(projecting)}
    if not new_class:
      return base.Variables(trainable, frozen, start.extra)
    trainable["head"] = margin.split_head(start.trainable["head"], share=False)
    channels = jax.eval_shape(lambda image: old.apply(frozen, image)["decoder"], image).shape[-1]
    own_extra = {
      "counts": jnp.zeros((2, len(incremental.DOUBTS) + 1)),
      "prototype": jnp.zeros(channels),
      "seen": jnp.zeros([], bool),
    }
    return base.Variables(trainable, frozen, {**start.extra, **own_extra})

  def loss(trainable, frozen, extra, batch, key):
    stream, frozen = batch[stage["streams"][0]], jax.lax.stop_gradient(frozen)
    image, valid, mine = stream["image"], stream["valid"], stream["valid"] & (stream["label"] > 0)
    before = old.apply(frozen, image)
    statistics = {"batch_stats": extra["batch_stats"]}
    after, statistics = base.apply_in_training(model, trainable, statistics, key, image)
    extra, old_logits = {**extra, **statistics}, before["logits"][..., 0]
    if new_class:
      label, counted, counts = pseudo_label(old_logits, mine, valid, extra["counts"], keep=own["keep"])
      region = valid & ~mine & (old_logits > 0)
      logits, extra = after["logits"], {**extra, "counts": counts}
    else:
      label, counted, region, logits = mine, valid, mine, adaptation.two_class_logits(after["logits"][..., 0])
    region = at_map(region, after["decoder"])
    parts = {
      "bce": adaptation.weighted_cross_entropy_loss(logits, label, jnp.ones(label.shape), counted),
      "alignment": alignment(network, trainable, frozen["params"], after, before, valid),
      "intra": incremental.intra_class_loss(after["decoder"], before["decoder"], region),
      "inter": incremental.inter_class_loss(after["decoder"], before["decoder"], region),
    }
    value = stage["loss"]["bce"] * parts["bce"] + own["align_weight"] * parts["alignment"]
    value += own["intra_weight"] * parts["intra"] + own["inter_weight"] * parts["inter"]
    if new_class:
      parts["compact"], extra = compactness(after["decoder"], mine, extra, keep=own["prototype_momentum"])
      value += own["compact_weight"] * parts["compact"]
    return value, (extra, parts)

  def logits(trainable, frozen, extra, image):
    del frozen
    answers = model.apply({"params": trainable, "batch_stats": extra["batch_stats"]}, image)["logits"]
    return margin.mine_logit(answers) if new_class else answers

  return base.Method(init, loss, logits)


def alignment(network, new, old, after, before, valid):
  """`incremental.alignment_loss` of what both projectors, of the parameters `new` and `old`, make of deepest maps."""
  project = lambda params, outputs: network.apply({"params": params["projector"]}, projector.deepest(outputs))
  after, before = project(new, after), project(old, before)
  return incremental.alignment_loss(after, before, lwm.valid_positions(valid, after.shape[:3]))


def pseudo_label(old_logits, mine, valid, counts, *, keep: float):
  """(class of each pixel, whether it counts, the new `counts`): of the background, what the old network is sure of.

  All but `counts` are [B, H, W]; `mine` are the pixels labelled so.
  """
  old_mine, doubt = old_logits > 0, incremental.doubt_map(old_logits)
  counts = counts + incremental.doubt_counts(doubt, old_mine, valid & ~mine)
  thresholds = incremental.doubt_thresholds(counts, keep=keep)
  sure = doubt <= jnp.where(old_mine, thresholds[1], thresholds[0])
  return margin.fine_label(mine, old_mine), valid & (mine | sure), counts


def compactness(features, mine, extra, *, keep: float):
  """`incremental.compactness_loss` with the prototype that this batch leaves, and `extra` with it."""
  region = at_map(mine, features)
  prototype, seen = incremental.running_prototype(extra["prototype"], extra["seen"], features, region, keep=keep)
  value = incremental.compactness_loss(features, prototype, region)
  return value, {**extra, "prototype": prototype, "seen": seen}


def at_map(mask, features):
  """`mask` [B, H, W] at the resolution of a map [B, h, w, C]: the nearest pixel of each position."""
  padded = padding.pad_mask(mask)
  stride = padded.shape[1] // features.shape[1]
  return padded[:, ::stride, ::stride]
