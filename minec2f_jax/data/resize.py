"""Geometry of single chips: bringing image, label and validity to one size, whole or in patches."""

from collections.abc import Iterator

import chex
import numpy as np
from PIL import Image


def resize_chip(image, label, valid, size: int):
  """The whole chip at size x size pixels: image averaged over area, label and validity picked.

  The paper resizes whole images to 256 x 256 (supplement, Sec. 7.2: patches did worse) and does not
  say how. Here: bilinear, with a kernel as wide as the shrinking (antialiased), and the aspect
  ratio is not kept. Invalid pixels contribute nothing: resize(image * valid) / resize(valid). An
  output pixel is valid where valid pixels hold at least half of that weight and the source pixel
  its label came from is valid.

  Args:
    image: [H, W, C] float32; anything, NaN too, where invalid.
    label: [H, W] uint8 in {0, 1}; anything where invalid.
    valid: [H, W] bool.
    size: target height and width in pixels, > 0.

  Returns:
    image [size, size, C] float32, label [size, size] uint8 and valid [size, size] bool; image and
    label are 0 where invalid. A chip of that size already comes back bitwise as it is.
  """
  chex.assert_rank([image, label, valid], [3, 2, 2])
  chex.assert_shape([label, valid], image.shape[:2])
  chex.assert_type([image, label, valid], [np.float32, np.uint8, bool])
  if size < 1:
    raise ValueError(f"config.data.image_size={size} must be at least 1 pixel")
  image, label, valid = blank(image, label, valid)
  if valid.shape == (size, size):
    return image.copy(), label.copy(), valid.copy()  # The caller's to change, as any other.
  # Source pixels under the output's centres; in integers, so that ties fall alike everywhere.
  picked = np.ix_(*((2 * np.arange(size) + 1) * n // (2 * size) for n in valid.shape))
  new_label = label[picked]
  new_image = np.stack([_resize(band, size) for band in np.moveaxis(image, -1, 0)], axis=-1)
  if valid.all():
    return new_image, new_label, np.ones((size, size), bool)
  weight = _resize(valid.astype(np.float32), size)
  # By weight alone, a label that was never drawn could come out as valid background.
  new_valid = (weight >= 0.5) & valid[picked]
  new_image /= np.maximum(weight, 0.5)[..., None]
  return blank(new_image, new_label, new_valid)


def resize_map(values, valid, height: int, width: int):
  """A map of the network's [S, S] pixels back at a chip's own size: `resize_chip` the other way, bilinear.

  Args:
    values: [H, W] float32; anything where invalid.
    valid: [H, W] bool.
    height: of the result in pixels.
    width: likewise.

  Returns:
    values [height, width] float32, 0 where invalid, and valid [height, width] bool, that of the pixel under each
    centre. A map of that size already comes back bitwise as it is.
  """
  values = np.where(valid, values, np.float32(0.0))
  if valid.shape == (height, width):
    return values, valid
  picked = np.ix_(*((2 * np.arange(size) + 1) * n // (2 * size) for size, n in zip((height, width), valid.shape)))
  weight = _resize_to(valid.astype(np.float32), height, width)
  new_values = _resize_to(values, height, width) / np.maximum(weight, np.float32(1e-6))
  return np.where(valid[picked], new_values, np.float32(0.0)), valid[picked]


def blank(image, label, valid):
  """image [H, W, C] float32, label [H, W] uint8 and valid [H, W] bool, the first two 0 where invalid."""
  if valid.all():
    return image, label, valid
  return np.where(valid[..., None], image, np.float32(0.0)), np.where(valid, label, np.uint8(0)), valid


def cut_patches(image, label, valid, size: int) -> Iterator[tuple[tuple[int, int], tuple]]:
  """Patches of size x size pixels that do not overlap, each under its (row, column) among the patches.

  As patchify with a step of `size` (paper, supplement Sec. 7.2): what is left over at the right and the bottom is
  dropped. Where the chip itself is shorter than a patch, patchify fails; here the chip is filled up, at the right or
  the bottom, with invalid pixels.

  Args:
    image: [H, W, C] float32; anything, NaN too, where invalid.
    label: [H, W] uint8 in {0, 1}; anything where invalid.
    valid: [H, W] bool.
    size: height and width of a patch in pixels, > 0.

  Yields:
    (row, column), (image [size, size, C], label [size, size], valid [size, size]), types as given; image and label
    are 0 where invalid.
  """
  chex.assert_rank([image, label, valid], [3, 2, 2])
  chex.assert_shape([label, valid], image.shape[:2])
  chex.assert_type([image, label, valid], [np.float32, np.uint8, bool])
  image, label, valid = blank(image, label, valid)
  lacking = [(0, max(size - n, 0)) for n in valid.shape]
  image, label, valid = np.pad(image, [*lacking, (0, 0)]), np.pad(label, lacking), np.pad(valid, lacking)
  for row, column in np.ndindex(*patch_counts(*valid.shape, size)):
    window = np.s_[row * size : (row + 1) * size, column * size : (column + 1) * size]
    yield (row, column), (image[window], label[window], valid[window])


def patch_counts(height: int, width: int, size: int) -> tuple[int, int]:
  """How many rows and columns of patches `cut_patches` makes of a chip, each at least 1."""
  if size < 1:
    raise ValueError(f"size={size} must be at least 1 pixel")
  return max(height // size, 1), max(width // size, 1)


def _resize(plane, size):
  """[H, W] float32 -> [size, size] float32, antialiased bilinear."""
  return _resize_to(plane, size, size)


def _resize_to(plane, height, width):
  plane = Image.fromarray(np.ascontiguousarray(plane))
  return np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
