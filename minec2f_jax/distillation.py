"""Binary knowledge distillation: of what the teacher knows better (Eq. 9-12), of all it says, and of where it looks.

Logits are [B, H, W]; `label` is [B, H, W] in {0, 1}; `valid` is bool [B, H, W] (True = the pixel
counts) or None. Teacher logits and all masks are constants for the gradient.
"""

import chex
import jax
import jax.numpy as jnp

from minec2f_jax import losses, ops

SELECTIONS = ("none", "standard", "image", "pixel", "hybrid")


def binary_kl_map(student_logits, teacher_logits, *, temperature=2.0):
  """T^2 KL(teacher || student) of each pixel's mine / background distribution, in nats.

  Hinton et al. 2015, arXiv:1503.02531, Sec. 2; one logit is a softmax over (0, logit). With
  a = z_T / T, b = z_S / T, d = b - a, q = sigmoid(a):

    KL = softplus(b) - softplus(a) - q d.

  As written this loses all digits in float32 (and its sign) when student and teacher agree or when
  both are sure. Two changes keep it right to a relative 1e-4 and never negative: the classes are
  swapped where the teacher says mine, so that q <= 1/2 and no two large numbers cancel; and where
  |d| < 0.12 the Taylor series in d is summed instead (its coefficients are the cumulants of a
  Bernoulli variable; the first term left out is a relative 3e-5).

  Args:
    student_logits: [...] float, differentiated.
    teacher_logits: [...] float; gradient stopped.
    temperature: T > 0.

  Returns:
    [...] float, at least 0, and 0 where the two agree.
  """
  chex.assert_equal_shape([student_logits, teacher_logits])
  teacher_logits = jax.lax.stop_gradient(teacher_logits)
  sign = jnp.where(teacher_logits > 0, -1.0, 1.0) / temperature
  a, b = sign * teacher_logits, sign * student_logits
  d = sign * (student_logits - teacher_logits)
  q = jax.nn.sigmoid(a)
  near = jnp.abs(d) < 0.12
  direct = jax.nn.softplus(b) - jax.nn.softplus(a) - q * d
  s = jnp.where(near, d, 0.0)  # Keeps the unused branch finite: its NaN would reach the gradient.
  variance, skew = q * (1.0 - q), 1.0 - 2.0 * q
  series = variance * s**2 * (1 / 2 + s * (skew / 6 + s * (1.0 - 6.0 * variance) / 24))
  return temperature**2 * jnp.where(near, series, direct)


def image_selection(student_logits, teacher_logits, label, valid=None):
  """Which images the teacher predicts better: lower mean BCE at temperature 1, strictly (Eq. 9).

  Args:
    student_logits: [B, H, W] float.
    teacher_logits: [B, H, W] float.
    label: [B, H, W] in {0, 1}.
    valid: [B, H, W] bool or None.

  Returns:
    [B] bool; False for an image without a valid pixel.
  """
  _check(student_logits, teacher_logits, label, valid)
  student, teacher, label = jax.lax.stop_gradient((student_logits, teacher_logits, label))
  label = ops.replace_invalid(label, valid)

  def image_loss(logits):
    bce = losses.bce_map(ops.replace_invalid(logits, valid), label)
    return ops.masked_mean(bce, valid, axis=(1, 2))

  return image_loss(teacher) < image_loss(student)


def pixel_selection(student_logits, teacher_logits, label, valid=None):
  """Which pixels the teacher predicts better: lower BCE, strictly (Eq. 10).

  For a label in {0, 1} that is (2y - 1)(z_T - z_S) > 0, which unlike a comparison of two losses
  still tells the two apart when both are saturated. Any other per-pixel loss that grows with the
  distance of probability and label selects the same pixels.

  Args:
    student_logits: [B, H, W] float.
    teacher_logits: [B, H, W] float.
    label: [B, H, W] in {0, 1}.
    valid: [B, H, W] bool or None.

  Returns:
    [B, H, W] bool; False where invalid.
  """
  _check(student_logits, teacher_logits, label, valid)
  # Not 2 * label - 1: on a uint8 label that is 255.
  better = jnp.where(label > 0, teacher_logits > student_logits, teacher_logits < student_logits)
  return ops.replace_invalid(better, valid, fill=False)


