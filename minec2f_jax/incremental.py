"""What a network that learns a new domain owes the old one: losses of domain-incremental learning.

They stand beside `distillation.soft_target_loss`. The old network's answers are constants for the gradient.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from minec2f_jax import losses, ops

NORMALIZERS = ("elements", "positions")
# Entropies, as a share of the largest, that a threshold may have: SPPA clips it to these ends.
DOUBTS = tuple((np.arange(10, 51) / 100).tolist())


def unlogged_divergence_loss(student_logits, teacher_logits, valid=None):
  """The divergence that MDIL-SS's published code computes: mean of t (log t - s) over pixels and both classes.

  Garg et al. 2022, arXiv:2110.12205, have the Kullback-Leibler divergence, sum of t (log t - log s) over the classes;
  their code hands torch's `KLDivLoss` the student's probabilities s in place of log s, and averages over the classes
  too. What is left, apart from a constant, is the product -s t: it pulls the student to the teacher's class, to
  certainty where the teacher is not, and reaches no more than a slope of |2 t - 1| / 8 by the logit.

  Args:
    student_logits: [B, H, W] float, differentiated; one logit is a softmax over (0, logit).
    teacher_logits: [B, H, W] float; gradient stopped.
    valid: [B, H, W] bool or None; logits under False may be NaN.

  Returns:
    Scalar in [-log(1 + e) / 2, 0]; 0 if no pixel is valid. Not 0 where the two agree.
  """
  chex.assert_rank(student_logits, 3)
  chex.assert_equal_shape([student_logits, teacher_logits])
  student, teacher = (ops.replace_invalid(one, valid) for one in (student_logits, teacher_logits))
  teacher = jax.lax.stop_gradient(teacher)
  s, t = jax.nn.sigmoid(student), jax.nn.sigmoid(teacher)
  product = s * t + jax.nn.sigmoid(-student) * jax.nn.sigmoid(-teacher)
  return ops.masked_mean(-losses.bce_map(teacher, t) - product, valid) / 2


def channel_divergence_loss(student, teacher, valid=None, *, normalizer="elements"):
  """KL(teacher || student) of the distribution over channels that a softmax makes of each position, in nats.

  The feature distillation of GSMF-RS-DIL (Huang et al. 2024, IEEE TGRS) at one level, at temperature 1.

  Args:
    student: [B, H, W, C] float features, differentiated.
    teacher: [B, H, W, C] float; gradient stopped.
    valid: [B, H, W] bool or None; features under False may be NaN.
    normalizer: "elements" divides by the number of positions and of channels, as the authors' code does, so that more
      channels make the loss smaller; "positions" is the mean of the divergences.

  Returns:
    Scalar; 0 for features that agree, and where no position is valid.

  Raises:
    ValueError: an unknown normalizer.
  """
  if normalizer not in NORMALIZERS:
    raise ValueError(f"normalizer={normalizer!r} is unknown; choose one of {', '.join(NORMALIZERS)}")
  own, target = jax.nn.log_softmax(_pair(student, teacher, valid))
  divergence = jnp.sum(jnp.exp(target) * (target - own), axis=-1)
  mean = ops.masked_mean(divergence, valid)
  return mean / student.shape[-1] if normalizer == "elements" else mean


def alignment_loss(student, teacher, valid=None):
  """Mean absolute difference of two maps whose features are scaled to length 1.

  SPPA (Lin et al. 2022, ECCV), structure-preserving alignment of projected features.

  Args:
    student: [B, H, W, C] float features, differentiated.
    teacher: [B, H, W, C] float; gradient stopped.
    valid: [B, H, W] bool or None; features under False may be NaN.

  Returns:
    Scalar, a mean over positions and channels; 0 for features that agree but for their length, and where no position
    is valid.
  """
  student, teacher = ops.unit_length(_pair(student, teacher, valid))
  return ops.masked_mean(jnp.mean(jnp.abs(student - teacher), axis=-1), valid)


def intra_class_loss(student, teacher, region):
  """How a class's features lie around their mean, before and now: the mean of ||(f - m) - (f' - m')||^2.

  SPPA (Lin et al. 2022, ECCV), for one class; the mean over several is theirs. The means get no gradient.

  Args:
    student: [B, H, W, C] float features f, differentiated.
    teacher: [B, H, W, C] float f'; gradient stopped.
    region: [B, H, W] bool, positions of the class; features elsewhere may be NaN.

  Returns:
    Scalar, a sum over channels and a mean over positions; 0 for features that differ by a constant, and in an empty
    region.
  """
  both = _pair(student, teacher, region)
  means = jnp.sum(both, axis=(1, 2, 3), keepdims=True) / jnp.maximum(jnp.sum(region), 1)
  own, target = both - jax.lax.stop_gradient(means)
  return ops.masked_mean(jnp.sum((own - target) ** 2, axis=-1), region)


def inter_class_loss(student, teacher, region):
  """How means of a class in different images lie to each other: mean squared difference of their cosines.

  SPPA (Lin et al. 2022, ECCV), over all pairs of class means of a batch, each with itself too. Here there is one class.

  Args:
    student: [B, H, W, C] float features, differentiated.
    teacher: [B, H, W, C] float; gradient stopped.
    region: [B, H, W] bool, positions of the class; features elsewhere may be NaN.

  Returns:
    Scalar in [0, 4]; 0 for features that are only scaled, and where less than two images have the class.
  """
  count = jnp.sum(region, axis=(1, 2), dtype=jnp.float32)
  means = jnp.sum(_pair(student, teacher, region), axis=(2, 3)) / jnp.maximum(count, 1.0)[:, None]
  unit = ops.unit_length(means)
  own, target = jnp.einsum("nic,njc->nij", unit, unit, precision="highest")
  present = count > 0
  return ops.masked_mean((own - target) ** 2, present[:, None] & present)


def compactness_loss(features, prototype, region):
  """Mean squared difference of a class's features and its prototype (SPPA, Lin et al. 2022, ECCV).

  Args:
    features: [B, H, W, C] float, differentiated; may be NaN outside the region.
    prototype: [C] float; gradient stopped.
    region: [B, H, W] bool, positions of the class.

  Returns:
    Scalar, a mean over positions and channels; 0 in an empty region.
  """
  features = ops.replace_invalid(features.astype(jnp.float32), region[..., None])
  return ops.masked_mean(jnp.mean((features - jax.lax.stop_gradient(prototype)) ** 2, axis=-1), region)


def running_prototype(previous, seen, features, region, *, keep):
  """A class's prototype and whether there is one: keep * previous + (1 - keep) * the mean of the region's features.

  Args:
    previous: [C] float.
    seen: [] bool, whether `previous` is one; otherwise the mean takes its place.
    features: [B, H, W, C] float; may be NaN outside the region.
    region: [B, H, W] bool; where it is empty, nothing changes.
    keep: in [0, 1].

  Returns:
    ([C] float32, [] bool), without gradient.
  """
  features = ops.replace_invalid(features.astype(jnp.float32), region[..., None])
  count = jnp.sum(region, dtype=jnp.float32)
  mean = jnp.sum(features, axis=(0, 1, 2)) / jnp.maximum(count, 1.0)
  moved = jnp.where(seen, keep * previous + (1.0 - keep) * mean, mean)
  return jax.lax.stop_gradient(jnp.where(count > 0, moved, previous)), seen | (count > 0)


def doubt_map(logits):
  """Each pixel's entropy of mine and background [...] of its logit [...]: 0 where that is sure, 1 where it is 0."""
  size = jnp.abs(jax.lax.stop_gradient(logits).astype(jnp.float32))
  return (jax.nn.softplus(-size) + size * jax.nn.sigmoid(-size)) / np.log(2.0)


