"""Plain supervised segmentation on one stream.

Task 1 of the paper (Sec. 4.2: BCE on the coarse set), the single-domain rows of Table 1, and fine-tuning.
"""

from minec2f_jax import losses
from minec2f_jax.methods import base
from minec2f_jax.models import factory


def make_method(config, stage) -> base.Method:
  """The supervised method.

  Args:
    config: mapping with `model` (see `models.factory`).
    stage: mapping with `streams` (the one that is learned), `loss` (keywords of `losses.segmentation_loss`) and
      `init_from_prior` (start from the parameters of the earlier stage instead of at random).

  Returns:
    A `Method`; `trainable` is the parameters, `extra` is `{"batch_stats"}`, `frozen` is empty.
  """
  model = factory.make_segmenter(config["model"])
  loss_weights = dict(stage["loss"])

  def init(key, image, prior):
    variables = model.init(key, image)
    trainable, batch_stats = variables["params"], variables["batch_stats"]
    if stage["init_from_prior"]:
      if prior is None:
        raise ValueError(
          "init_from_prior=True, but no earlier stage has run: add one to config.stages or give config.teacher."
        )
      trainable = base.merge_parameters(trainable, prior.trainable)
      batch_stats = base.merge_parameters(batch_stats, prior.extra["batch_stats"])
    return base.Variables(trainable, {}, {"batch_stats": batch_stats})

  def loss(trainable, frozen, extra, batch, key):
    del frozen
    stream = batch[stage["streams"][0]]
    outputs, extra = base.apply_in_training(model, trainable, extra, key, stream["image"])
    value, parts = losses.segmentation_loss(outputs["logits"][..., 0], stream["label"], stream["valid"], **loss_weights)
    return value, (extra, parts)

  def logits(trainable, frozen, extra, image):
    del frozen
    return model.apply({"params": trainable, **extra}, image)["logits"]

  return base.Method(init, loss, logits)