def selection_mask(student_logits, teacher_logits, label, valid=None, *, selection):
  """The pixels that are distilled under one of the five rows of the paper's ablation (Eq. 11).

  Args:
    student_logits: [B, H, W] float.
    teacher_logits: [B, H, W] float.
    label: [B, H, W] in {0, 1}.
    valid: [B, H, W] bool or None.
    selection: "none" (no pixel), "standard" (all), "image" (Eq. 9), "pixel" (Eq. 10) or "hybrid"
      (both at once, Eq. 11).

  Returns:
    [B, H, W] bool; False where invalid.

  Raises:
    ValueError: an unknown selection.
  """
  if selection not in SELECTIONS:
    raise ValueError(f"selection={selection!r} is unknown; choose one of {', '.join(SELECTIONS)}")
  _check(student_logits, teacher_logits, label, valid)
  args = (student_logits, teacher_logits, label, valid)
  mask = jnp.full(label.shape, selection != "none") if valid is None else valid
  if selection == "none":
    mask = jnp.zeros_like(mask)
  if selection in ("image", "hybrid"):
    mask &= image_selection(*args)[:, None, None]
  if selection in ("pixel", "hybrid"):
    mask &= pixel_selection(*args)
  return mask


def distillation_loss(
  student_logits,
  teacher_logits,
  label,
  valid=None,
  *,
  selection="hybrid",
  temperature=2.0,
  epsilon=1e-6,
  normalizer="selected",
):
  """Distillation loss over the selected pixels, sum M L_KD / (sum M + epsilon) (Eq. 12).

  L_KD is `binary_kl_map`, M is `selection_mask`.

  Args:
    student_logits: [B, H, W] float, differentiated.
    teacher_logits: [B, H, W] float; gradient stopped.
    label: [B, H, W] in {0, 1}; it enters the selection only.
    valid: [B, H, W] bool or None; logits and labels under False may be NaN.
    selection: see `selection_mask`.
    temperature: T > 0.
    epsilon: added to the denominator; with no pixel selected the loss is 0 / epsilon = 0.
    normalizer: "selected" divides by the number of selected pixels (Eq. 12), "all" by the number
      of valid ones, so that few selected pixels weigh little (Eq. 9-10 read as means).

  Returns:
    Scalar in nats; 0, with zero gradient, if no pixel is selected.

  Raises:
    ValueError: an unknown selection or normalizer.
  """
  if normalizer not in ("selected", "all"):
    raise ValueError(f"normalizer={normalizer!r} is unknown; choose one of selected, all")
  mask = selection_mask(student_logits, teacher_logits, label, valid, selection=selection)
  kl = binary_kl_map(
    ops.replace_invalid(student_logits, mask), ops.replace_invalid(teacher_logits, mask), temperature=temperature
  )
  counted = mask
  if normalizer == "all":
    counted = jnp.ones_like(mask) if valid is None else valid
  return ops.masked_sum(kl, mask) / (jnp.sum(counted, dtype=jnp.float32) + epsilon)