def doubt_counts(doubt, mine, region):
  """How many pixels doubt at most so much: what `doubt_thresholds` reads, and what may be added up over batches.

  Args:
    doubt: [B, H, W] float of `doubt_map`.
    mine: [B, H, W] bool, the class of each pixel.
    region: [B, H, W] bool, the pixels that count.

  Returns:
    [2, len(DOUBTS) + 1] float32: of background and of mine, as shares of all B H W pixels, those that doubt at most
    each of `DOUBTS`, and all of the class.
  """
  within = jnp.concatenate([doubt[..., None] <= jnp.asarray(DOUBTS), jnp.ones((*doubt.shape, 1), bool)], axis=-1)
  of_class = jnp.stack([region & ~mine, region & mine])[..., None]
  return jnp.sum(of_class & within, axis=(1, 2, 3), dtype=jnp.float32) / doubt.size


def doubt_thresholds(counts, *, keep=0.8):
  """Of background and of mine [2] the least of `DOUBTS` within which a share `keep` of the class lies, or the last.

  SPPA (Lin et al. 2022, ECCV) takes old answers for labels where their entropy is below a class's threshold.
  """
  enough = counts[:, :-1] >= keep * counts[:, -1:]
  place = jnp.where(jnp.any(enough, axis=1), jnp.argmax(enough, axis=1), len(DOUBTS) - 1)
  return jnp.asarray(DOUBTS)[place]


def _pair(student, teacher, region):
  """[2, B, H, W, C] float32 of both maps, 0 outside the region, the teacher's without gradient.

  As one array: apart, XLA may round what is made of them otherwise, and features that agree would differ.
  """
  chex.assert_rank(student, 4)
  chex.assert_equal_shape([student, teacher])
  both = jnp.stack([student, jax.lax.stop_gradient(teacher)]).astype(jnp.float32)
  return ops.replace_invalid(both, None if region is None else region[..., None])
