"""Tests of scores by group: no image lost or counted twice, and each group's scores its own."""

import math

import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from minec2f_jax import metrics
from minec2f_jax.evaluation import breakdown

RNG = np.random.default_rng(0)
VALUES = st.sampled_from(["arid", "polar", "", None, math.nan, "unknown", " arid "])
AREAS = st.sampled_from([0.5, 1.0, 9.81, 10, 99.9, 100.0, 3000.0, None, "", math.nan])


def confusion(count):
  return metrics.ConfusionMatrix(RNG.integers(1, 99, (count, 2, 2)))


def names(groups):
  return [group.name for group in groups]


class BreakdownTest(parameterized.TestCase):
  def test_scores_of_a_group_are_scikit_learns_on_its_images(self):
    label, predicted = RNG.integers(0, 2, (2, 6, 40))
    counts = [sk.confusion_matrix(y, p, labels=[0, 1]) for y, p in zip(label, predicted)]
    zones = ["arid", "polar", "arid", "tropical", "arid", "polar"]
    metadata = [{"climate_zone": zone} for zone in zones]
    groups = breakdown.breakdown(metrics.ConfusionMatrix(np.array(counts)), metadata)["climate zone"]
    self.assertEqual([(group.name, group.num_images) for group in groups], [("tropical", 1), ("arid", 3), ("polar", 2)])
    for group in groups:
      chosen = [i for i, zone in enumerate(zones) if zone == group.name]
      self.assertEqual(group.places, tuple(chosen))
      y, p = label[chosen].ravel(), predicted[chosen].ravel()
      self.assertAlmostEqual(group.confusion.compute()["miou"], sk.jaccard_score(y, p, average="macro"), delta=1e-9)

  @settings(deadline=None, max_examples=60)
  @given(st.lists(st.fixed_dictionaries({}, optional={"climate_zone": VALUES, "area_km2": AREAS}), max_size=12))
  def test_groups_of_each_factor_hold_every_image_once(self, metadata):
    whole = confusion(len(metadata))
    for groups in breakdown.breakdown(whole, metadata).values():
      self.assertEqual(sorted(i for group in groups for i in group.places), list(range(len(metadata))))
      self.assertLen(set(names(groups)), len(groups))
      total = metrics.ConfusionMatrix.empty()
      for group in groups:
        total = total.merge(group.confusion)
      np.testing.assert_array_equal(total.pooled(), whole.pooled())

  @settings(deadline=None, max_examples=30)
  @given(st.permutations(range(8)))
  def test_the_order_of_images_changes_nothing(self, order):
    whole = metrics.ConfusionMatrix(np.arange(32).reshape(8, 2, 2))
    metadata = [{"region": region, "area_km2": i} for i, region in enumerate("abcabcab")]
    shuffled = metrics.ConfusionMatrix(whole.counts[list(order)])
    one = breakdown.breakdown(whole, metadata)
    other = breakdown.breakdown(shuffled, [metadata[i] for i in order])
    for factor, groups in one.items():
      self.assertEqual(names(groups), names(other[factor]))
      for a, b in zip(groups, other[factor]):
        np.testing.assert_equal(a.confusion.compute(), b.confusion.compute())

  @parameterized.parameters(None, "", "  ", math.nan, "unknown")
  def test_what_is_missing_is_unknown_and_stands_last(self, value):
    metadata = [{"region": value, "area_km2": None}, {}, {"region": "Zambia", "area_km2": 2.0}]
    groups = breakdown.breakdown(confusion(3), metadata)
    self.assertEqual(names(groups["region"]), ["Zambia", "unknown"])
    self.assertEqual(groups["region"][1].places, (0, 1))
    self.assertEqual(names(groups["mine size"]), ["1–10 km²", "unknown"])
    self.assertEqual(names(groups["commodity"]), ["unknown"])

  @parameterized.parameters(
    (0.0, "no mine"),
    (1e-4, "< 1 km²"),
    (0.99, "< 1 km²"),
    (1.0, "1–10 km²"),
    (9.81, "1–10 km²"),
    (10, "10–100 km²"),
    ("250", "≥ 100 km²"),
  )
  def test_an_area_on_an_edge_belongs_to_the_upper_bin(self, area, name):
    self.assertEqual(names(breakdown.breakdown(confusion(1), [{"area_km2": area}])["mine size"]), [name])

  def test_sizes_ascend_and_edges_can_be_given(self):
    metadata = [{"area_km2": area} for area in (300, 0.1, 5, 0, 50)]
    sizes = lambda given, **edges: names(breakdown.breakdown(confusion(len(given)), given, **edges)["mine size"])
    self.assertEqual(sizes([{}, metadata[0]]), ["≥ 100 km²", "unknown"])
    self.assertEqual(sizes(metadata), ["no mine", "< 1 km²", "1–10 km²", "10–100 km²", "≥ 100 km²"])
    self.assertEqual(sizes(metadata, edges_km2=[2.5]), ["no mine", "< 2.5 km²", "≥ 2.5 km²"])
    self.assertEqual(sizes(metadata, edges_km2=[]), ["no mine", "all"])

  def test_factors_can_be_combined(self):
    metadata = [
      {"climate_zone": z, "product": p} for z, p in (("polar", "Landsat 8"), ("arid", "Sentinel 2"), ("arid", ""))
    ]
    groups = breakdown.breakdown(confusion(3), metadata, factors={"zone and sensor": ("climate_zone", "product")})
    self.assertEqual(names(groups["zone and sensor"]), ["arid, Sentinel 2", "arid, unknown", "polar, Landsat 8"])

  def test_small_groups_are_flagged_by_images_with_a_valid_pixel(self):
    counts = np.ones((21, 2, 2), int)
    counts[10] = 0  # No valid pixel.
    metadata = [{"region": "A"}] * 11 + [{"region": "B"}] * 9 + [{}]
    groups = breakdown.breakdown(metrics.ConfusionMatrix(counts), metadata)["region"]
    self.assertEqual(
      [(g.name, g.num_images, g.small) for g in groups], [("A", 10, False), ("B", 9, True), ("unknown", 1, True)]
    )

  def test_what_does_not_fit_is_refused(self):
    with self.assertRaisesRegex(ValueError, "2 metadata for 3 images"):
      breakdown.breakdown(confusion(3), [{}, {}])
    with self.assertRaisesRegex(ValueError, "must ascend"):
      breakdown.breakdown(confusion(1), [{}], edges_km2=(10, 1))
    with self.assertRaisesRegex(ValueError, "area_km2=-1 must not be negative"):
      breakdown.breakdown(confusion(1), [{"area_km2": -1}])

  def test_areas_of_labels(self):
    counts = np.array([[[0, 5], [400, 600]], [[9, 0], [0, 0]]])
    matrix = metrics.ConfusionMatrix(counts)
    np.testing.assert_allclose(breakdown.mine_areas_km2(matrix, 10.0), [0.1, 0])
    unseen = matrix.merge(metrics.ConfusionMatrix(np.zeros((1, 2, 2), np.int64)))
    np.testing.assert_allclose(breakdown.mine_areas_km2(unseen, 10.0), [0.1, 0, math.nan])
    np.testing.assert_allclose(breakdown.mine_areas_km2(matrix, [30.0, math.nan]), [0.9, math.nan])
    np.testing.assert_allclose(breakdown.mine_areas_km2(matrix, [[10.0, 20.0], [10.0, 10.0]]), [0.2, 0])


if __name__ == "__main__":
  absltest.main()
