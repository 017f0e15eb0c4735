"""The gate: a file that does not answer as the trained model does is not handed out."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from minec2f_jax.errors import UserError
from minec2f_jax.export.probability import THRESHOLD

_WAVES = 3  # of the real-like image, at most, from side to side


def make_images(mean: Sequence[float], std: Sequence[float], sizes) -> dict[str, np.ndarray]:
  """Images to hold two functions against each other on, the same every time.

  Args:
    mean: of the bands, reflectance.
    std: likewise.
    sizes: "any", or [height, width].

  Returns:
    {what it is: [B, H, W, C] float32}: random pixels, smooth ones with an edge of no data, and, at an odd size if that
    can be, pixels without data here and there and an image that is nothing else.
  """
  rng, mean, std = np.random.default_rng(0), np.asarray(mean), np.asarray(std)
  usual, odd = ((64, 64), (45, 83)) if sizes == "any" else (tuple(sizes),) * 2
  random = lambda shape: mean + std * rng.normal(size=(2, *shape, len(mean)))
  noise, gaps = random(usual), random(odd)
  smooth = _smooth(rng, mean, std, usual)
  smooth[:, : usual[0] // 8] = np.nan
  gaps[0, rng.random(odd) < 0.1, 0] = np.nan  # One band of a pixel is enough.
  gaps[0, 3, 5:9, -1] = np.inf
  gaps[1] = np.nan
  return {name: x.astype(np.float32) for name, x in {"random": noise, "real-like": smooth, "gaps": gaps}.items()}


def _smooth(rng, mean, std, shape) -> np.ndarray:
  """[2, H, W, C]: reflectance that varies as land does, in all bands alike, with a bright plain object on it."""
  rows, columns = np.linspace(0, 2 * np.pi, shape[0])[:, None], np.linspace(0, 2 * np.pi, shape[1])
  images = []
  for phase in rng.uniform(0, 2 * np.pi, (2, _WAVES)):
    waves = [np.sin(n * rows + p) * np.cos(n * columns - p) for n, p in enumerate(phase, start=1)]
    land = mean + std * (sum(waves)[..., None] / _WAVES + rng.normal(0, 0.05, (*shape, len(mean))))
    land[shape[0] // 3 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] += 2 * std
    images.append(land)
  return np.stack(images)


def compare(found: np.ndarray, expected: np.ndarray) -> dict:
  """How far two maps of probabilities are apart.

  Args:
    found: [...] float, NaN where there are no data.
    expected: of the same shape.

  Returns:
    {"largest": the largest difference, infinite where shapes or places without data differ or a number is lacking,
    "masks_agree": share of the pixels with data on the same side of the threshold}; 0 and 1 without such pixels.
  """
  valid = ~np.isnan(expected)
  if found.shape != expected.shape or not np.array_equal(~np.isnan(found), valid):
    return {"largest": np.inf, "masks_agree": 0.0}
  found, expected = (x[valid].astype(np.float64) for x in (found, expected))
  agree = (found > THRESHOLD) == (expected > THRESHOLD)
  return {
    "largest": float(np.max(np.abs(found - expected), initial=0.0)),
    "masks_agree": float(agree.mean()) if agree.size else 1.0,
  }


def require_equal(
  name: str,
  run: Callable,
  images: Mapping[str, np.ndarray],
  expected: Mapping[str, np.ndarray],
  *,
  largest: float,
  masks_agree: float = 0.0,
) -> dict[str, dict]:
  """What `compare` finds on every image.

  Args:
    name: of the file, for the message.
    run: `image -> probability`, from that file.
    images: of `make_images`.
    expected: the trained model's probabilities of them.
    largest: difference that is allowed.
    masks_agree: share that is asked for.

  Raises:
    UserError: one of them is too far off; the message names all that are.
  """
  found = {what: compare(np.asarray(run(image)), expected[what]) for what, image in images.items()}
  bad = [
    f"{what} image: off by {one['largest']:.2g}, masks agree on {one['masks_agree']:.4%}"
    for what, one in found.items()
    if not (one["largest"] <= largest and one["masks_agree"] >= masks_agree)
  ]
  if bad:
    raise UserError(
      f"{name} does not answer as the trained model does ({'; '.join(bad)}; allowed are {largest:g}"
      f"{f' and {masks_agree:.2%}' if masks_agree else ''}), so it is not kept; report it, with the config and the "
      "versions of jax and jaxlib"
    )
  return found
