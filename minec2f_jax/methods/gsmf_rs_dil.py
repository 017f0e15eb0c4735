"""GSMF-RS-DIL (Huang et al. 2024, IEEE TGRS), second stage: a copy of the old network held by its answers and features.

The first stage is `deep_supervision`. The decoder that the authors propose is `models.gs_aufpn`; the losses here need
no particular one.
"""

import jax

from minec2f_jax import distillation, fields, incremental, losses
from minec2f_jax.methods import base, lwm, supervised
from minec2f_jax.models import DenseNet, factory

LEVELS = ("c3", "c4", "c5")  # whose features are distilled
FIELDS = {
  **dict.fromkeys(("prediction_weight", "feature_weight"), fields.WEIGHT),
  **fields.SOFT_TARGETS,
  "normalizer": fields.one_of(*incremental.NORMALIZERS),
  "frozen_blocks": fields.whole(0, 4),
  "rate": fields.number(1e-6, 1.0),  # A smaller one times a learning rate would be 0 in float32.
  "as_coded": fields.FLAG,
}


def make_method(config, stage) -> base.Method:
  """The GSMF-RS-DIL method.

  Args:
    config: mapping with `model` (see `models.factory`; its encoder a DenseNet) and `gsmf_rs_dil`: `prediction_weight`,
      with `temperature` and `temperature_squared` as in `distillation.soft_target_loss`; `feature_weight`, with
      `normalizer` as in `incremental.channel_divergence_loss`; `frozen_blocks` (so many of the encoder's blocks, with
      all that lies before them and the transitions behind, stay as they are; their running statistics do not),
      `rate` (share of the learning rate of what is not frozen) and `as_coded` (the old network answers with the batch's
      statistics and its dropout).
    stage: as for `supervised`; the original starts from the old model, `init_from_prior=True`.

  Returns:
    A `Method`; `trainable` is the parameters, `extra` is `{"batch_stats"}`, `frozen` the old network's `{"params",
    "batch_stats"}`.

  Raises:
    ValueError: the encoder is no DenseNet.
  """
  model, plain = factory.make_segmenter(config["model"]), supervised.make_method(config, stage)
  loss_weights, own = dict(stage["loss"]), dict(config["gsmf_rs_dil"])
  transfer = {name: own[name] for name in ("temperature", "temperature_squared")}
  if not isinstance(model.encoder, DenseNet):
    raise ValueError(
      "the method 'gsmf_rs_dil' freezes blocks of a DenseNet and compares its features: give an architecture with that "
      "encoder as config.model.architecture, 'gs_aufpn_densenet' or 'fpn_densenet'."
    )

  def init(key, image, prior):
    teacher = base.make_teacher(prior)
    return plain.init(key, image, prior)._replace(frozen=teacher)

  def rates(trainable):
    return base.rates_by_path(trainable, lambda path: 0.0 if is_early(path, own["frozen_blocks"]) else own["rate"])

  def loss(trainable, frozen, extra, batch, key):
    stream, frozen = batch[stage["streams"][0]], jax.lax.stop_gradient(frozen)
    image, label, valid = (stream[name] for name in ("image", "label", "valid"))
    if own["as_coded"]:
      statistics = {"batch_stats": frozen["batch_stats"]}
      old, _ = base.apply_in_training(model, frozen["params"], statistics, jax.random.fold_in(key, 1), image)
    else:
      old = model.apply(frozen, image)
    # Without these gradients there is no backward pass through what is frozen, and clipping does not see them.
    trainable = jax.tree.map(lambda x, rate: x if rate else jax.lax.stop_gradient(x), trainable, rates(trainable))
    new, extra = base.apply_in_training(model, trainable, extra, key, image)
    logits, old_logits = new["logits"][..., 0], old["logits"][..., 0]
    value, parts = losses.segmentation_loss(logits, label, valid, **loss_weights)
    parts["distillation"] = distillation.soft_target_loss(logits, old_logits, valid, **transfer)
    parts["features"] = _feature_loss(new["features"], old["features"], valid, normalizer=own["normalizer"])
    value += own["prediction_weight"] * parts["distillation"] + own["feature_weight"] * parts["features"]
    return value, (extra, parts)

  return base.Method(init, loss, plain.logits, rates)


def is_early(path: tuple[str, ...], blocks: int) -> bool:
  """Whether a parameter at `path`, as ("encoder", "stem_conv", "kernel"), is of the first `blocks` or before them."""
  early = [f"{part}{n}_" for part in ("block", "transition") for n in range(1, blocks + 1)]
  before = ["stem_", "input_adapter"] if blocks else []
  return path[0] == "encoder" and path[1].startswith((*before, *early))


def _feature_loss(new, old, valid, *, normalizer: str):
  """The mean of `incremental.channel_divergence_loss` over `LEVELS`."""
  divergence = lambda level: incremental.channel_divergence_loss(
    new[level], old[level], lwm.valid_positions(valid, new[level].shape[:3]), normalizer=normalizer
  )
  return sum(map(divergence, LEVELS)) / len(LEVELS)
