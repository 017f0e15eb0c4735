"""What methods share that train on the answers of their own average: a teacher that follows, and its config fields."""

import jax
import jax.numpy as jnp

from minec2f_jax import adaptation, fields, perturbations
from minec2f_jax.methods import base

STATISTICS = ("batch", "ema")  # of the teacher's batch normalisation: those of the images it answers, or averages
PROBABILITY = fields.number(0.0, 1.0, "probability")
DECAY = fields.number(0.0, 0.999999)
FIELDS = {
  "ema": DECAY,
  "teacher_statistics": fields.one_of(*STATISTICS),
  "jitter_strength": fields.number(0.0, 10.0),
  "jitter": PROBABILITY,
  "blur": PROBABILITY,
}


def start(variables: base.Variables) -> base.Variables:
  """`variables` with a teacher in `extra`: "step" [] int32, and "teacher", {"params", "batch_stats"}."""
  teacher = base.copy_tree({"params": variables.trainable, "batch_stats": variables.extra["batch_stats"]})
  return variables._replace(extra={**variables.extra, "teacher": teacher, "step": jnp.zeros([], jnp.int32)})


def student_statistics(extra):
  """What of `extra` is the student's own, {"batch_stats"}: all that its network knows."""
  return {"batch_stats": extra["batch_stats"]}


def follow(trainable, extra, *, decay: float):
  """The teacher of this step: that of the step before, moved towards the student; at step 0 it is the student."""
  student = {"params": trainable, "batch_stats": extra["batch_stats"]}
  return adaptation.moving_average(extra["teacher"], student, adaptation.ema_decay(extra["step"], decay=decay))


def answer(model, teacher, image, *, statistics: str):
  """The teacher's logits [B, H, W, K] of images, without dropout and without a gradient."""
  if statistics == "ema":
    return jax.lax.stop_gradient(model.apply(teacher, image)["logits"])
  # "train" wakes dropout, too, which the originals put to sleep in the teacher.
  calm = model.clone(decoder=model.decoder.clone(dropout=0.0)) if hasattr(model.decoder, "dropout") else model
  outputs, _ = calm.apply(teacher, image, train=True, mutable=["batch_stats"])
  return jax.lax.stop_gradient(outputs["logits"])


def augment(key, batch, own):
  """`batch` with other colours and sharpness, as `own`, the method's section of the config, says."""
  knobs = {"strength": own["jitter_strength"], "jitter": own["jitter"], "blur": own["blur"]}
  return {**batch, "image": perturbations.strong_augmentation(key, batch["image"], batch["valid"], **knobs)}
