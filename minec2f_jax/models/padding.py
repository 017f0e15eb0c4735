"""Images of any size for encoders that halve theirs five times: padded before, the logits cropped after.

Rows are added at the bottom, columns at the right. So pixel (i, j) of a map at 1 / s of the size stays
the block of pixels from (s i, s j) on, whatever the image's size: one origin for image, features and
logits, and the strides fall on the same pixels as in a larger image with the same top left corner.
Centred padding would move both by an amount that depends on the size.

What is added is the image mirrored at its outermost pixel centres ("reflect-101", as in augmentation),
back and forth where the image is smaller than what it lacks; a side of one pixel is repeated. Zeros
would put an edge where there is none, and move the batch's statistics.
"""

import chex
import jax.numpy as jnp
from jax import lax

MULTIPLE = 32  # What FPN and DenseNet need: five halvings. A ViT's patches of 16 pixels fit in.


def pad_image(image):
  """The image continued at the bottom and the right to the next multiple of 32 pixels.

  Args:
    image: [B, H, W, C], H and W at least 1.

  Returns:
    [B, H', W', C], H' and W' the smallest multiples of 32 not below H and W; `image` itself, without an
    operation, if they are H and W. Sizes may be symbolic (`jax.export`).

  Raises:
    ValueError: if the image has no pixel.
  """
  chex.assert_rank(image, 4)
  height, width = image.shape[1:3]
  if not (isinstance(height, int) and isinstance(width, int)):
    return _continue(_continue(image, 1), 2)
  if height == 0 or width == 0:
    raise ValueError(f"the image is {image.shape}: it needs at least one pixel.")
  below, right = -height % MULTIPLE, -width % MULTIPLE
  if below == 0 and right == 0:
    return image
  return jnp.pad(image, ((0, 0), (0, below), (0, right), (0, 0)), mode="reflect")


def _continue(image, axis):
  """`pad_image` along one axis of symbolic size, by the places that its pixels come from."""
  size = image.shape[axis]
  if size % MULTIPLE == 0:  # As "32*h" is known to be.
    return image
  length = MULTIPLE * ((size + MULTIPLE - 1) // MULTIPLE)  # In this form JAX can tell that it halves five times.
  period = jnp.maximum(2 * lax.convert_element_type(size, jnp.int32) - 2, 1)
  place = jnp.arange(length) % period
  return jnp.take(image, jnp.minimum(place, period - place), axis, mode="clip")


def pad_mask(mask):
  """[B, H', W'] bool of [B, H, W]: what `pad_image` adds is False."""
  height, width = mask.shape[1:3]
  return jnp.pad(mask, ((0, 0), (0, -height % MULTIPLE), (0, -width % MULTIPLE)))


def crop(x, size):
  """What belongs to the unpadded image: [B, H, W, C] of [B, H', W', C] for `size` (H, W).

  Without an operation if nothing is to be cut off.
  """
  height, width = size
  if x.shape[1:3] == (height, width):
    return x
  return x[:, :height, :width]
