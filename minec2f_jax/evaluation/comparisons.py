"""Whether one model is better than another: paired tests over images and over seeds, and Holm's correction.

Over images (`compare_models`) one asks of two trained networks, over seeds (`compare_seeds`) of two ways to train. Only
the second speaks of a method, and a table's rows are methods: a difference that holds over images alone may be the luck
of one training.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import special

from minec2f_jax.evaluation import intervals

NUM_SWAPS = 10_000
_CHUNK = 2**22  # Numbers held at once: 32 MB.
_TIE = 1e-9  # Differences this near, relative to the observed one, are equal but for rounding.


@dataclasses.dataclass(frozen=True)
class ModelComparison:
  """Two models on the same images.

  Attributes:
    difference: score of the first minus score of the second.
    interval: its bootstrap interval over images, the same ones drawn for both.
    p_value: two-sided, of the permutation test.
    exact: whether all 2**num_units exchanges were tried, not a random choice.
  """

  difference: float
  interval: intervals.Interval
  p_value: float
  exact: bool


@dataclasses.dataclass(frozen=True)
class SeedComparison:
  """Two rows of a table at the same seeds.

  Attributes:
    difference: mean over seeds of first minus second.
    sd: standard deviation of the differences (n - 1); NaN of one.
    low, high: interval of the mean difference by Student's t.
    p_t: two-sided, of the paired t-test, which takes the differences for normal. NaN of one seed, and of differences
      that are all equal (but for rounding) and not 0.
    p_sign_flip: two-sided, of the exact sign-flip test, which takes them for symmetric only.
    smallest_p: what p_sign_flip can be at best, 2 / 2**n.
    num_seeds: n.
  """

  difference: float
  sd: float
  low: float
  high: float
  p_t: float
  p_sign_flip: float
  smallest_p: float
  num_seeds: int


def compare_models(
  first: np.ndarray,
  second: np.ndarray,
  score: intervals.Score,
  *,
  seed: int,
  groups: Sequence | None = None,
  num_swaps: int = NUM_SWAPS,
  **bootstrap,
) -> ModelComparison:
  """Paired bootstrap interval and permutation test of the difference between two models' scores.

  The test exchanges the two models' statistics image by image, which changes nothing if they are equally good
  (approximate randomisation: Noreen 1989; for scores that are no means of images' scores: Yeh 2000,
  arXiv:cs/0008005). p = share of exchanges with a difference at least as large, the observed one counted in, so it is
  never 0. All exchanges are tried where there are no more than `num_swaps`.

  Args:
    first: [N, ...] statistics of one model, as `intervals` has them.
    second: [N, ...] of the other, of the same images in the same order.
    score: of sums over images.
    seed: of resampling and exchanges.
    groups: N names, or None; images of the same name are drawn and exchanged together.
    num_swaps: random exchanges.
    **bootstrap: num_resamples, level and method of `intervals.bootstrap`.
  """
  first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
  if first.shape != second.shape:
    raise ValueError(f"statistics of shape {first.shape} and {second.shape} are not of the same images; give pairs")
  pairs = np.stack([first, second], axis=1)

  def difference(sums):  # [..., 2, *S] -> [...]
    both = np.moveaxis(sums, sums.ndim - first.ndim, 0)
    return score(both[0]) - score(both[1])

  interval = intervals.bootstrap(pairs, difference, seed=seed, groups=groups, **bootstrap)
  p_value, exact = _swap_test(intervals.by_unit(pairs, groups), difference, seed, num_swaps)
  return ModelComparison(interval.value, interval, p_value, exact)


def _swap_test(units, difference, seed, num_swaps) -> tuple[float, bool]:
  """(p, whether exact); units [G, 2, ...]."""
  observed = difference(units.sum(axis=0))
  if not len(units) or np.isnan(observed):
    return math.nan, False
  exact = 2 ** len(units) <= num_swaps
  found = np.concatenate([difference(_swapped(units, swaps)) for swaps in _swaps(len(units), seed, num_swaps, exact)])
  # An undefined difference counts as a large one: p errs to the safe side.
  as_large = int((~(np.abs(found) < abs(observed) * (1 - _TIE))).sum())
  return (as_large / len(found), True) if exact else ((as_large + 1) / (num_swaps + 1), False)


def _swaps(count: int, seed: int, num_swaps: int, exact: bool) -> Iterator[np.ndarray]:
  """[n, count] of 0 and 1, a few rows at a time: all of them, or `num_swaps` random ones."""
  if exact:
    yield np.array(list(itertools.product((0, 1), repeat=count)))
    return
  rng, rows = np.random.default_rng(seed), max(_CHUNK // count, 1)
  for start in range(0, num_swaps, rows):
    yield rng.integers(0, 2, (min(rows, num_swaps - start), count))


def _swapped(units: np.ndarray, swaps: np.ndarray) -> np.ndarray:
  """[n, 2, ...] sums over units [G, 2, ...], of which those that `swaps` [n, G] says have changed places."""
  gain = (units[:, 1] - units[:, 0]).reshape(len(units), -1)
  moved = (swaps.astype(np.float64) @ gain).reshape(len(swaps), *units.shape[2:])
  first, second = units.sum(axis=0)
  return np.stack([first + moved, second - moved], axis=1)


def compare_seeds(first: Sequence[float], second: Sequence[float], *, level: float = intervals.LEVEL) -> SeedComparison:
  """Paired t-test and exact sign-flip test of two rows' scores at the same seeds.

  The sign-flip test knows 2**n cases, so p is at least 2 / 2**n: 0.25 for three seeds, and below 0.05 only from six.
  The t-test can be below with fewer, on the word that differences are normal: with three, |t| must pass 4.30.

  Args:
    first: n scores of one row.
    second: n of the other, at the same seeds in the same order.
    level: of the interval.
  """
  first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
  if first.ndim != 1 or first.shape != second.shape or not first.size:
    raise ValueError(f"scores of shape {first.shape} and {second.shape} are no pairs; give one of each a seed")
  differences = first - second
  n, mean = len(differences), differences.mean()
  sd = differences.std(ddof=1) if n > 1 else math.nan
  error = sd / math.sqrt(n)
  reach = special.stdtrit(n - 1, (1 + level) / 2) * error if n > 1 else math.nan
  p_t = float(2 * special.stdtr(n - 1, -abs(mean) / error)) if sd > _TIE * abs(mean) else math.nan
  if n > 1 and not differences.any():
    p_t = 1.0
  low, high = float(mean - reach), float(mean + reach)
  return SeedComparison(float(mean), float(sd), low, high, p_t, _sign_flip(differences), 2.0 ** (1 - n), n)


def _sign_flip(differences) -> float:
  observed = abs(differences.sum())
  if np.isnan(observed):
    return math.nan
  sums = np.zeros(1)
  for value in differences:
    sums = np.concatenate([sums + value, sums - value])
  return float((np.abs(sums) >= observed * (1 - _TIE)).mean())


def seeds_note(num_seeds: int) -> str:
  """What `num_seeds` seeds can show, for a table to print."""
  if num_seeds < 2:
    return "With one seed no test between rows is possible."
  smallest = 2.0 ** (1 - num_seeds)
  verdict = "so no difference can be significant at 5 % by it" if smallest > 0.05 else "so 5 % can be reached"
  return f"With {num_seeds} seeds the exact sign-flip test gives p = {smallest:.3g} at best, {verdict}."


def holm(p_values: Sequence[float]) -> np.ndarray:
  """Adjusted p-values of a family of tests, in the order given; below 0.05 means significant among all of them.

  Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6; it holds
  however the tests depend on each other. A NaN is no test: it stays NaN and does not count.
  """
  p_values = np.asarray(p_values, np.float64)
  if ((p_values < 0) | (p_values > 1)).any():
    raise ValueError(f"p-values {p_values.tolist()} must lie in 0..1")
  adjusted = np.full(p_values.shape, np.nan)
  tests = np.flatnonzero(~np.isnan(p_values))
  order = tests[np.argsort(p_values[tests], kind="stable")]
  factors = np.arange(len(order), 0, -1)
  adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
  return adjusted
