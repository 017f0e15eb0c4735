"""One look at a model on a test set: all that its scores are computed from, image by image."""

import collections
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import NamedTuple

import jax
import numpy as np

from minec2f_jax import metrics
from minec2f_jax.data import pipeline
from minec2f_jax.errors import UserError
from minec2f_jax.evaluation import boundaries, evaluate
from minec2f_jax.evaluation.boundaries import BoundaryCounts
from minec2f_jax.evaluation.calibration import Calibration
from minec2f_jax.methods import Variables

NO_PIXEL_SIZE = (
  "Boundary scores need the size of a pixel on the ground, which the data do not tell: give files with a coordinate "
  "reference system, or config.data.gsd_m, in metres."
)
_NUM_THREADS = 2  # SciPy's distance transform lets go of the interpreter.
_MOST_WAITING = 4  # Batches whose logits are in memory at once.
_FINEST_M = 0.01  # As `boundaries` has it: below, they are no metres.

# (number of the first image, logits [B, H, W], valid [B, H, W]), from several threads at once
Observer = Callable[[int, np.ndarray, np.ndarray], None]


class Assessment(NamedTuple):
  """What N images add to every score, in their order; sets are merged by concatenation.

  Attributes:
    confusion: at threshold 0.5.
    calibration: sums.
    boundaries: counts, 0 where `placed` is False.
    placed: [N] bool, images whose pixel size is known.
  """

  confusion: metrics.ConfusionMatrix
  calibration: Calibration
  boundaries: BoundaryCounts
  placed: np.ndarray

  @classmethod
  def empty(cls) -> "Assessment":
    """That of no images."""
    return cls(metrics.ConfusionMatrix.empty(), Calibration.empty(), BoundaryCounts.empty(), np.zeros(0, bool))

  def merge(self, *others: "Assessment") -> "Assessment":
    """This one with the images of others."""
    parts = (self, *others)
    joined = lambda field: np.concatenate([field(part) for part in parts])
    return Assessment(
      metrics.ConfusionMatrix(joined(lambda part: part.confusion.counts)),
      Calibration(joined(lambda part: part.calibration.bins), joined(lambda part: part.calibration.losses)),
      BoundaryCounts(
        joined(lambda part: part.boundaries.counts),
        joined(lambda part: part.boundaries.too_coarse),
        self.boundaries.tolerances_m,
      ),
      joined(lambda part: part.placed),
    )


def assess(
  predict: Callable,
  variables: Variables,
  source: pipeline.Source,
  *,
  batch_size: int,
  details: Sequence[Mapping],
  observe: Observer | None = None,
) -> Assessment:
  """The assessment of a model on every valid pixel of `source`, in one pass and in memory of a few batches.

  Confusion is counted on the device, the rest by threads beside it.

  Args:
    predict: of `evaluate.make_predict`.
    variables: of the model.
    source: of the samples.
    batch_size: samples at a time; no result depends on it.
    details: of each sample, see `pipeline.details`; boundary scores need their gsd_m.
    observe: also gets to see the logits.

  Raises:
    UserError: an image whose logits are NaN, or whose pixel size is none.
  """
  sides = _pixel_sides(source.ids, details)

  def measure(start: int, count: int, batch, logits, counts) -> Assessment:
    label, valid = (np.asarray(batch[name])[:count] for name in ("label", "valid"))
    found, counts = np.asarray(logits)[:count], np.asarray(counts)[:count]
    _require_numbers(source.ids[start : start + count], found, valid)
    if observe is not None:
      observe(start, found, valid)
    return assess_batch(found, label, valid, sides[start : start + count], counts=counts)

  waiting, done, start = collections.deque(), [], 0
  with futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    for batch, count in evaluate.batches(variables, source, batch_size):
      logits = predict(variables, batch)
      counts = evaluate.count_pixels(logits, batch["label"], batch["valid"])
      waiting.append(pool.submit(measure, start, count, batch, logits, counts))
      start += count
      if len(waiting) >= _MOST_WAITING:
        done.append(waiting.popleft().result())
    done += [future.result() for future in waiting]
  return Assessment.empty().merge(*done)


def assess_batch(logits, label, valid, sides_m, *, counts=None) -> Assessment:
  """The assessment of one batch.

  Args:
    logits: [B, H, W] float.
    label: [B, H, W] in {0, 1}.
    valid: [B, H, W] bool.
    sides_m: [B, 2] (height, width) of a pixel in metres; NaN where unknown.
    counts: [B, 2, 2] of `metrics.confusion_counts`, where they are known already.
  """
  counts = jax.device_get(evaluate.count_pixels(logits, label, valid)) if counts is None else counts
  placed = np.isfinite(sides_m).all(axis=1)
  known = boundaries.boundary_counts((logits > 0)[placed], label[placed], valid[placed], sides_m[placed])
  outline, too_coarse = (
    np.zeros((len(placed), *part.shape[1:]), part.dtype) for part in (known.counts, known.too_coarse)
  )
  outline[placed], too_coarse[placed] = known.counts, known.too_coarse
  return Assessment(
    metrics.ConfusionMatrix.from_counts(counts),
    Calibration.from_logits(logits, label, valid),
    BoundaryCounts(outline, too_coarse, known.tolerances_m),
    placed,
  )


def _pixel_sides(ids: Sequence[str], details: Sequence[Mapping]) -> np.ndarray:
  """[N, 2] metres (height, width), NaN where unknown."""
  sides = np.array([told.get("gsd_m", (np.nan, np.nan)) for told in details], np.float64).reshape(-1, 2)
  if wrong := [f"{ids[i]} ({sides[i].min():g} m)" for i in np.flatnonzero((sides < _FINEST_M).any(axis=1))]:
    raise UserError(
      f"{len(wrong)} images have pixels too small to be true: {', '.join(wrong[:5])}{', ...' * (len(wrong) > 5)}; "
      "correct the reference system or the transform of their files, or take it out"
    )
  return sides


def _require_numbers(ids: Sequence[str], logits: np.ndarray, valid: np.ndarray):
  wrong = (np.isnan(logits) & valid).any(axis=(1, 2))
  if wrong.any():
    raise UserError(
      f"the model gives NaN for image {ids[int(np.argmax(wrong))]!r}: its weights, or the image's reflectance, are not "
      "finite; train again with a lower config.optimizer.learning_rate or with config.optimizer.clip_norm=1.0, or "
      "correct the image"
    )
