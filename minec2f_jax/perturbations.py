"""What self-training does to images before the network sees them: other colours, blur, holes, small copies.

Images [B, H, W, C] are normalised: 0 is a band's mean over the globe, 1 its standard deviation, and pixels that are not
`valid` [B, H, W] are 0. Key first, image second, as in `data.augment`, which turns and scales reflectance before that.
"""

import jax
import jax.numpy as jnp

from minec2f_jax import ops

BLUR_SIGMA = (0.15, 1.15)  # pixels, as in DACS' code
_BLUR_RADIUS = 4  # pixels; beyond 3.5 of the largest sigma


def strong_augmentation(key, image, valid, *, strength, jitter, blur):
  """The images with other brightness, contrast and sharpness, each on its own.

  DACS (Tranheden et al. 2021, arXiv:2007.08702) jitters brightness, contrast, saturation and hue of RGB. Here each band
  is drawn for itself, which moves the bands against each other as saturation and hue do, and on normalised images
  brightness is added: x -> m + (1 + c) (x - m) + b, m the band's mean in the image, c and b uniform in -+ strength.

  Args:
    key: a jax PRNG key.
    image: [B, H, W, C] float, normalised.
    valid: [B, H, W] bool.
    strength: of the jitter, b in standard deviations of the normalisation.
    jitter: probability of it.
    blur: probability of a Gaussian blur, sigma uniform in `BLUR_SIGMA`.

  Returns:
    [B, H, W, C], 0 where not valid.
  """
  images, bands = image.shape[0], image.shape[-1]
  which, contrast, brightness, widths = jax.random.split(key, 4)
  jittered, blurred = jax.random.bernoulli(which, jnp.array([jitter, blur]), (images, 2)).T[..., None, None, None]
  uniform = lambda key: jax.random.uniform(key, (images, 1, 1, bands), image.dtype, -strength, strength)
  counted = jnp.broadcast_to(valid[..., None], image.shape)
  mean = ops.masked_mean(image, counted, axis=(1, 2))[:, None, None]
  other = mean + (1 + uniform(contrast)) * (image - mean) + uniform(brightness)
  image = jnp.where(counted, jnp.where(jittered, other, image), 0)
  sigma = jax.random.uniform(widths, (images,), image.dtype, *BLUR_SIGMA)
  return jnp.where(counted, jnp.where(blurred, gaussian_blur(image, sigma), image), 0)


def gaussian_blur(image, sigma):
  """Each image [B, H, W, C] smoothed by a Gaussian of its own `sigma` [B], pixels; edge pixels are repeated outside."""
  offsets = jnp.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1)
  weights = jax.nn.softmax(-0.5 * (offsets / sigma[:, None]) ** 2)  # [B, 9]
  for axis in (1, 2):
    length = image.shape[axis]
    border = [(0, 0)] * 4
    border[axis] = (_BLUR_RADIUS, _BLUR_RADIUS)
    padded = jnp.pad(image, border, mode="edge")
    shifted = (jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(offsets.size))
    image = sum(weights[:, i, None, None, None] * part for i, part in enumerate(shifted))
  return image


def block_mask(key, shape, *, size, ratio):
  """Which pixels stay when random blocks are taken out: True where an image is to be seen.

  MIC (Hoyer et al. 2023, arXiv:2212.01322), Eq. 3: each block of a grid goes with probability `ratio`.

  Args:
    key: a jax PRNG key.
    shape: (B, H, W).
    size: edge of a block, pixels; those at the bottom and right may be cut.
    ratio: in [0, 1].

  Returns:
    [B, H, W] bool.
  """
  batch, height, width = shape
  kept = jax.random.uniform(key, (batch, -(-height // size), -(-width // size))) >= ratio
  return jnp.repeat(jnp.repeat(kept, size, axis=1), size, axis=2)[:, :height, :width]


def shrunk_copy(key, image, mask):
  """What `mask` shows at half its size, at a random place of each image.

  A pixel of the copy is the mean of four, and counts if all four are of the mask.

  Args:
    key: a jax PRNG key.
    image: [B, H, W, C] float.
    mask: [B, H, W] bool.

  Returns:
    (images [B, H, W, C] with the copies, their masks [B, H, W] bool; nothing else in them means anything).
  """
  batch, height, width, bands = image.shape
  rows, columns = height // 2, width // 2
  blocks = lambda x: x[:, : 2 * rows, : 2 * columns].reshape(batch, rows, 2, columns, 2, *x.shape[3:])
  rest = ((0, 0), (0, height - rows), (0, width - columns))
  small = jnp.pad(jnp.mean(blocks(image), axis=(2, 4)), (*rest, (0, 0)))
  small_mask = jnp.pad(jnp.all(blocks(mask), axis=(2, 4)), rest)
  limits = jnp.array([height - rows + 1, width - columns + 1])
  places = jax.random.randint(key, (batch, 2), 0, limits)
  move = jax.vmap(lambda x, place: jnp.roll(x, place, axis=(0, 1)))  # What is rolled round is padding.
  return move(small, places), move(small_mask, places)
