"""The paper's training augmentation, on the device: flips, quarter turns, shift-scale-rotate.

All four are affine maps of the pixel grid, and a border mirrored at its outermost pixel centres
looks the same after a flip or turn. So they are composed into one 2 x 3 matrix an image and the
image is read once. A matrix acts on (x, y) = (column, row) in pixels, the top left pixel's centre
being (0, 0). A "pull" matrix leads from an output pixel to the place it is read from.
"""

import functools

import chex
import jax
import jax.numpy as jnp


def augment(
  key,
  batch,
  *,
  hflip=0.5,
  vflip=0.5,
  rot90=0.5,
  shift_scale_rotate=0.5,
  shift_limit=0.1,
  scale_limit=0.3,
  rotate_limit_deg=15.0,
):
  """The batch with every image transformed at random, each on its own.

  MineC2FNet, training details. The paper gives the operations and their probability; the details
  (quarter turns uniform in 0..3, sampling laws, reflect-101 border) are those of the library whose
  names it uses. Images without a shift-scale-rotate come out bitwise as their flipped or turned
  selves.

  Args:
    key: a jax PRNG key.
    batch: {"image": [B, H, W, C] float, "label": [B, H, W], "valid": [B, H, W] bool, ...}; other
      entries pass through. Without a label there is none in the result, and all else is as with one.
    hflip: probability of a left-right flip.
    vflip: probability of an up-down flip.
    rot90: probability of a turn by k quarters, k uniform in {0, 1, 2, 3}.
    shift_scale_rotate: probability of shift, scale and rotation together.
    shift_limit: largest shift along each axis, as a fraction of the image's size.
    scale_limit: the scale is uniform in 1 - limit .. 1 + limit, limit < 1.
    rotate_limit_deg: largest rotation, degrees.

  Returns:
    A batch of the same shapes and dtypes; see `warp` for what happens to invalid pixels.

  Raises:
    ValueError: quarter turns asked for images that are not square.
  """
  image, valid = batch["image"], batch["valid"]
  label = batch.get("label", jnp.zeros(valid.shape, jnp.uint8))
  chex.assert_rank(image, 4)
  chex.assert_shape([label, valid], image.shape[:3])
  height, width = image.shape[1:3]
  if rot90 and height != width:
    raise ValueError(
      f"rot90={rot90} turns images by 90 degrees but they are {height}x{width}; use square chips or rot90=0"
    )
  draw = functools.partial(
    random_pull,
    height=height,
    width=width,
    hflip=hflip,
    vflip=vflip,
    rot90=rot90,
    shift_scale_rotate=shift_scale_rotate,
    shift_limit=shift_limit,
    scale_limit=scale_limit,
    rotate_limit_deg=rotate_limit_deg,
  )
  pulls = jax.vmap(draw)(jax.random.split(key, image.shape[0]))
  image, label, valid = jax.vmap(warp)(image, label, valid, pulls)
  return {**batch, "image": image, "valid": valid} | ({"label": label} if "label" in batch else {})


def random_pull(
  key, *, height, width, hflip, vflip, rot90, shift_scale_rotate, shift_limit, scale_limit, rotate_limit_deg
):
  """A random pull matrix, [2, 3] float32: flips first, then quarter turns, shift-scale-rotate last.

  Args:
    key: a jax PRNG key.
    height: pixels.
    width: pixels.
    hflip: this and all further arguments as in `augment`.
    vflip: probability.
    rot90: probability.
    shift_scale_rotate: probability.
    shift_limit: fraction of the size.
    scale_limit: fraction.
    rotate_limit_deg: degrees.

  Returns:
    [2, 3] float32, with integer entries if shift-scale-rotate was not drawn.
  """
  fires_key, turns_key, amounts_key = jax.random.split(key, 3)
  probabilities = jnp.asarray([hflip, vflip, rot90, shift_scale_rotate], jnp.float32)
  fires = jax.random.bernoulli(fires_key, probabilities)
  turns = jnp.where(fires[2], jax.random.randint(turns_key, (), 0, 4), 0)
  u = jax.random.uniform(amounts_key, (4,), minval=-1.0, maxval=1.0)
  forward = affine_matrix(
    height,
    width,
    scale=1.0 + scale_limit * u[0],
    angle_deg=rotate_limit_deg * u[1],
    shift_x=shift_limit * u[2],
    shift_y=shift_limit * u[3],
  )
  pull = jnp.where(fires[3], invert_affine(forward), jnp.eye(2, 3))
  return compose(dihedral_pull(height, width, hflip=fires[0], vflip=fires[1], turns=turns), pull)


def affine_matrix(height, width, *, scale, angle_deg, shift_x, shift_y):
  """Matrix that scales and rotates about the image centre, then shifts: from source to output.

  Args:
    height: pixels.
    width: pixels.
    scale: > 1 enlarges what is seen.
    angle_deg: counter-clockwise on the screen (y points down), degrees.
    shift_x: to the right, as a fraction of the width.
    shift_y: downwards, as a fraction of the height.

  Returns:
    [2, 3] float32.
  """
  angle = jnp.deg2rad(angle_deg)
  a, b = scale * jnp.cos(angle), scale * jnp.sin(angle)
  x, y = (width - 1) / 2, (height - 1) / 2
  return jnp.array(
    [
      [a, b, (1 - a) * x - b * y + shift_x * width],
      [-b, a, b * x + (1 - a) * y + shift_y * height],
    ],
    jnp.float32,
  )


