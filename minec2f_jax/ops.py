"""Array operations that losses, distillation and models share: masked means, windows, edges.

Images here are single-channel maps [B, H, W]. `valid` is bool [B, H, W]: True = the pixel counts;
None = every pixel counts.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np


def replace_invalid(values, valid=None, *, fill=0.0):
  """`values` with `fill` where `valid` is False, so that no NaN from there can travel on.

  Replace *before* any non-linear operation: masking afterwards repairs the value but not the
  gradient, because 0 * NaN is NaN.

  Args:
    values: array of any dtype.
    valid: bool, broadcastable to `values`, or None.
    fill: the replacement, cast to the dtype of `values`.

  Returns:
    Array of the shape and dtype of `values`.
  """
  if valid is None:
    return values
  return jnp.where(valid, values, jnp.asarray(fill, values.dtype))


def gate(logits):
  """Sigmoid in at least float32: bfloat16 has no number between 0.996 and 1, so gates would shut from logit 5.75 on.

  Args:
    logits: [...] float, differentiated.

  Returns:
    [...] in (0, 1), float32 for bfloat16 logits, else of their dtype.
  """
  return jax.nn.sigmoid(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))


def masked_sum(values, valid=None, *, axis=None):
  """Sum of `values` over the pixels that count; 0 if none does.

  Args:
    values: [...] float; may be NaN where `valid` is False.
    valid: [...] bool of the same shape, or None.
    axis: axes to reduce; None = all.

  Returns:
    The sum over `axis`.
  """
  if valid is not None:
    chex.assert_equal_shape([values, valid])
  return jnp.sum(replace_invalid(values, valid), axis=axis)


def masked_mean(values, valid=None, *, axis=None):
  """Mean of `values` over the pixels that count; 0, with zero gradient, if none does.

  Args:
    values: [...] float; may be NaN where `valid` is False.
    valid: [...] bool of the same shape, or None.
    axis: axes to reduce; None = all.

  Returns:
    The mean over `axis`.
  """
  if valid is None:
    return jnp.mean(values, axis=axis)
  count = jnp.sum(valid, axis=axis, dtype=jnp.int32)
  return masked_sum(values, valid, axis=axis) / jnp.maximum(count, 1)


def unit_length(vectors):
  """Vectors [..., C] divided by their Euclidean length; 0, with zero gradient, where that is 0."""
  squares = jnp.sum(vectors**2, axis=-1, keepdims=True)
  return vectors * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1.0))  # The root of 0 has no derivative.


def gaussian_window(size, sigma):
  """Samples of a Gaussian at integer offsets from the window's middle, summing to 1.

  Args:
    size: number of samples, odd.
    sigma: standard deviation, pixels.

  Returns:
    A tuple of `size` Python floats (hashable, so that it can be a static argument).
  """
  if size % 2 == 0:
    raise ValueError(f"window size={size} must be odd, so that the window has a middle pixel")
  weights = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
  return tuple((weights / weights.sum()).tolist())


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def filter_symmetric(image, window):
  """Correlates rows and columns with a symmetric window, keeping only whole windows ("VALID").

  A sum of shifted slices: exact float32 on every device (a convolution or matrix product would run
  in TF32 on recent GPUs, too coarse for the E[x^2] - E[x]^2 of SSIM). With 11 taps on 32 maps of
  256 x 256 and two CPU cores it takes a tenth of `lax.conv`'s time. The derivative is written out
  because XLA turns the transpose of a slice into a pad, seven times slower than this filter.

  Args:
    image: [B, H, W] float, differentiated (reverse mode).
    window: tuple of an odd number k of floats, symmetric about its middle.

  Returns:
    [B, H - k + 1, W - k + 1] float.
  """
  for axis in (1, 2):
    length = image.shape[axis] - len(window) + 1
    slices = [jax.lax.slice_in_dim(image, i, i + length, axis=axis) for i in range(len(window))]
    middle = len(window) // 2
    image = window[middle] * slices[middle] + sum(window[i] * (slices[i] + slices[-1 - i]) for i in range(middle))
  return image


def _filter_forward(image, window):
  return filter_symmetric(image, window), None


def _filter_backward(window, _, cotangent):
  border = len(window) - 1  # A symmetric window is its own mirror: correlate the padded cotangent.
  padding = ((0, 0), (border, border), (border, border))
  return (filter_symmetric(jnp.pad(cotangent, padding), window),)


filter_symmetric.defvjp(_filter_forward, _filter_backward)


def sobel(image):
  """Sobel derivatives (unnormalised 3x3 weights 1-2-1) along rows and columns.

  The border is mirrored without repeating the edge pixel ("reflect-101"), as in
  `scipy.ndimage.sobel(mode="mirror")` and `tf.image.sobel_edges`.

  Args:
    image: [B, H, W] float, H and W at least 2.

  Returns:
    (d/dy, d/dx), each [B, H, W] float.
  """
  chex.assert_rank(image, 3)
  padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1)), mode="reflect")

  def smooth(x, axis):
    n = x.shape[axis]
    part = functools.partial(jax.lax.slice_in_dim, x, axis=axis)
    return part(0, n - 2) + 2 * part(1, n - 1) + part(2, n)

  rows = smooth(padded, 2)
  columns = smooth(padded, 1)
  return rows[:, 2:] - rows[:, :-2], columns[:, :, 2:] - columns[:, :, :-2]


def min_pool(mask, size, *, padding="VALID"):
  """True where a whole size x size window of `mask` is True (erosion), stride 1.

  Slices again, rows then columns: `lax.reduce_window` is slower, and on a mask that is a constant
  under jit XLA spends minutes folding it.

  Args:
    mask: [B, H, W] bool.
    size: window edge, pixels, odd.
    padding: "VALID" (whole windows only) or "SAME" (pixels outside the image count as True).

  Returns:
    [B, H', W'] bool, H' = H for "SAME", H - size + 1 for "VALID".
  """
  chex.assert_rank(mask, 3)
  if padding == "SAME":
    border = size // 2
    mask = jnp.pad(mask, ((0, 0), (border, border), (border, border)), constant_values=True)
  for axis in (1, 2):
    length = mask.shape[axis] - size + 1
    mask = functools.reduce(
      jnp.logical_and, [jax.lax.slice_in_dim(mask, i, i + length, axis=axis) for i in range(size)]
    )
  return mask


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_first(x, axis):
  """Maximum along one axis; of equal values the first one gets the gradient.

  `jnp.max` shares the gradient among the elements that equal the maximum, found by comparing floats
  again in the backward pass. If XLA has computed them there with another rounding (another fusion,
  excess precision), none is equal and the share is 0 / 0: a NaN seen in CBAM's pooling. Here the
  place of the maximum is remembered as an integer.

  Args:
    x: [...] float, differentiated (reverse mode).
    axis: the axis to reduce, int.

  Returns:
    `x` without `axis`.
  """
  return jnp.max(x, axis)


def _max_forward(x, axis):
  place = jnp.argmax(x, axis, keepdims=True)
  index = jnp.expand_dims(jnp.arange(x.shape[axis]), [i for i in range(x.ndim) if i != axis % x.ndim])
  return jnp.max(x, axis), index == place


def _max_backward(axis, here, cotangent):
  return (jnp.where(here, jnp.expand_dims(cotangent, axis), 0),)


max_first.defvjp(_max_forward, _max_backward)
