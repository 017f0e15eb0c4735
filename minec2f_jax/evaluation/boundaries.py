"""How well outlines agree, at tolerances in metres on the ground: Boundary IoU and boundary F1.

The boundary of a mask is the line between its pixels and their neighbours outside, along pixel edges. It is the same
line whether one looks from the mine or from the background, and has no thickness that would depend on the pixel size.
Where a neighbour is invalid or the image ends nothing is known of what follows, and there is no boundary. Distances are
straight, exact and in metres, from each image's own pixel height and width.

  Boundary IoU (Cheng et al. 2021, arXiv:2103.16562): IoU of the two inner bands, the pixels of a mask whose centre lies
  within the tolerance of its own boundary. Deviations: their published code counts square erosions, which at a
  tolerance of n whole pixels give the same band along straight edges, and takes the image border for a boundary.

  Boundary F1 (BF score; Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?", BMVC):
  harmonic mean of precision, the share of the predicted boundary within the tolerance of the labelled one, and recall,
  the converse. Deviation: they count boundary pixels, we count pixel edges, each by its midpoint.

Both come pooled, from counts summed over images (names boundary_...), and as the mean over images
(image_boundary_...), which is how Csurka et al. report theirs; Cheng et al. put their measure where either is used.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from minec2f_jax import metrics

TOLERANCES_M = (10.0, 30.0, 60.0)  # A pixel of Sentinel-2, of Landsat, and two of Landsat.
# What the six counts of an image and tolerance are: pixels of the bands, then pixel edges of the boundaries.
COUNTS = ("overlap", "union", "predicted", "predicted_matched", "labelled", "labelled_matched")
# For tables to print.
BOUNDARY_POLICY = (
  "Boundary scores are those of the mine's outline. Neither the image border nor an edge to a pixel without data is an "
  "outline. An image without outline in label and prediction is left out, one in which only one of the two has one "
  "scores 0. Images whose pixels are wider than twice the tolerance cannot show it: at that tolerance they are left "
  "out, and counted."
)
_FINEST_M = 0.01  # Below: degrees, most likely. Pixels of degrees that are above would be 1 km wide.


@dataclasses.dataclass(frozen=True)
class BoundaryCounts:
  """Boundary counts of a set of images, merged by concatenation.

  Attributes:
    counts: [N, T, 6] int64, `COUNTS` by image and tolerance; 0 where the image is too coarse.
    too_coarse: [N, T] bool, images whose pixels are wider than twice the tolerance.
    tolerances_m: T tolerances in metres.
  """

  counts: np.ndarray
  too_coarse: np.ndarray
  tolerances_m: tuple[float, ...] = TOLERANCES_M

  @classmethod
  def empty(cls, tolerances_m: Sequence[float] = TOLERANCES_M) -> "BoundaryCounts":
    """The counts of no images."""
    shape = (0, len(tolerances_m))
    return cls(np.zeros((*shape, len(COUNTS)), np.int64), np.zeros(shape, bool), tuple(map(float, tolerances_m)))

  def merge(self, other: "BoundaryCounts") -> "BoundaryCounts":
    """These counts with the images of `other`, which must have the same tolerances."""
    if self.tolerances_m != other.tolerances_m:
      raise ValueError(f"tolerances_m={self.tolerances_m} and {other.tolerances_m} cannot be merged; count both alike")
    return BoundaryCounts(
      np.concatenate([self.counts, other.counts]),
      np.concatenate([self.too_coarse, other.too_coarse]),
      self.tolerances_m,
    )

  def compute(self) -> dict:
    """All boundary scores, by tolerance, pooled and averaged over images; NaN where undefined.

    Returns:
      A dict. At e.g. 10 m floats boundary_iou_10m, boundary_f1_10m, boundary_precision_10m, boundary_recall_10m, the
      same with `image_` before (means over images in which they are defined), and ints num_boundary_images_10m (with
      an outline in label or prediction) and num_too_coarse_10m.
    """
    result = {}
    for t, tolerance in enumerate(self.tolerances_m):
      counts, suffix = self.counts[:, t], f"_{tolerance:g}m"
      pooled, by_image = boundary_scores(counts.sum(axis=0)), boundary_scores(counts)
      result |= {f"{name}{suffix}": float(value) for name, value in pooled.items()}
      result |= {f"image_{name}{suffix}": metrics.mean_of_defined(values) for name, values in by_image.items()}
      result[f"num_boundary_images{suffix}"] = int((counts[:, 2] + counts[:, 4] > 0).sum())
      result[f"num_too_coarse{suffix}"] = int(self.too_coarse[:, t].sum())
    return result


def boundary_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
  """Scores of boundary counts; of a set's summed counts they are pooled, of one image's they are its own.

  Args:
    counts: [..., 6] as `COUNTS` says.

  Returns:
    A dict of [...] float64 in 0..1: boundary_iou; boundary_f1, 0 where one outline has no match or does not exist;
    boundary_precision and boundary_recall. NaN without any outline; precision also without a predicted one, recall
    without a labelled one.
  """
  overlap, union, predicted, predicted_matched, labelled, labelled_matched = np.moveaxis(np.asarray(counts), -1, 0)
  precision, recall = _ratio(predicted_matched, predicted), _ratio(labelled_matched, labelled)
  p, r = np.nan_to_num(precision), np.nan_to_num(recall)
  f1 = np.where(p + r > 0, 2 * p * r / np.maximum(p + r, 1e-300), 0.0)
  return {
    "boundary_iou": _ratio(overlap, union),
    "boundary_f1": np.where(predicted + labelled > 0, f1, np.nan),
    "boundary_precision": precision,
    "boundary_recall": recall,
  }


def boundary_counts(
  predicted: np.ndarray,
  label: np.ndarray,
  valid: np.ndarray | None,
  gsd_m,
  *,
  tolerances_m: Sequence[float] = TOLERANCES_M,
) -> BoundaryCounts:
  """The boundary counts of each image.

  Args:
    predicted: [N, H, W] bool or integer, non-zero = mine; already thresholded.
    label: [N, H, W] likewise.
    valid: [N, H, W] bool, or None if all pixels count.
    gsd_m: size of the pixels that the arrays have, in metres: a number, [N], or [N, 2] (height, width). A raster in
      degrees has other sizes in metres at every latitude: the caller converts, e.g. by `data.grids.Grid.gsd_m`.
    tolerances_m: metres, > 0.

  Raises:
    ValueError: shapes that do not fit; pixel sizes that are missing, or too small to be metres.
  """
  predicted, label = np.asarray(predicted) != 0, np.asarray(label) != 0
  valid = np.ones(label.shape, bool) if valid is None else np.asarray(valid).astype(bool)
  if label.ndim != 3 or not predicted.shape == label.shape == valid.shape:
    raise ValueError(
      f"predicted {predicted.shape}, label {label.shape} and valid {valid.shape} must be [N, H, W], all alike"
    )
  tolerances = np.asarray(tolerances_m, np.float64)
  if tolerances.ndim != 1 or not np.all(np.isfinite(tolerances) & (tolerances > 0)):
    raise ValueError(f"tolerances_m={tolerances_m} must be finite numbers of metres above 0")
  sides = _pixel_sides(gsd_m, len(label))
  too_coarse = sides.max(axis=1, initial=0)[:, None] > 2 * tolerances
  counts = np.zeros((len(label), len(tolerances), len(COUNTS)), np.int64)
  for i, masks in enumerate(zip(predicted & valid, label & valid, valid)):
    counts[i] = _count(*masks, sides[i], tolerances)
  counts[too_coarse] = 0
  return BoundaryCounts(counts, too_coarse, tuple(tolerances.tolist()))


def _pixel_sides(gsd_m, count: int) -> np.ndarray:
  """[count, 2] metres (height, width), checked."""
  sides = np.asarray(gsd_m, np.float64)
  sides = sides[:, None] if sides.ndim == 1 else sides
  if sides.ndim not in (0, 2) or (sides.ndim == 2 and (len(sides) != count or sides.shape[1] > 2)):
    raise ValueError(f"gsd_m of shape {np.shape(gsd_m)} must be a number, [{count}] or [{count}, 2]: one row an image")
  sides = np.broadcast_to(sides, (count, 2))
  wrong = np.flatnonzero(~(np.isfinite(sides) & (sides >= _FINEST_M)).all(axis=1))
  if wrong.size:
    listed = ", ".join(f"image {i}: {sides[i].tolist()}" for i in wrong[:5])
    raise ValueError(
      f"gsd_m of {wrong.size} of {count} images is no pixel size in metres ({listed}{', ...' * (wrong.size > 5)}); "
      "convert degrees to metres, and leave images without georeference out of boundary scores"
    )
  return sides


def _count(predicted, label, valid, sides, tolerances) -> np.ndarray:
  """[T, 6] counts of one image; masks [H, W] bool, False where not valid."""
  edges = [_edges(mask, valid) for mask in (predicted, label)]
  window = _window(edges[0] | edges[1], 2 * np.ceil(tolerances.max(initial=0) / sides).astype(int))
  if window is None:
    return np.zeros((len(tolerances), len(COUNTS)), np.int64)
  edges = [each[window] for each in edges]
  predicted, label = (mask[tuple(slice(s.start // 2, s.stop // 2) for s in window)] for mask in (predicted, label))
  to_predicted, to_label = (_distance(each, sides) for each in edges)
  counts = []
  for reach in tolerances * (1 + 1e-9):  # Rounding must not part what is exactly at the tolerance.
    bands = (mask & (d[1::2, 1::2] <= reach) for mask, d in ((predicted, to_predicted), (label, to_label)))
    ours, theirs = bands
    found, hit = to_label[edges[0]] <= reach, to_predicted[edges[1]] <= reach
    counts.append(((ours & theirs).sum(), (ours | theirs).sum(), found.size, found.sum(), hit.size, hit.sum()))
  return np.array(counts, np.int64)


def _edges(mask: np.ndarray, valid: np.ndarray) -> np.ndarray:
  """[2H+1, 2W+1] bool, midpoints of the pixel edges on the boundary.

  On this grid of half pixels, pixel centres are (odd, odd), midpoints of edges (odd, even) and (even, odd), corners of
  pixels (even, even).
  """
  height, width = mask.shape
  edges = np.zeros((2 * height + 1, 2 * width + 1), bool)
  edges[2:-1:2, 1::2] = (mask[1:] != mask[:-1]) & valid[1:] & valid[:-1]
  edges[1::2, 2:-1:2] = (mask[:, 1:] != mask[:, :-1]) & valid[:, 1:] & valid[:, :-1]
  return edges


def _window(edges: np.ndarray, margin: np.ndarray):
  """Slices, from even to odd places, around all edges and `margin` half pixels more; None without an edge."""
  if not edges.any():
    return None
  spans = []
  for axis in (0, 1):
    places = np.flatnonzero(edges.any(axis=1 - axis))
    start, stop = places[0] - margin[axis], places[-1] + margin[axis] + 1
    spans.append(slice(max(start // 2 * 2, 0), min(stop // 2 * 2 + 1, edges.shape[axis])))
  return tuple(spans)


def _distance(edges: np.ndarray, sides: np.ndarray) -> np.ndarray:
  """Metres from every place of the grid to the boundary; inf without one.

  Exact for pixel centres and midpoints of edges: what of an edge lies nearest to them is its midpoint or an end, and
  both are places of the grid.
  """
  if not edges.any():
    return np.full(edges.shape, np.inf)
  line = edges.copy()
  upright, level = edges[1::2, ::2], edges[::2, 1::2]
  for ends, edge in ((line[:-1:2, ::2], upright), (line[2::2, ::2], upright)):
    ends |= edge
  for ends, edge in ((line[::2, :-1:2], level), (line[::2, 2::2], level)):
    ends |= edge
  return ndimage.distance_transform_edt(~line, sampling=sides / 2)


def _ratio(part, whole):
  return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
