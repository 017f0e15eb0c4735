"""Transfer and forgetting over a sequence of domains, from the matrix of scores after each stage on each domain."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Transfer:
  """What learning domain after domain did to each; see `transfer` for the definitions. NaN = undefined.

  Attributes:
    average: mean score over domains at the end.
    backward: negative where later stages cost earlier domains.
    forward: positive where earlier stages helped domains that were not learnt yet.
    forgetting: how far each earlier domain fell from its best.
    backward_by_domain: [T - 1], the terms of `backward`.
    forgetting_by_domain: [T - 1], the terms of `forgetting`.
  """

  average: float
  backward: float
  forward: float
  forgetting: float
  backward_by_domain: tuple[float, ...]
  forgetting_by_domain: tuple[float, ...]


def score_matrix(scores: Mapping[tuple[str, str], float], domains: Sequence[str]) -> np.ndarray:
  """[T, T] R[i, j] from (stage, domain) -> score, both named and ordered as `domains`; NaN where not measured."""
  return np.array([[scores.get((stage, domain), math.nan) for domain in domains] for stage in domains], np.float64)


def transfer(matrix: np.ndarray, *, untrained: Sequence[float] | None = None) -> Transfer:
  """Transfer and forgetting of T stages, each of which learnt one domain.

  R[i, j] is the score on domain j after stage i, both counted from 1; stage i learns domain i. Higher is better.

    average             1/T sum_j R[T, j]                                     Lopez-Paz & Ranzato 2017 (ACC)
    backward transfer   1/(T-1) sum_{j<T} (R[T, j] - R[j, j])                 likewise (BWT)
    forward transfer    1/(T-1) sum_{j>1} (R[j-1, j] - b_j)                   likewise (FWT)
    forgetting          1/(T-1) sum_{j<T} (max_{l<T} R[l, j] - R[T, j])       Chaudhry et al. 2018 (F_T)

  (GEM, arXiv:1706.08840, Sec. 2; Riemannian Walk, arXiv:1801.10112, Sec. 3.) For two stages, coarse then fine,
  forgetting is minus backward transfer, and forward transfer is what the teacher reaches on fine images beyond b.
  Domain labels differ here: a student that draws finer outlines than the coarse labels do loses on the coarse domain
  by being right, so backward transfer is not a loss of skill alone.

  Args:
    matrix: [T, T] R; NaN where not measured. The maximum is taken over what was measured.
    untrained: T scores b of the network before any training on each domain, or None: then forward is NaN.
  """
  matrix = np.asarray(matrix, np.float64)
  if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
    raise ValueError(f"matrix of shape {matrix.shape} must be [T, T]: one stage a domain")
  stages = len(matrix)
  start = np.full(stages, np.nan) if untrained is None else np.asarray(untrained, np.float64)
  if start.shape != (stages,):
    raise ValueError(f"untrained has shape {start.shape}; it must hold a score for each of {stages} domains")
  final, earlier = matrix[-1], matrix[:-1, :-1]
  backward = final[:-1] - np.diagonal(matrix)[:-1]
  # fmax takes NaN for nothing; of nothing but NaN it is NaN.
  forgetting = np.fmax.reduce(earlier, axis=0) - final[:-1] if stages > 1 else np.zeros(0)
  forward = np.diagonal(matrix, offset=1) - start[1:]
  return Transfer(
    float(final.mean()),
    _mean(backward),
    _mean(forward),
    _mean(forgetting),
    tuple(backward.tolist()),
    tuple(forgetting.tolist()),
  )


def _mean(values: np.ndarray) -> float:
  return float(values.mean()) if len(values) else math.nan
