"""Losses for binary segmentation, all from logits: BCE, Dice, SSIM, boundary, and their sum.

Every loss takes (logits, label, valid) and returns a scalar: `logits` and `label` are [B, H, W],
`valid` is bool [B, H, W] (True = the pixel counts) or None (all count). Logits and labels may hold
anything, NaN included, where `valid` is False. With no valid pixel a loss is 0, its gradient too.
Value and gradient stay finite for saturated logits.
"""

import chex
import jax
import jax.numpy as jnp
import optax

from minec2f_jax import ops

# The largest Sobel magnitude that a 0/1 mask can have: |(2, 4)|, found by trying all 3x3 masks.
MAX_BINARY_SOBEL = 20.0**0.5


def bce_map(logits, label):
  """Binary cross-entropy of each pixel, in nats.

  Args:
    logits: [...] float, differentiated.
    label: [...] in [0, 1], integer or float.

  Returns:
    [...] float.
  """
  chex.assert_equal_shape([logits, label])
  return optax.losses.sigmoid_binary_cross_entropy(logits, label.astype(logits.dtype))


def bce_loss(logits, label, valid=None):
  """Mean binary cross-entropy over the valid pixels, in nats.

  Args:
    logits: [B, H, W] float, differentiated.
    label: [B, H, W] in [0, 1].
    valid: [B, H, W] bool or None.

  Returns:
    Scalar; 0 if no pixel is valid.
  """
  logits, label = _clean(logits, label, valid)
  return ops.masked_mean(bce_map(logits, label), valid)


def dice_loss(logits, label, valid=None, *, smooth=1e-5, reduce="batch"):
  """Soft Dice loss of the positive class: 1 - (2 sum py + s) / (sum p + sum y + s).

  Milletari et al. 2016, arXiv:1606.04797, with the plain sums (not squares) of Sudre et al. 2017,
  arXiv:1707.03237, Sec. 2.1.

  Args:
    logits: [B, H, W] float, differentiated.
    label: [B, H, W] in [0, 1].
    valid: [B, H, W] bool or None.
    smooth: s > 0; makes "nothing there, nothing predicted" a loss of 0.
    reduce: "batch" = one ratio over all pixels of the batch; "image" = the mean of one ratio an
      image, over the images with a valid pixel.

  Returns:
    Scalar in [0, 1]; 0 if no pixel is valid.
  """
  logits, label = _clean(logits, label, valid)
  axis = _dice_axes(reduce)
  probs = ops.replace_invalid(jax.nn.sigmoid(logits), valid)
  overlap = jnp.sum(probs * label, axis=axis)
  total = jnp.sum(probs, axis=axis) + jnp.sum(label, axis=axis)
  loss = 1.0 - (2.0 * overlap + smooth) / (total + smooth)
  return _mean_of_nonempty(loss, valid, axis)


def generalized_dice_loss(logits, label, valid=None, *, reduce="batch"):
  """Generalised Dice loss over both classes, each weighted by 1 / (its label area)^2.

  Sudre et al. 2017, arXiv:1707.03237, Sec. 2.1. A class that the label lacks has no finite weight
  there; here it is left out, so that a batch without mines still learns from its background (a
  small constant in the denominator would instead let the absent class drown the present one).

  Args:
    logits: [B, H, W] float, differentiated.
    label: [B, H, W] in [0, 1].
    valid: [B, H, W] bool or None.
    reduce: "batch" or "image", as in `dice_loss`.

  Returns:
    Scalar in [0, 1]; 0 if no pixel is valid.
  """
  logits, label = _clean(logits, label, valid)
  axis = _dice_axes(reduce)

  def mean(x):  # The loss does not change if all areas are scaled; means stay small in float32.
    return jnp.mean(ops.replace_invalid(x, valid), axis=axis)

  numerator = denominator = 0.0
  for target, probs in ((label, jax.nn.sigmoid(logits)), (1.0 - label, jax.nn.sigmoid(-logits))):
    area = mean(target)
    weight = jnp.where(area > 0, 1.0 / jnp.where(area > 0, area, 1.0) ** 2, 0.0)
    numerator += weight * mean(target * probs)
    denominator += weight * (area + mean(probs))
  empty = denominator == 0
  loss = jnp.where(empty, 0.0, 1.0 - 2.0 * numerator / jnp.where(empty, 1.0, denominator))
  return _mean_of_nonempty(loss, valid, axis)


