"""Probabilities as whole numbers in a file; rounding moves no pixel across the threshold of its mask."""

import math
from typing import NamedTuple

import numpy as np


class Encoding(NamedTuple):
  """How a probability is stored: value / `scale`; `nodata` where there is none."""

  dtype: str
  scale: int
  nodata: int

  def describe(self) -> str:
    """For the tags of a file."""
    return f"probability = value / {self.scale}; {self.nodata} = no data"


ENCODINGS = {"uint16": Encoding("uint16", 65534, 65535), "uint8": Encoding("uint8", 254, 255)}
SCALE, NODATA = ENCODINGS["uint16"].scale, ENCODINGS["uint16"].nodata


def encode(probability: np.ndarray, threshold: float = 0.5, encoding: Encoding = ENCODINGS["uint16"]) -> np.ndarray:
  """Stored values of probabilities [...] in 0..1; value / scale is above `threshold` where the probability is, only."""
  stored = np.rint(probability * encoding.scale)
  cut = highest_below(threshold, encoding)
  above = np.greater(probability, np.float64(threshold))  # In float32 0.3 would be another threshold.
  return np.where(above, np.maximum(stored, cut + 1), np.minimum(stored, cut)).astype(encoding.dtype)


def highest_below(threshold: float, encoding: Encoding = ENCODINGS["uint16"]) -> int:
  """The largest stored value that is not above a threshold in [0, 1)."""
  cut = math.floor(threshold * encoding.scale)
  return next(value for value in (cut + 1, cut, cut - 1) if value / encoding.scale <= threshold)
