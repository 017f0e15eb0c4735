"""Test-time augmentation: the mean over the eight symmetries of a square."""

import functools
import operator

import jax.numpy as jnp

from minec2f_jax.mapping.tiling import Probabilities


def average(probabilities: Probabilities) -> Probabilities:
  """The mean of what `probabilities` says of the eight turned and mirrored images, turned back.

  It turns with the image, bit for bit: values are added in the order of their size, not in that of the symmetries.
  """

  def averaged(image, valid):
    image, valid, found = jnp.asarray(image), jnp.asarray(valid), []
    for turns in range(4):
      for mirrored in (False, True):
        turned = probabilities(_turn(image, turns, mirrored), _turn(valid, turns, mirrored))
        found.append(_turn_back(jnp.asarray(turned), turns, mirrored))
    ordered = jnp.sort(jnp.stack(found), axis=0)
    return functools.reduce(operator.add, ordered) / len(found)

  return averaged


def _turn(x, turns: int, mirrored: bool):
  """[B, T, T, ...], mirrored left to right, then turned by so many right angles."""
  return jnp.rot90(x[:, :, ::-1] if mirrored else x, turns, axes=(1, 2))


def _turn_back(x, turns: int, mirrored: bool):
  x = jnp.rot90(x, -turns, axes=(1, 2))
  return x[:, :, ::-1] if mirrored else x
