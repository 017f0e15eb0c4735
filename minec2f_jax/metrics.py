"""Segmentation metrics from confusion counts that are kept image by image.

Counting runs on the device (`confusion_counts`), division happens once, on the host, in float64
(`ConfusionMatrix.compute`). Because the counts of every image are kept, the result depends neither
on the batch size nor on the order, and a bootstrap or a table by group needs no second evaluation.
"""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from minec2f_jax import ops


def confusion_counts(logits, label, valid=None, *, threshold=0.5):
  """Number of valid pixels of each image by true and predicted class.

  Args:
    logits: [B, H, W] float.
    label: [B, H, W] in {0, 1}; logits and labels may be NaN where `valid` is False.
    valid: [B, H, W] bool or None.
    threshold: a pixel is predicted as mine if its probability is above; Python float in (0, 1).

  Returns:
    [B, 2, 2] int32: row = label, column = prediction, index 0 = background, 1 = mine.
  """
  if not 0.0 < threshold < 1.0:
    raise ValueError(f"threshold={threshold} is no probability; give a value between 0 and 1")
  chex.assert_rank(logits, 3)
  chex.assert_equal_shape([logits, label] if valid is None else [logits, label, valid])
  predicted = logits > math.log(threshold / (1.0 - threshold))
  actual = label > 0

  def count(pixels):
    return jnp.sum(ops.replace_invalid(pixels, valid, fill=False), axis=(1, 2), dtype=jnp.int32)

  rows = [jnp.stack([count(a & ~predicted), count(a & predicted)], axis=-1) for a in (~actual, actual)]
  return jnp.stack(rows, axis=1)


def iou(counts):
  """Intersection over union of (background, mine).

  Args:
    counts: [..., 2, 2] integer, row = label, column = prediction.

  Returns:
    [..., 2] float64; NaN for a class that neither label nor prediction holds.
  """
  overlap, either = _overlap_and_union(counts)
  return _ratio(overlap, either)


def f1(counts):
  """F1 score (Dice) of (background, mine).

  Args:
    counts: [..., 2, 2] integer, row = label, column = prediction.

  Returns:
    [..., 2] float64; NaN for a class that neither label nor prediction holds.
  """
  overlap, either = _overlap_and_union(counts)
  return _ratio(2 * overlap, overlap + either)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConfusionMatrix:
  """Confusion counts of a set of images: a pytree with one leaf, merged by concatenation.

  Attributes:
    counts: [N, 2, 2] int64 NumPy array, row = label, column = prediction. It lives on the host;
      jax would turn it into int32.
  """

  counts: np.ndarray

  @classmethod
  def empty(cls):
    """A matrix of no images."""
    return cls(np.zeros((0, 2, 2), np.int64))

  @classmethod
  def from_counts(cls, counts):
    """The matrix of one batch, `counts` [B, 2, 2] integer as from `confusion_counts`."""
    counts = np.asarray(counts)
    if counts.ndim != 3 or counts.shape[1:] != (2, 2) or counts.dtype.kind not in "iu":
      raise ValueError(
        f"counts of shape {counts.shape} and dtype {counts.dtype} are no integer [B, 2, 2];"
        " give the result of confusion_counts"
      )
    return cls(counts.astype(np.int64))

  def update(self, counts):
    """This matrix with the images of one more batch, `counts` [B, 2, 2] integer."""
    return self.merge(ConfusionMatrix.from_counts(counts))

  def merge(self, other):
    """This matrix with the images of `other`."""
    return ConfusionMatrix(np.concatenate([self.counts, other.counts]))

  def compute(self):
    """All metrics: pooled over pixels, and averaged over images (names starting with `image_`).

    A class that neither label nor prediction holds has no IoU and no F1 (0 / 0): it is left out
    of every mean over classes or images, and NaN is returned if nothing remains. The same holds
    for a precision without a predicted pixel and a recall without a labelled one. An image
    without valid pixels (the padding of a last batch) counts nowhere.

    Returns:
      A dict of Python floats: accuracy; iou_background, iou_mine, miou (mean of the two);
      f1_background, f1_mine, mf1; precision_mine, recall_mine; image_iou_mine, image_f1_mine
      (means over the images where a mine is labelled or predicted); image_miou (mean over images
      of each one's miou). And two ints: num_images, num_pixels.
    """
    pooled = self.counts.sum(axis=0)
    images = self.counts[self.counts.sum(axis=(1, 2)) > 0]
    pooled_iou, pooled_f1, image_iou = iou(pooled), f1(pooled), iou(images)
    return {
      "accuracy": float(_ratio(np.trace(pooled), pooled.sum())),
      "iou_background": float(pooled_iou[0]),
      "iou_mine": float(pooled_iou[1]),
      "miou": _mean_of_defined(pooled_iou),
      "f1_background": float(pooled_f1[0]),
      "f1_mine": float(pooled_f1[1]),
      "mf1": _mean_of_defined(pooled_f1),
      "precision_mine": float(_ratio(pooled[1, 1], pooled[:, 1].sum())),
      "recall_mine": float(_ratio(pooled[1, 1], pooled[1].sum())),
      "image_iou_mine": _mean_of_defined(image_iou[:, 1]),
      "image_f1_mine": _mean_of_defined(f1(images)[:, 1]),
      "image_miou": _mean_of_defined([_mean_of_defined(values) for values in image_iou]),
      "num_images": len(images),
      "num_pixels": int(pooled.sum()),
    }


def _overlap_and_union(counts):
  counts = np.asarray(counts, np.int64)
  overlap = np.diagonal(counts, axis1=-2, axis2=-1)
  return overlap, counts.sum(axis=-1) + counts.sum(axis=-2) - overlap


def _ratio(numerator, denominator):
  """numerator / denominator in float64, NaN where the denominator is 0."""
  numerator, denominator = np.asarray(numerator), np.asarray(denominator)
  defined = denominator > 0
  return np.where(defined, numerator / np.where(defined, denominator, 1), np.nan)


def _mean_of_defined(values):
  """Mean without the NaNs; NaN of nothing. Exactly rounded, hence the same in any order."""
  values = [float(v) for v in values if not math.isnan(v)]
  return math.fsum(values) / len(values) if values else math.nan
