"""Segmentation metrics from confusion counts that are kept image by image.

Counting runs on the device (`confusion_counts`), division happens once, on the host, in float64
(`ConfusionMatrix.compute`). Because the counts of every image are kept, the result depends neither
on the batch size nor on the order, and a bootstrap or a table by group needs no second evaluation.

Every score comes in two averages, which differ and must not be mixed in one column: pooled, from the
one confusion matrix of all pixels of all images (`miou`), and the mean over images of each one's own
(`image_miou`).
"""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from minec2f_jax import ops

# For tables to print. What holds for a class in one image holds for it in the whole set, where the score is pooled.
ABSENT_CLASS_POLICY = (
  "A class that neither the label nor the prediction holds has no IoU and no F1 (0/0): it is left out of means over "
  "classes and over images, and a score of which nothing remains is undefined (–), neither 0 nor 1. A class that only "
  "one of the two holds has IoU and F1 0: a false alarm in an image without mine counts. Precision is undefined "
  "without a predicted pixel, recall without a labelled one. Pixels without data and images without a valid pixel "
  "count nowhere."
)


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


def scores(counts):
  """All scores of confusion matrices; of a set's summed counts they are pooled, of one image's they are its own.

  Args:
    counts: [..., 2, 2] whole numbers, row = label, column = prediction.

  Returns:
    A dict of [...] float64: accuracy; iou_background, iou_mine, miou (mean of the two); f1_background, f1_mine, mf1;
    precision_mine, recall_mine. NaN where `ABSENT_CLASS_POLICY` says undefined.
  """
  counts = np.asarray(counts, np.int64)
  overlap, f1_of_class = iou(counts), f1(counts)
  mines = counts[..., 1, 1]
  return {
    "accuracy": _ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1))),
    "iou_background": overlap[..., 0],
    "iou_mine": overlap[..., 1],
    "miou": _class_mean(overlap),
    "f1_background": f1_of_class[..., 0],
    "f1_mine": f1_of_class[..., 1],
    "mf1": _class_mean(f1_of_class),
    "precision_mine": _ratio(mines, counts[..., 1].sum(axis=-1)),
    "recall_mine": _ratio(mines, counts[..., 1, :].sum(axis=-1)),
  }


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

  def pooled(self):
    """[2, 2] int64, the counts of all images together."""
    return self.counts.sum(axis=0)

  def shares(self):
    """[2, 2] float64, `pooled` as shares of all valid pixels (the paper's Table 14); NaN without any."""
    return _ratio(self.pooled(), self.pooled().sum())

  def compute(self):
    """All metrics: pooled over pixels, and averaged over images (names starting with `image_`).

    What is undefined is left out of means, see `ABSENT_CLASS_POLICY`.

    Returns:
      A dict of Python floats: those of `scores` for the pooled counts, and under `image_` + name the mean over the
      images for which the score is defined. And ints: num_images and num_pixels, which hold a valid pixel or are one;
      num_images_with_mine, in which a mine is labelled.
    """
    pooled, by_image = scores(self.pooled()), scores(self.counts)
    return {
      **{name: float(value) for name, value in pooled.items()},
      **{f"image_{name}": mean_of_defined(values) for name, values in by_image.items()},
      "num_images": int((self.counts.sum(axis=(1, 2)) > 0).sum()),
      "num_images_with_mine": int((self.counts[:, 1].sum(axis=1) > 0).sum()),
      "num_pixels": int(self.pooled().sum()),
    }


def mean_of_defined(values):
  """Mean without the NaNs; NaN of nothing. Exactly rounded, hence the same in any order."""
  values = [float(v) for v in values if not math.isnan(v)]
  return math.fsum(values) / len(values) if values else math.nan


def _overlap_and_union(counts):
  counts = np.asarray(counts, np.int64)
  overlap = np.diagonal(counts, axis1=-2, axis2=-1)
  return overlap, counts.sum(axis=-1) + counts.sum(axis=-2) - overlap


def _ratio(numerator, denominator):
  """numerator / denominator in float64, NaN where the denominator is 0."""
  numerator, denominator = np.asarray(numerator), np.asarray(denominator)
  defined = denominator > 0
  return np.where(defined, numerator / np.where(defined, denominator, 1), np.nan)


def _class_mean(values):
  """[..., 2] -> [...] mean of the defined ones; NaN if neither is."""
  defined = ~np.isnan(values)
  return _ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))