def invert_affine(matrix):
  """The inverse of an affine map, [2, 3] float, written out (a solver call would cost more)."""
  (a, b, tx), (c, d, ty) = matrix
  determinant = a * d - b * c
  return jnp.array([[d, -b, b * ty - d * tx], [-c, a, c * tx - a * ty]]) / determinant


def dihedral_pull(height, width, *, hflip, vflip, turns):
  """Pull matrix of `np.rot90(flipped, turns)`, exact in float32.

  Args:
    height: pixels.
    width: pixels; equal to the height if `turns` may be odd.
    hflip: bool, left-right flip before the turn.
    vflip: bool, up-down flip before the turn.
    turns: counter-clockwise quarter turns, integer in 0..3.

  Returns:
    [2, 3] float32 with integer entries.
  """
  # A turn by 90 degrees is a transpose and a flip, by 180 two flips, by 270 a transpose and the
  # other flip.
  turns = jnp.asarray(turns)
  swap = (turns % 2).astype(jnp.float32)
  flip_x = hflip ^ ((turns == 1) | (turns == 2))
  flip_y = vflip ^ ((turns == 2) | (turns == 3))
  sign_x, sign_y = jnp.where(flip_x, -1.0, 1.0), jnp.where(flip_y, -1.0, 1.0)
  return jnp.array(
    [
      [sign_x * (1 - swap), sign_x * swap, flip_x * (width - 1.0)],
      [sign_y * swap, sign_y * (1 - swap), flip_y * (height - 1.0)],
    ],
    jnp.float32,
  )


def compose(outer, inner):
  """The affine map x -> outer(inner(x)); both [2, 3] float, as is the result."""
  # Not `@`: on a GPU a float32 matrix product may run in TF32, too coarse for pixel positions.
  linear = jnp.sum(outer[:, :2, None] * inner[None, :, :], axis=1)
  return linear.at[:, 2].add(outer[:, 2])


def warp(image, label, valid, pull):
  """One image, label and valid mask resampled through a pull matrix.

  The image is read bilinearly, the label at the nearest pixel (halves go up), beyond the border
  both continue mirrored without repeating the edge pixel (reflect-101, `mode="mirror"` of SciPy).

  Args:
    image: [H, W, C] float; values where `valid` is False are never used.
    label: [H, W].
    valid: [H, W] bool.
    pull: [2, 3] float, from output (x, y) to source (x, y).

  Returns:
    (image, label, valid) of the same shapes and dtypes. An output pixel is valid only if every
    source pixel with a bilinear weight above 0, and so the nearest one, is; elsewhere image and
    label are 0.
  """
  height, width = label.shape
  x, y = jnp.arange(width, dtype=jnp.float32), jnp.arange(height, dtype=jnp.float32)[:, None]
  columns, weights_x, nearest_x = _neighbours(pull[0, 0] * x + pull[0, 1] * y + pull[0, 2], width)
  rows, weights_y, nearest_y = _neighbours(pull[1, 0] * x + pull[1, 1] * y + pull[1, 2], height)

  def read(array, row, column):  # By one flat index: half the time of a pair of indices on CPU.
    pixels = jnp.reshape(array, (height * width, *array.shape[2:]))
    return pixels.at[row * width + column].get(mode="clip")

  resampled, counts = jnp.zeros_like(image), jnp.ones_like(valid)
  for row, weight_y in zip(rows, weights_y, strict=True):
    for column, weight_x in zip(columns, weights_x, strict=True):
      weight = (weight_y * weight_x).astype(image.dtype)[..., None]
      # A weight of 0 does not keep out a NaN: 0 * NaN is NaN. Other NaNs end under `counts`.
      resampled += jnp.where(weight == 0, 0, weight * read(image, row, column))
      counts &= (weight[..., 0] == 0) | read(valid, row, column)
  label = read(label, nearest_y, nearest_x)
  return (
    jnp.where(counts[..., None], resampled, 0),
    jnp.where(counts, label, jnp.zeros_like(label)),
    counts,
  )


def _neighbours(position, size):
  """The two pixels around a position on one axis, their bilinear weights, and the nearest pixel.

  Args:
    position: [H, W] float, pixels, anywhere on the axis.
    size: pixels on the axis.

  Returns:
    ((lower, upper), (their weights), nearest), each [H, W]; indices are mirrored into 0..size - 1.
  """
  lower = jnp.floor(position)
  fraction = position - lower
  first = lower.astype(jnp.int32)

  def mirror(index):
    period = max(2 * (size - 1), 1)
    index = index % period
    return jnp.minimum(index, period - index)

  pair = mirror(first), mirror(first + 1)
  return pair, (1.0 - fraction, fraction), jnp.where(fraction < 0.5, *pair)
