"""Whether probabilities mean what they say: ECE, Brier score, log loss and the reliability curve.

All are pooled over the valid pixels of all images. What they are computed from is kept image by image, so that neither
batch size nor order matters and a bootstrap over images (`intervals.bootstrap`) needs no second evaluation.
"""

import dataclasses
import math

import jax
import numpy as np
from scipy import special

NUM_BINS = 20  # Even: 0.5 is an edge, so the bins of probability fold into bins of confidence. Scores depend on it.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Calibration:
  """Sums of a set of images, merged by concatenation; float64, on the host.

  Attributes:
    bins: [N, K, 3], by image and bin of the predicted probability of a mine: number of pixels, number of mine pixels,
      sum of the probabilities. Bins are equally wide; a probability on an edge belongs to the lower one.
    losses: [N, 2], by image: sum of squared errors, sum of negative log likelihoods in nats.
  """

  bins: np.ndarray
  losses: np.ndarray

  @classmethod
  def empty(cls, num_bins: int = NUM_BINS) -> "Calibration":
    """The sums of no images."""
    return cls(np.zeros((0, _check_bins(num_bins), 3)), np.zeros((0, 2)))

  @classmethod
  def from_logits(cls, logits, label, valid=None, *, num_bins: int = NUM_BINS) -> "Calibration":
    """The sums of one batch; exact and finite for logits of any size.

    Args:
      logits: [B, H, W] float, any float type.
      label: [B, H, W] in {0, 1}; logits and labels may be NaN where `valid` is False.
      valid: [B, H, W] bool or None.
      num_bins: K, even.
    """
    logits, mine = np.asarray(logits).astype(np.float64), np.asarray(label) > 0
    valid = np.ones(mine.shape, bool) if valid is None else np.asarray(valid).astype(bool)
    if logits.ndim != 3 or not logits.shape == mine.shape == valid.shape:
      raise ValueError(f"logits {logits.shape}, label {mine.shape}, valid {valid.shape} must be [B, H, W], all alike")
    image = np.broadcast_to(np.arange(len(logits))[:, None, None], valid.shape)[valid]
    logits, mine = logits[valid], mine[valid]
    if np.isnan(logits).any():
      raise ValueError(f"{int(np.isnan(logits).sum())} valid pixels have a logit of NaN; the network has diverged")
    probability = special.expit(logits)
    edges = np.linspace(0.0, 1.0, _check_bins(num_bins) + 1)
    place = image * num_bins + np.searchsorted(edges[1:-1], probability)
    size, shape = len(valid) * num_bins, (len(valid), num_bins)
    sums = [np.bincount(place, weights, size).reshape(shape) for weights in (None, mine, probability)]
    wrong = np.where(mine, -logits, logits)  # Log odds of the class that is not there.
    losses = [np.bincount(image, w, len(valid)) for w in (special.expit(wrong) ** 2, np.logaddexp(0.0, wrong))]
    return cls(np.stack(sums, axis=-1).astype(np.float64), np.stack(losses, axis=-1))

  def update(self, logits, label, valid=None) -> "Calibration":
    """These sums with the images of one more batch."""
    return self.merge(Calibration.from_logits(logits, label, valid, num_bins=self.bins.shape[1]))

  def merge(self, other: "Calibration") -> "Calibration":
    """These sums with the images of `other`, which must have as many bins."""
    if self.bins.shape[1] != other.bins.shape[1]:
      raise ValueError(f"{self.bins.shape[1]} and {other.bins.shape[1]} bins cannot be merged; count both alike")
    return Calibration(np.concatenate([self.bins, other.bins]), np.concatenate([self.losses, other.losses]))

  def compute(self) -> dict:
    """All calibration scores, pooled over pixels; NaN without a valid pixel.

    Returns:
      A dict of floats: ece and ece_confidence (see those functions), brier (mean squared error of the probability of a
      mine; 0 is best, always saying 1/2 gives 0.25), nll (mean negative log likelihood in nats; always 1/2: 0.693),
      mean_probability and mine_share (equal where too much here makes up for too little there). And ints: num_bins,
      num_pixels.
    """
    bins = _sum(self.bins)
    total, mines, probability = bins.sum(axis=0)
    brier, nll = _sum(self.losses) / total if total else (math.nan, math.nan)
    return {
      "ece": float(ece(bins)),
      "ece_confidence": float(ece_confidence(bins)),
      "brier": float(brier),
      "nll": float(nll),
      "mean_probability": float(probability / total) if total else math.nan,
      "mine_share": float(mines / total) if total else math.nan,
      "num_bins": len(bins),
      "num_pixels": int(total),
    }

  def reliability(self) -> list[dict]:
    """The points of the reliability curve, one a bin: floats low and high (its edges), mean_probability and mine_share
    (x and y of the point; NaN in an empty bin), and int count."""
    bins = _sum(self.bins)
    edges = np.linspace(0.0, 1.0, len(bins) + 1)
    return [
      {
        "low": float(low),
        "high": float(high),
        "mean_probability": float(probability / count) if count else math.nan,
        "mine_share": float(mines / count) if count else math.nan,
        "count": int(count),
      }
      for low, high, (count, mines, probability) in zip(edges, edges[1:], bins)
    ]


def ece(bins: np.ndarray) -> np.ndarray:
  """Expected calibration error of the probability of a mine: mean over pixels of their bin's |share - probability|.

  Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning", for two classes.

  Args:
    bins: [..., K, 3] as in `Calibration`, summed over images.

  Returns:
    [...] in 0..1; NaN without pixels.
  """
  return _mean_gap(bins[..., 1] - bins[..., 2], bins[..., 0])


def ece_confidence(bins: np.ndarray) -> np.ndarray:
  """Expected calibration error of the predicted class: as `ece`, of accuracy and confidence, in K/2 bins on 0.5..1.

  Guo et al. 2017, arXiv:1706.04599, Eq. 3 (their bins divide 0..1, of which two classes use the upper half only). It
  forgives what `ece` does not: too many sure mines beside too few unsure backgrounds of the same confidence.

  Args:
    bins: [..., K, 3] as in `Calibration`, summed over images.

  Returns:
    [...] in 0..1; NaN without pixels.
  """
  half = bins.shape[-2] // 2
  gap = bins[..., 1] - bins[..., 2]
  # Where background is predicted, right and wrong change places, and p becomes 1 - p.
  folded = gap[..., half:] - gap[..., half - 1 :: -1]
  return _mean_gap(folded, bins[..., 0])


def _mean_gap(gaps, counts):
  total = counts.sum(axis=-1)
  return np.where(total > 0, np.abs(gaps).sum(axis=-1) / np.maximum(total, 1), np.nan)


def _sum(values: np.ndarray) -> np.ndarray:
  """Sum over images, exactly rounded, hence the same in any order."""
  return np.apply_along_axis(math.fsum, 0, values)


def _check_bins(num_bins: int) -> int:
  if num_bins < 2 or num_bins % 2:
    raise ValueError(f"num_bins={num_bins} must be even and at least 2")
  return num_bins
