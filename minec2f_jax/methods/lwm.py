"""Learning without Memorizing (Dhar et al. 2019, arXiv:1811.08051): LwF, and looking where the old model looks.

Where a network looks is a Grad-CAM map Q = ReLU(sum_k a_k A_k) of a feature map A. Of a segmentation network the score
whose gradient gives a_k is the mean logit over a region (Seg-Grad-CAM, Vinogradova et al. 2020, arXiv:2002.11434): that
which the old model calls mine, or the whole image where it sees none.
"""

import jax
import jax.numpy as jnp

from minec2f_jax import distillation, fields, losses, ops
from minec2f_jax.methods import base, supervised
from minec2f_jax.models import factory, padding

LAYERS = ("decoder", "encoder")  # A: the map before the head, or the encoder's deepest
FIELDS = {
  **dict.fromkeys(("distillation_weight", "attention_weight"), fields.WEIGHT),
  **fields.SOFT_TARGETS,
  "layer": fields.one_of(*LAYERS),
  "second_order": fields.FLAG,
  "epsilon": fields.number(1e-18, 0.1),  # The square of less is 0 in float32.
}


def make_method(config, stage) -> base.Method:
  """The LwM method.

  Args:
    config: mapping with `model` (see `models.factory`) and `lwm`: `distillation_weight` beta, `temperature` and
      `temperature_squared` as in `distillation.soft_target_loss`, `attention_weight` gamma, `epsilon` as in
      `distillation.attention_loss`, `layer` (one of `LAYERS`) and `second_order` (differentiate the student's channel
      weights a_k, too, not its map A alone).
    stage: as for `supervised`; the original starts from the old model, `init_from_prior=True`.

  Returns:
    A `Method`; `trainable` is the parameters, `extra` is `{"batch_stats"}`, `frozen` the old model's `{"params",
    "batch_stats"}`.
  """
  model, plain = factory.make_segmenter(config["model"]), supervised.make_method(config, stage)
  loss_weights, own = dict(stage["loss"]), dict(config["lwm"])
  transfer = {name: own[name] for name in ("temperature", "temperature_squared")}

  def attention(variables, outputs, region, *, differentiable: bool):
    """The map [B, h, w] of a network; its weights are those of inference, where no image depends on another."""
    rest = _after(model, variables, outputs, own["layer"])
    score = lambda x: ops.masked_mean(padding.crop(rest(x), region.shape[1:])[..., 0], region, axis=(1, 2))
    features = _features(outputs, own["layer"])
    weights = distillation.channel_weights(score, features)
    return distillation.class_activation_map(features, weights if differentiable else jax.lax.stop_gradient(weights))

  def init(key, image, prior):
    teacher = base.make_teacher(prior)
    return plain.init(key, image, prior)._replace(frozen=teacher)

  def loss(trainable, frozen, extra, batch, key):
    stream, frozen = batch[stage["streams"][0]], jax.lax.stop_gradient(frozen)
    label, valid = stream["label"], stream["valid"]
    old = model.apply(frozen, stream["image"])
    outputs, new_extra = base.apply_in_training(model, trainable, extra, key, stream["image"])
    logits, old_logits = outputs["logits"][..., 0], old["logits"][..., 0]
    region = seen_region(old_logits, valid)
    student = attention({"params": trainable, **extra}, outputs, region, differentiable=own["second_order"])
    teacher = attention(frozen, old, region, differentiable=False)
    value, parts = losses.segmentation_loss(logits, label, valid, **loss_weights)
    parts["distillation"] = distillation.soft_target_loss(logits, old_logits, valid, **transfer)
    parts["attention"] = distillation.attention_loss(
      student, teacher, valid_positions(valid, student.shape), epsilon=own["epsilon"]
    )
    value += own["distillation_weight"] * parts["distillation"] + own["attention_weight"] * parts["attention"]
    return value, (new_extra, parts)

  return base.Method(init, loss, plain.logits)


def seen_region(logits, valid):
  """The valid pixels that a network calls mine; all valid ones in an image where it sees none. All are [B, H, W]."""
  mine = valid & (logits > 0)
  return jnp.where(jnp.any(mine, axis=(1, 2), keepdims=True), mine, valid)


def valid_positions(valid, shape):
  """Which positions of a map of `shape` [B, h, w] stand for a valid pixel: [B, h, w] of `valid` [B, H, W]."""
  padded = padding.pad_mask(valid)
  batch, height, width = shape
  blocks = (batch, height, padded.shape[1] // height, width, padded.shape[2] // width)
  return jnp.any(padded.reshape(blocks), axis=(2, 4))


def _features(outputs, layer: str):
  return outputs["decoder"] if layer == "decoder" else outputs["features"][max(outputs["features"])]


def _after(model, variables, outputs, layer: str):
  """The network behind its map at `layer`, in inference mode: `[B, h, w, C] -> logits`."""
  if layer == "decoder":
    return lambda x: model.apply(variables, x, method=lambda net, x: net.head(x))
  features = outputs["features"]
  return lambda x: model.apply(variables, {**features, max(features): x}, method="decode")["logits"]