def ssim_map(logits, label, *, window_size=11, sigma=1.5, k1=0.01, k2=0.03):
  """Structural similarity of label and probability in every whole Gaussian window.

  Wang et al. 2004 (10.1109/TIP.2003.819861), Eq. 13, data range 1, moments weighted by the window
  without sample correction: `tf.image.ssim` with max_val=1 before its mean.

  Args:
    logits: [B, H, W] float, differentiated.
    label: [B, H, W] in [0, 1].
    window_size: edge of the window, pixels, odd.
    sigma: standard deviation of the window, pixels.
    k1: stabiliser of the luminance term.
    k2: stabiliser of the contrast-structure term.

  Returns:
    [B, H - window_size + 1, W - window_size + 1] float in [-1, 1].

  Raises:
    ValueError: the image is smaller than the window.
  """
  chex.assert_rank(logits, 3)
  _check_window(logits, window_size)
  label, probs = label.astype(logits.dtype), jax.nn.sigmoid(logits)
  # Second moments about 1/2: about 0 their digits would cancel where both maps are near 1.
  a, b = label - 0.5, probs - 0.5
  # Only the sum of the two variances is needed, so four filters serve instead of five.
  means = ops.filter_symmetric(jnp.concatenate([a, b, a**2 + b**2, a * b]), ops.gaussian_window(window_size, sigma))
  mean_a, mean_b, mean_squares, mean_product = jnp.split(means, 4)
  covariance, variances = mean_product - mean_a * mean_b, mean_squares - (mean_a**2 + mean_b**2)
  mean_label, mean_probs = mean_a + 0.5, mean_b + 0.5
  luminance = (2.0 * mean_label * mean_probs + k1**2) / (mean_label**2 + mean_probs**2 + k1**2)
  structure = (2.0 * covariance + k2**2) / (variances + k2**2)
  return luminance * structure


def ssim_loss(logits, label, valid=None, *, window_size=11, sigma=1.5, k1=0.01, k2=0.03):
  """1 - mean structural similarity over the windows that touch no invalid pixel.

  The plain reading of the paper's "SSIM" term in Eq. 3 (see `ssim_map`); the loss of the work that
  the paper cites there is `structural_similarity_weighted_bce_loss`.

  Args:
    logits: [B, H, W] float, differentiated.
    label: [B, H, W] in [0, 1].
    valid: [B, H, W] bool or None.
    window_size: edge of the Gaussian window, pixels, odd.
    sigma: standard deviation of the window, pixels.
    k1: stabiliser of the luminance term.
    k2: stabiliser of the contrast-structure term.

  Returns:
    Scalar in [0, 2]; 0 if no whole window is valid.

  Raises:
    ValueError: the image is smaller than the window.
  """
  logits, label = _clean(logits, label, valid)
  similarity = ssim_map(logits, label, window_size=window_size, sigma=sigma, k1=k1, k2=k2)
  windows = None if valid is None else ops.min_pool(valid, window_size)
  return ops.masked_mean(1.0 - similarity, windows)


