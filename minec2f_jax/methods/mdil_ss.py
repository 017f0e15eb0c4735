"""MDIL-SS (Garg et al. 2022, arXiv:2110.12205): domains share an encoder's convolutions, and each has all else.

A domain's own are the adapters beside the 3x3 convolutions, all batch normalisations, the decoder and the head. So a
domain's network is one `Segmenter` with adapters: what is trained here is the second domain's, shared convolutions
included, and the first domain's is those convolutions as they move among what the earlier stage has left.
"""

import functools

import jax

from minec2f_jax import distillation, fields, incremental, losses
from minec2f_jax.methods import base
from minec2f_jax.models import DenseNet, factory

FIELDS = {"weight": fields.WEIGHT, "shared_rate": fields.number(0.0, 1.0), "as_coded": fields.FLAG}
_SHARED = ("_conv", "_conv1", "_conv2", "input_adapter")  # how a DenseNet's convolutions end


def make_method(config, stage) -> base.Method:
  """The MDIL-SS method, for the second domain; the first one's is any that leaves a `Segmenter`, as `supervised`.

  Args:
    config: mapping with `model` (see `models.factory`; its encoder a DenseNet with `adapters`) and `mdil_ss`: `weight`
      lambda, `shared_rate` (share of the learning rate that the shared convolutions get) and `as_coded` (the published
      code's divergence, see `incremental.unlogged_divergence_loss`, and the first domain's network with the batch's
      statistics).
    stage: mapping with `streams` (the one that is learned), `loss` (keywords of `losses.segmentation_loss`) and
      `init_from_prior`, which must be True.

  Returns:
    A `Method`; `trainable` is the parameters of the second domain's network, `frozen` the old network's `{"params",
    "batch_stats"}`, `extra` is `{"batch_stats"}` and, as coded, the first domain's statistics as "old_batch_stats".

  Raises:
    ValueError: the encoder has no adapters, or the stage does not start from the earlier one.
  """
  model, own = factory.make_segmenter(config["model"]), dict(config["mdil_ss"])
  loss_weights = dict(stage["loss"])
  _check(model, stage)

  def init(key, image, prior):
    frozen, fresh = base.make_teacher(prior), model.init(key, image)
    # As in the authors' code: the output convolution and the encoder's running statistics start anew.
    copied = {name: frozen["params"][name] for name in ("encoder", "decoder")}
    statistics = {"decoder": frozen["batch_stats"]["decoder"]}
    extra = {"batch_stats": base.merge_parameters(fresh["batch_stats"], statistics)}
    if own["as_coded"]:
      extra["old_batch_stats"] = base.copy_tree(frozen["batch_stats"])
    return base.Variables(base.merge_parameters(fresh["params"], copied), frozen, extra)

  def loss(trainable, frozen, extra, batch, key):
    stream, frozen = batch[stage["streams"][0]], jax.lax.stop_gradient(frozen)
    image, label, valid = (stream[name] for name in ("image", "label", "valid"))
    target = model.apply(frozen, image)["logits"][..., 0]
    outputs, moved = base.apply_in_training(model, trainable, {"batch_stats": extra["batch_stats"]}, key, image)
    value, parts = losses.segmentation_loss(outputs["logits"][..., 0], label, valid, **loss_weights)
    first = first_domain(trainable, frozen["params"])
    if own["as_coded"]:
      statistics, first_key = {"batch_stats": extra["old_batch_stats"]}, jax.random.fold_in(key, 1)
      outputs, updates = base.apply_in_training(model, first, statistics, first_key, image)
      moved["old_batch_stats"] = updates["batch_stats"]
      divergence = incremental.unlogged_divergence_loss
    else:
      outputs = model.apply({"params": first, "batch_stats": frozen["batch_stats"]}, image)
      divergence = functools.partial(distillation.soft_target_loss, temperature=1.0)
    parts["distillation"] = divergence(outputs["logits"][..., 0], target, valid)
    return value + own["weight"] * parts["distillation"], (moved, parts)

  def logits(trainable, frozen, extra, image):
    del frozen
    return model.apply({"params": trainable, "batch_stats": extra["batch_stats"]}, image)["logits"]

  def rates(trainable):
    return base.rates_by_path(trainable, lambda path: own["shared_rate"] if is_shared(path) else 1.0)

  return base.Method(init, loss, logits, rates)


def is_shared(path: tuple[str, ...]) -> bool:
  """Whether a parameter at `path`, as ("encoder", "stem_conv", "kernel"), serves all domains."""
  return path[0] == "encoder" and path[1].endswith(_SHARED)


def first_domain(trainable: base.PyTree, old: base.PyTree) -> base.PyTree:
  """Parameters of the first domain's network: the shared ones of `trainable`, all others of `old`."""
  encoder = {name: (trainable if is_shared(("encoder", name)) else old)["encoder"][name] for name in old["encoder"]}
  return {**old, "encoder": encoder}


def _check(model, stage):
  if not isinstance(model.encoder, DenseNet) or not model.encoder.adapters:
    raise ValueError(
      "the method 'mdil_ss' needs an encoder with adapters, for all stages: take an architecture with a DenseNet and "
      "give config.model.encoder.adapters=True."
    )
  if not stage["init_from_prior"]:
    raise ValueError("init_from_prior=False: the method 'mdil_ss' goes on with the earlier stage's network; give True.")
