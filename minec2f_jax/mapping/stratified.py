"""Areas and accuracies from a stratified random sample (Olofsson et al. 2014, doi:10.1016/j.rse.2014.02.015)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959963984540054  # Of a normal distribution, for an interval of 95 %.


class Estimate(NamedTuple):
  """What a sample says about H map classes, which are the strata; standard errors beside their values.

  Attributes:
    proportions: [H, H] error matrix, rows = map, columns = reference, sum 1 (Eq. 4).
    share, share_se: [H] of the area that is of a class (Eqs. 9, 10).
    area, area_se: [H] in the unit of the mapped areas (Eq. 11).
    overall, overall_se: accuracy (Eqs. 1, 5).
    users, users_se: [H] of what is mapped as a class, the part that is (Eqs. 2, 6).
    producers, producers_se: [H] of what is of a class, the part mapped so (Eqs. 3, 7); NaN where nothing is.
  """

  proportions: np.ndarray
  share: np.ndarray
  share_se: np.ndarray
  area: np.ndarray
  area_se: np.ndarray
  overall: float
  overall_se: float
  users: np.ndarray
  users_se: np.ndarray
  producers: np.ndarray
  producers_se: np.ndarray


def estimate(counts, mapped_areas) -> Estimate:
  """The estimate from a sample that is random within each map class.

  Args:
    counts: [H, H] sample units, rows = map class, columns = reference class; at least 2 in each row.
    mapped_areas: [H] of each map class, in any unit, above 0.
  """
  counts, areas = np.asarray(counts, float), np.asarray(mapped_areas, float)
  sizes = counts.sum(axis=1)
  if sizes.min() < 2 or areas.min() <= 0:
    raise ValueError(f"sample sizes {sizes.tolist()}, areas {areas.tolist()}: at least 2, and above 0, in each class")
  weights = areas / areas.sum()
  rates = counts / sizes[:, None]
  proportions = weights[:, None] * rates
  variances = rates * (1 - rates) / (sizes - 1)[:, None]  # Of each rate.
  share = proportions.sum(axis=0)
  share_se = np.sqrt((weights[:, None] ** 2 * variances).sum(axis=0))
  users, users_variance = np.diagonal(rates), np.diagonal(variances)
  producers, producers_se = _producers(proportions, variances, areas)
  return Estimate(
    proportions=proportions,
    share=share,
    share_se=share_se,
    area=areas.sum() * share,
    area_se=areas.sum() * share_se,
    overall=float(np.trace(proportions)),
    overall_se=math.sqrt(float((weights**2 * users_variance).sum())),
    users=users.copy(),
    users_se=np.sqrt(users_variance),
    producers=producers,
    producers_se=producers_se,
  )


def _producers(proportions, variances, areas):
  """Producer's accuracies and their standard errors, Eq. 7: N_i. are areas, which only stand in ratios."""
  totals = areas.sum() * proportions.sum(axis=0)
  with np.errstate(divide="ignore", invalid="ignore"):
    accuracy = np.diagonal(proportions) / proportions.sum(axis=0)
    own = areas**2 * (1 - accuracy) ** 2 * np.diagonal(variances)
    spread = areas[:, None] ** 2 * variances
    others = accuracy**2 * (spread.sum(axis=0) - np.diagonal(spread))
    return accuracy, np.sqrt((own + others) / totals**2)


def sample_size(mapped_areas: Sequence[float], users: Sequence[float], *, overall_se: float) -> int:
  """Sample units for a standard error of the overall accuracy, if the user's accuracies are as expected (Eq. 13)."""
  weights = np.asarray(mapped_areas, float) / np.sum(mapped_areas)
  spread = np.sqrt(np.asarray(users, float) * (1 - np.asarray(users, float)))
  return math.ceil(float((weights * spread).sum() / overall_se) ** 2)


def allocate(total: int, mapped_areas: Sequence[float], *, least: int) -> list[int]:
  """Sample units of each class: `least` of the rare ones, the rest by area (Olofsson et al. 2014, Sec. 5.1.2)."""
  areas = np.asarray(mapped_areas, float)
  rare = areas / areas.sum() * total < least
  left = max(total - least * int(rare.sum()), 0)
  shares = np.where(rare, 0.0, areas)
  wanted = left * shares / max(shares.sum(), 1e-300)
  return [int(least if is_rare else max(round(share), least)) for is_rare, share in zip(rare, wanted)]