def soft_target_loss(student_logits, teacher_logits, valid=None, *, temperature=2.0, temperature_squared=False):
  """Mean KL(teacher || student) of softened probabilities over the valid pixels, in nats.

  Learning without Forgetting (Li & Hoiem 2016, arXiv:1606.09282), Eq. 2-3: the cross-entropy of p^(1/T) / sum p^(1/T),
  which is a softmax of logits / T. The teacher's own entropy, a constant without gradient, is subtracted, so that
  agreement costs 0.

  Args:
    student_logits: [B, H, W] float, differentiated.
    teacher_logits: [B, H, W] float; gradient stopped.
    valid: [B, H, W] bool or None; logits under False may be NaN.
    temperature: T > 0.
    temperature_squared: scale by T^2 as Hinton et al. do, so that the gradient's size does not depend on T; the paper
      does not.

  Returns:
    Scalar; 0 if no pixel is valid.
  """
  chex.assert_rank(student_logits, 3)
  logits = (ops.replace_invalid(one, valid) for one in (student_logits, teacher_logits))
  kl = ops.masked_mean(binary_kl_map(*logits, temperature=temperature), valid)
  return kl if temperature_squared else kl / temperature**2


def channel_weights(score, features):
  """How much each channel adds to a score: the mean over positions of d score / d features (Grad-CAM's alpha).

  Selvaraju et al. 2017, arXiv:1610.02391, Eq. 1.

  Args:
    score: `[B, H, W, C] -> [B]`, the score of each image by itself.
    features: [B, H, W, C] float.

  Returns:
    [B, C] float32; differentiable, where `score` is.
  """
  gradient = jax.grad(lambda x: jnp.sum(score(x)))(features)
  return jnp.mean(gradient.astype(jnp.float32), axis=(1, 2))


def class_activation_map(features, weights):
  """Where a network sees its class: ReLU(sum_k a_k A_k) (Grad-CAM; Selvaraju et al. 2017, Eq. 2).

  Args:
    features: [B, H, W, C] float, differentiated.
    weights: [B, C] float, of `channel_weights`.

  Returns:
    [B, H, W] float32, at least 0.
  """
  return jax.nn.relu(jnp.einsum("bhwc,bc->bhw", features.astype(jnp.float32), weights.astype(jnp.float32)))


def attention_loss(student_map, teacher_map, valid=None, *, epsilon=1e-12):
  """Distance of two attention maps, |Q_S / ||Q_S|| - Q_T / ||Q_T|| |_1, mean over the images.

  Learning without Memorizing (Dhar et al. 2019, arXiv:1811.08051), Eq. 3: a sum over positions of maps of length 1, so
  at most 2 sqrt(number of positions).

  Args:
    student_map: [B, H, W] float, differentiated.
    teacher_map: [B, H, W] float; gradient stopped.
    valid: [B, H, W] bool or None; maps under False may be NaN.
    epsilon: least length that a map is divided by; shorter ones, of networks that see the class nowhere, stay short.

  Returns:
    Scalar, whatever positive numbers the maps are multiplied by; 0 for maps that agree and where no position is valid.
  """
  chex.assert_rank(student_map, 3)
  chex.assert_equal_shape([student_map, teacher_map] if valid is None else [student_map, teacher_map, valid])
  # As one array: apart, XLA may round them otherwise, and maps that agree would differ.
  both = jnp.stack([student_map, jax.lax.stop_gradient(teacher_map)])
  unit = _unit_length(ops.replace_invalid(both, valid), epsilon)
  difference = unit[0] - unit[1]
  # Its size; the derivative of jnp.abs at 0 is 1, and maps that agree are to stay.
  distance = jnp.sum(difference * jax.lax.stop_gradient(jnp.sign(difference)), axis=(1, 2))
  return ops.masked_mean(distance, None if valid is None else jnp.any(valid, axis=(1, 2)))


def _unit_length(maps, epsilon):
  squares = jnp.sum(maps**2, axis=(-2, -1), keepdims=True)
  lengths = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))  # The root of 0 has no derivative.
  return maps / jnp.where(squares > 0, jnp.maximum(lengths, epsilon), epsilon)


def _check(student_logits, teacher_logits, label, valid):
  chex.assert_rank(student_logits, 3)
  arrays = [student_logits, teacher_logits, label]
  chex.assert_equal_shape(arrays if valid is None else arrays + [valid])
