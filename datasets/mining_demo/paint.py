"""Brushes of the landscape: noise, shapes in metres, materials."""

import functools
import math
from typing import NamedTuple

import numpy as np
from scipy import fft

from datasets.mining_demo.spectra import SPECTRA


class Grid(NamedTuple):
  """Ground coordinates of the pixels: x and y are [H, W] metres from the chip's centre."""

  x: np.ndarray
  y: np.ndarray
  gsd_m: float

  @property
  def extent_m(self) -> float:
    return self.x.shape[0] * self.gsd_m


@functools.lru_cache
def _amplitude(size: int, slope: float) -> np.ndarray:
  k = np.hypot(fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None, :])
  k[0, 0] = np.inf  # No mean.
  return (k ** (-slope / 2)).astype(np.float32)


def fractal(rng: np.random.Generator, grid: Grid, slope: float) -> np.ndarray:
  """Returns [H, W] noise of mean 0 and deviation 1 with power spectrum k**-slope: 0 is white, 2 rugged, 4 rolling."""
  size = grid.x.shape[0]
  padded = size + size // 4  # The transform's noise is periodic: cropped, opposite borders do not meet.
  amplitude = _amplitude(padded, slope)
  white = rng.standard_normal((2, *amplitude.shape), np.float32)
  field = fft.irfft2((white[0] + 1j * white[1]) * amplitude, (padded, padded))[:size, :size]
  return (field - field.mean()) / field.std()


def spectrum(rng: np.random.Generator, name: str) -> np.ndarray:
  """Returns this scene's version [6] of a material: brighter or darker, slightly tinted."""
  tint = 0.12 * rng.standard_normal() + 0.04 * rng.standard_normal(6)
  return (np.array(SPECTRA[name]) * np.exp(tint)).astype(np.float32)


def mix(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
  return a + (b - a) * weight[..., None]


def sigmoid(x: np.ndarray) -> np.ndarray:
  return 0.5 * (1 + np.tanh(x / 2))


def fill(image: np.ndarray, where: np.ndarray, spectrum: np.ndarray, texture: np.ndarray) -> None:
  """Paints a material over image [H, W, 6] in place; texture [H, W] is its log-brightness."""
  image[where] = spectrum * np.exp(texture[where])[:, None]


def blob(rng, grid: Grid, x: float, y: float, radius_m: float, ragged: np.ndarray) -> np.ndarray:
  """Returns the depth [H, W] below the rim, in metres and positive inside, of an ellipse with a ragged outline."""
  angle, stretch = rng.uniform(0, math.pi), math.exp(0.18 * rng.standard_normal())
  u = (grid.x - x) * math.cos(angle) + (grid.y - y) * math.sin(angle)
  v = (grid.y - y) * math.cos(angle) - (grid.x - x) * math.sin(angle)
  return radius_m * (1 + ragged) - np.hypot(u * stretch, v / stretch)


def line(rng, grid: Grid, wander_m: float) -> np.ndarray:
  """Returns the distance [H, W] in metres from a line that crosses the chip somewhere, wandering by wander_m."""
  angle = rng.uniform(0, 2 * np.pi)
  offset = rng.uniform(-0.45, 0.45) * grid.extent_m
  level = grid.x * math.cos(angle) + grid.y * math.sin(angle) - offset + wander_m * fractal(rng, grid, 4.0)
  slope = np.hypot(*np.gradient(level, grid.gsd_m))
  return np.abs(level) / np.maximum(slope, 0.3)


def rotated(rng, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
  angle = rng.uniform(0, np.pi)
  return (grid.x * math.cos(angle) + grid.y * math.sin(angle), grid.y * math.cos(angle) - grid.x * math.sin(angle))