def structural_similarity_weighted_bce_loss(
  logits, label, valid=None, *, bce_weight=0.5, window_size=3, sigma=1.5, stabilizer=0.01, threshold=0.1
):
  """BCE plus BCE re-weighted towards pixels whose local structure is wrong.

  Zhao et al. 2019, arXiv:1910.08711: label and probability are each standardised by the Gaussian
  mean and deviation of their window; e is the absolute difference of the two, f keeps the pixels
  with e > threshold * max e, and L_ssl = (1 / sum f) sum e f BCE. The result is
  bce_weight * BCE + (1 - bce_weight) * L_ssl. Ours: e and f are constants for the gradient (they
  re-weight), max e is taken image by image, only windows wholly inside the image and the valid
  area count for L_ssl.

  Args:
    logits: [B, H, W] float, differentiated.
    label: [B, H, W] in [0, 1].
    valid: [B, H, W] bool or None.
    bce_weight: lambda in [0, 1].
    window_size: edge of the Gaussian window, pixels, odd.
    sigma: standard deviation of the window, pixels.
    stabilizer: C4, added to the standardised value's numerator and denominator.
    threshold: beta in [0, 1).

  Returns:
    Scalar; 0 if no pixel is valid.

  Raises:
    ValueError: the image is smaller than the window.
  """
  logits, label = _clean(logits, label, valid)
  _check_window(logits, window_size)
  windows = True if valid is None else ops.min_pool(valid, window_size)
  window = ops.gaussian_window(window_size, sigma)

  def standardise(image):
    mean = ops.filter_symmetric(image, window)
    variance = ops.filter_symmetric(image**2, window) - mean**2
    deviation = jnp.sqrt(jnp.maximum(variance, 0.0))  # Rounding can leave -1e-8 where constant.
    return (_crop(image, window_size) - mean + stabilizer) / (deviation + stabilizer)

  probs = jax.lax.stop_gradient(jax.nn.sigmoid(logits))
  error = ops.replace_invalid(jnp.abs(standardise(label) - standardise(probs)), windows)
  hard = windows & (error > threshold * jnp.max(error, axis=(1, 2), keepdims=True))
  bce = bce_map(logits, label)
  reweighted = ops.masked_mean(error * _crop(bce, window_size), hard)
  return bce_weight * ops.masked_mean(bce, valid) + (1.0 - bce_weight) * reweighted


def boundary_map(label, valid=None, *, normalize=False):
  """Weight of each pixel as the Sobel gradient magnitude of the label (Eq. 4).

  Raw magnitude: 4 on the two pixel columns along a straight edge, at most sqrt(20) for a 0/1 mask.

  Args:
    label: [B, H, W] in [0, 1].
    valid: [B, H, W] bool or None.
    normalize: divide by sqrt(20), so that a 0/1 mask gives weights in [0, 1].

  Returns:
    [B, H, W] float32; 0 where the 3x3 neighbourhood holds an invalid pixel, because the edge of
    the valid area is no edge of a mine.
  """
  label = ops.replace_invalid(label, valid).astype(jnp.float32)
  dy, dx = ops.sobel(label)
  magnitude = jnp.sqrt(dy**2 + dx**2)
  if normalize:
    magnitude = magnitude / MAX_BINARY_SOBEL
  whole = None if valid is None else ops.min_pool(valid, 3, padding="SAME")
  return jax.lax.stop_gradient(ops.replace_invalid(magnitude, whole))


def boundary_loss(logits, label, valid=None, *, offset=0.0, normalize=False):
  """Boundary-weighted BCE, (1 / N) sum (offset + W_b) BCE over the N valid pixels (Eq. 4-5).

  Divided by the number of pixels, not by the sum of the weights: the paper defines N so.

  Args:
    logits: [B, H, W] float, differentiated.
    label: [B, H, W] in [0, 1].
    valid: [B, H, W] bool or None.
    offset: added to every weight; 1 keeps the pixels away from the boundary in the sum.
    normalize: weights in [0, 1] instead of [0, sqrt(20)].

  Returns:
    Scalar; 0 if no pixel is valid, or if the label is constant and offset is 0.
  """
  logits, label = _clean(logits, label, valid)
  weight = offset + boundary_map(label, valid, normalize=normalize)
  return ops.masked_mean(weight * bce_map(logits, label), valid)


