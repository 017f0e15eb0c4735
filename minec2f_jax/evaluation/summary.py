"""From an assessment to the numbers of a report: plain JSON, one row for each model and test set."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from minec2f_jax import metrics
from minec2f_jax.evaluation import boundaries, breakdown, intervals, transfer
from minec2f_jax.evaluation.assessment import NO_PIXEL_SIZE, Assessment

INTERVAL_SCORES = ("accuracy", "mf1", "miou", "iou_mine", "f1_mine")
OUTLINE_TOLERANCE_M = 30.0  # Of the one boundary score that has an interval: a pixel of Landsat.
TRANSFER_SCORES = ("miou", "iou_mine")
AREAS_BY_LABEL = (
  "Where the data tell no area of a mine, its size is the labelled area within the image, less where the image cuts it."
)
TRANSFER_NOTE = (
  "The two domains' labels differ: a student that draws finer outlines than the coarse labels do loses on the coarse "
  "domain by being right, so a negative backward transfer is not a loss of skill alone. Forward transfer is undefined: "
  "it asks for the scores of an untrained network."
)


def summarize(found: Assessment, ids: Sequence[str], details: Sequence[Mapping], *, seed: int) -> dict:
  """All scores of one model on one test set.

  Args:
    found: of N images.
    ids: theirs.
    details: theirs, see `pipeline.details`.
    seed: of the bootstrap.

  Returns:
    "scores": of `metrics.ConfusionMatrix`; "counts": id -> pixels by label, then prediction;
    "boundaries": of `BoundaryCounts.compute`, and how many images have a pixel size, or None where none has;
    "calibration", "reliability": of `Calibration`; "intervals": score -> `interval_of`;
    "groups": factor -> [{"name", "num_images", "small", "scores"}], of factors of which anything is known;
    "notes": sentences.
  """
  groups, by_label = _groups(found, details)
  notes = [] if found.placed.all() else [NO_PIXEL_SIZE]
  return {
    "scores": found.confusion.compute(),
    "counts": dict(zip(ids, found.confusion.counts.tolist(), strict=True)),
    "boundaries": _boundary_scores(found),
    "calibration": found.calibration.compute(),
    "reliability": found.calibration.reliability(),
    "intervals": _intervals(found, [told.get("location_group", name) for told, name in zip(details, ids)], seed),
    "groups": groups,
    "notes": notes + [AREAS_BY_LABEL] * by_label,
  }


def interval_of(statistics: np.ndarray, score: intervals.Score, *, groups: Sequence[str], seed: int) -> dict:
  """`intervals.bootstrap` as plain JSON, with the unit that was resampled: "image" or "location group"."""
  unit = "image" if len(set(groups)) == len(groups) else "location group"
  return {**dataclasses.asdict(intervals.bootstrap(statistics, score, seed=seed, groups=groups)), "unit": unit}


def transfer_of(rows: Sequence[Mapping], domains: Sequence[str] = ("coarse", "fine")) -> dict | None:
  """Transfer and forgetting of `TRANSFER_SCORES`; None unless each domain's model was tested on each domain.

  Args:
    rows: with "trained_on", "domain" and "scores".
    domains: in the order of training; models are named by the one they were trained on.

  Returns:
    score -> {"matrix" [stage][domain], "average", "backward", "forward" (NaN), "forgetting"}, and "note".
  """
  by_place = {(row["trained_on"], row["domain"]): row["scores"] for row in rows}
  if any((stage, domain) not in by_place for stage in domains for domain in domains):
    return None
  result = {}
  for name in TRANSFER_SCORES:
    matrix = transfer.score_matrix({place: scores[name] for place, scores in by_place.items()}, domains)
    found = transfer.transfer(matrix)
    means = {field: getattr(found, field) for field in ("average", "backward", "forward", "forgetting")}
    result[name] = {"matrix": matrix.tolist(), **means}
  return {**result, "note": TRANSFER_NOTE}


def policies() -> dict[str, str]:
  """What a reader of the numbers has to know, whatever they are."""
  return {"absent_class": metrics.ABSENT_CLASS_POLICY, "boundary": boundaries.BOUNDARY_POLICY}


def _boundary_scores(found: Assessment) -> dict | None:
  if not found.placed.any():
    return None
  placed = {"num_images": int(found.placed.sum()), "num_without_pixel_size": int((~found.placed).sum())}
  return {**found.boundaries.compute(), **placed}


def _intervals(found: Assessment, groups: Sequence[str], seed: int) -> dict[str, dict]:
  result = {}
  for name in INTERVAL_SCORES:
    statistics, score = intervals.confusion_statistics(found.confusion.counts, name)
    result[name] = interval_of(statistics, score, groups=groups, seed=seed)
  if found.placed.any():
    statistics = found.boundaries.counts[found.placed, found.boundaries.tolerances_m.index(OUTLINE_TOLERANCE_M)]
    score = lambda sums: boundaries.boundary_scores(sums)["boundary_f1"]
    placed = [group for group, known in zip(groups, found.placed) if known]
    result[f"boundary_f1_{OUTLINE_TOLERANCE_M:g}m"] = interval_of(statistics, score, groups=placed, seed=seed)
  return result


def _groups(found: Assessment, details: Sequence[Mapping]) -> tuple[dict[str, list[dict]], bool]:
  """(groups of every factor of which anything is known, whether a size is the label's)."""
  areas = breakdown.mine_areas_km2(found.confusion, [told.get("gsd_m", (math.nan, math.nan)) for told in details])
  by_label = [area >= 0 and "area_km2" not in told for told, area in zip(details, areas.tolist())]
  known = [{**told, "area_km2": area} if own else told for told, area, own in zip(details, areas.tolist(), by_label)]
  result = {}
  for factor, groups in breakdown.breakdown(found.confusion, known).items():
    if any(group.name != breakdown.UNKNOWN for group in groups):
      result[factor] = [
        {"name": group.name, "num_images": group.num_images, "small": group.small, "scores": group.confusion.compute()}
        for group in groups
      ]
  return result, any(by_label)
