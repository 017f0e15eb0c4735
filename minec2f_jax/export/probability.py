"""From reflectance to the probability of a mine, with all that lies between."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from minec2f_jax.data import sensors

THRESHOLD = 0.5  # A pixel above it is mine, as in the scores.


def make_probability(logits: Callable, *, mean: Sequence[float], std: Sequence[float]) -> Callable:
  """`(variables, image) -> probability`, for images of any size.

  image: [B, H, W, C] float32 surface reflectance, bands in the order of `mean`. A pixel with a band that is NaN or
  infinite is one without data, as one that the run's files mark as such.
  probability: [B, H, W] float32, NaN where there are no data.

  Args:
    logits: `Method.logits`, which pads and crops.
    mean: C floats, reflectance.
    std: C floats, reflectance.
  """

  def probability(variables, image):
    valid = jnp.isfinite(image).all(axis=-1)
    found = logits(*variables, sensors.normalize(image, valid, mean=mean, std=std))[..., 0]
    return jnp.where(valid, jax.nn.sigmoid(found), jnp.nan)

  return probability