_DICE_LOSSES = {"soft": dice_loss, "generalized": generalized_dice_loss}
_SSIM_LOSSES = {"ssim": ssim_loss, "ssl": structural_similarity_weighted_bce_loss}


def segmentation_loss(
  logits,
  label,
  valid=None,
  *,
  bce=1.0,
  dice=1.0,
  ssim=1.0,
  boundary=1.0,
  dice_kind="soft",
  dice_reduce="batch",
  ssim_kind="ssim",
):
  """Weighted sum of the BCE, Dice, SSIM and boundary losses (Eq. 3).

  The paper's text names no weights; all are 1 by default. For other options of a part (smooth,
  windows, offset) add the functions above yourself.

  Args:
    logits: [B, H, W] float, differentiated.
    label: [B, H, W] in [0, 1].
    valid: [B, H, W] bool or None.
    bce: weight of `bce_loss`, a Python number; a part with weight 0 is not computed.
    dice: weight of the Dice part.
    ssim: weight of the SSIM part.
    boundary: weight of `boundary_loss`.
    dice_kind: "soft" (`dice_loss`) or "generalized" (`generalized_dice_loss`).
    dice_reduce: "batch" or "image", see `dice_loss`.
    ssim_kind: "ssim" (`ssim_loss`) or "ssl" (`structural_similarity_weighted_bce_loss`).

  Returns:
    (total, parts): the scalar to differentiate and the unweighted parts by name, {"bce": scalar,
    "dice": ..., "ssim": ..., "boundary": ...}, without those of weight 0.

  Raises:
    ValueError: an unknown kind, or an image smaller than the SSIM window.
  """
  dice_fn = _choose("dice_kind", dice_kind, _DICE_LOSSES)
  ssim_fn = _choose("ssim_kind", ssim_kind, _SSIM_LOSSES)
  weighted = {
    "bce": (bce, bce_loss),
    "dice": (dice, lambda *args: dice_fn(*args, reduce=dice_reduce)),
    "ssim": (ssim, ssim_fn),
    "boundary": (boundary, boundary_loss),
  }
  parts = {name: fn(logits, label, valid) for name, (weight, fn) in weighted.items() if weight}
  total = sum((weighted[name][0] * part for name, part in parts.items()), jnp.zeros(()))
  return total, parts


def _clean(logits, label, valid):
  """Checked (logits, label) in at least float32, holding 0 wherever `valid` is False."""
  chex.assert_rank(logits, 3)
  chex.assert_equal_shape([logits, label] if valid is None else [logits, label, valid])
  dtype = jnp.promote_types(logits.dtype, jnp.float32)
  logits = ops.replace_invalid(logits, valid).astype(dtype)
  return logits, ops.replace_invalid(label, valid).astype(dtype)


def _choose(field, value, choices):
  if value not in choices:
    raise ValueError(f"{field}={value!r} is unknown; choose one of {', '.join(choices)}")
  return choices[value]


def _dice_axes(reduce):
  return _choose("reduce", reduce, {"batch": None, "image": (1, 2)})


def _mean_of_nonempty(loss, valid, axis):
  """Mean over the images with a valid pixel, where `loss` holds one value an image."""
  if axis is None or valid is None:
    return jnp.mean(loss)
  return ops.masked_mean(loss, jnp.any(valid, axis=axis))


def _crop(image, window_size):
  border = window_size // 2
  return image[:, border : image.shape[1] - border, border : image.shape[2] - border]


def _check_window(image, window_size):
  if min(image.shape[1:]) < window_size:
    raise ValueError(
      f"image of {image.shape[1]}x{image.shape[2]} pixels is smaller than the"
      f" {window_size}x{window_size} window; use larger chips, a smaller window_size, or give"
      " the SSIM part weight 0"
    )
