"""Tests of minec2f_jax.data.splits."""

import collections
import hashlib
import re
from unittest import mock

import hypothesis
import numpy as np
import pyproj
import shapely
from absl.testing import absltest, parameterized
from hypothesis import strategies as st

from minec2f_jax.data import splits

WGS84 = pyproj.Geod(ellps="WGS84")
GROUPS = st.dictionaries(st.text("abcdefgh0123", min_size=1, max_size=4), st.integers(1, 30), min_size=1, max_size=25)


class DealGroupsTest(parameterized.TestCase):
  def test_ten_equal_groups_go_seven_one_two(self):
    dealt_to = splits.deal_groups({str(i): 4 for i in range(10)}, {}, missing=("validation", "test"))
    self.assertEqual(collections.Counter(dealt_to.values()), {"train": 7, "validation": 1, "test": 2})

  def test_the_deal_is_the_same_in_every_process_and_version(self):
    # sha256sum of the names begins with 24 (site2), 6a (site0), a3 (site1). One chip fits into
    # train (2.1 of 3) alone; the last two groups fill the two splits that are still empty.
    got = splits.deal_groups({"site0": 1, "site1": 1, "site2": 1}, {}, missing=("validation", "test"))
    self.assertEqual(got, {"site2": "train", "site0": "validation", "site1": "test"})

  @hypothesis.settings(deadline=None, max_examples=150)
  @hypothesis.given(GROUPS, st.randoms(use_true_random=False), st.data())
  def test_laws(self, sizes, random, data):
    fixed = {
      g: data.draw(st.sampled_from(["validation", "test"]))
      for g in data.draw(st.sets(st.sampled_from(sorted(sizes)), max_size=3))
    }
    missing = ("validation", "test")
    dealt_to = splits.deal_groups(sizes, fixed, missing=missing)
    self.assertEqual(set(dealt_to), set(sizes))
    self.assertEqual({g: dealt_to[g] for g in fixed}, fixed)
    shuffled = list(sizes.items())
    random.shuffle(shuffled)
    self.assertEqual(splits.deal_groups(dict(shuffled), fixed, missing=missing), dealt_to)
    free = len(sizes) - len(fixed)
    if free >= 3:
      self.assertEqual(set(dealt_to.values()), set(splits.SHARES))
    # Held-out splits exceed their share only by what was fixed, or by one group that kept a split
    # from being empty.
    total = sum(sizes.values())
    for split, share in (("validation", 0.1), ("test", 0.2)):
      dealt = [sizes[g] for g in dealt_to if dealt_to[g] == split and g not in fixed]
      if len(dealt) > 1:
        self.assertLessEqual(sum(dealt), share * total + 1e-9)

  def test_only_what_is_missing_is_dealt(self):
    sizes = {str(i): 5 for i in range(10)}
    dealt_to = splits.deal_groups(sizes, {"0": "validation"}, missing=("test",))
    self.assertEqual([g for g in dealt_to if dealt_to[g] == "validation"], ["0"])
    self.assertEqual(list(dealt_to.values()).count("test"), 2)


def block_of(lon, lat, block_km=50.0):
  """The group of a box without width at a place."""
  return splits.spatial_split([(lon, lat, lon, lat)], block_km=block_km).group[0]


class BlockTest(parameterized.TestCase):
  @parameterized.parameters((0.1, 0.1), (-0.1, -0.1), (151.2, -33.9), (-70.5, -22.3), (25.0, 68.0), (10.0, -89.0))
  def test_a_block_is_the_cell_of_an_equal_area_grid(self, lon, lat):
    # Snyder 1987, USGS 1395, eqs. 10-15 and 3-12: cylindrical equal-area on the ellipsoid, true at 30 degrees.
    a_km, e = 6378.137, np.sqrt(6.69437999014e-3)
    sine = np.sin(np.radians(lat))
    q = (1 - e**2) * (sine / (1 - (e * sine) ** 2) - np.log((1 - e * sine) / (1 + e * sine)) / (2 * e))
    k0 = np.cos(np.radians(30)) / np.sqrt(1 - (e * 0.5) ** 2)
    column, row = np.floor([a_km * k0 * np.radians(lon) / 50, a_km * q / (2 * k0) / 50]).astype(int)
    self.assertEqual(block_of(lon, lat), f"b{column}_{row}")

  @parameterized.parameters(0, 30, 60, 120)
  def test_blocks_have_one_area(self, row):
    to_lonlat = pyproj.Transformer.from_crs("EPSG:6933", "EPSG:4326", always_xy=True)
    block = shapely.segmentize(shapely.box(100e3, row * 50e3, 150e3, (row + 1) * 50e3), 500)
    lonlat = shapely.transform(block, lambda xy: np.stack(to_lonlat.transform(*xy.T), axis=-1))
    self.assertEqual(block_of(*lonlat.centroid.coords[0]), f"b2_{row}")
    area_m2, _ = WGS84.geometry_area_perimeter(lonlat)
    np.testing.assert_allclose(area_m2, 2500e6, rtol=1e-5)

  def test_both_names_of_the_180th_meridian_are_one_block(self):
    self.assertEqual(block_of(180, -17), block_of(-180, -17))


def around(lon, lat, half_km):
  """Box (west, south, east, north) of about 2 half_km a side; it may cross the 180 degree meridian."""
  half = half_km / 111.0
  across = half / max(np.cos(np.radians(lat)), 0.05)
  wrap = lambda x: (x + 180) % 360 - 180
  return wrap(lon - across), max(lat - half, -90.0), wrap(lon + across), min(lat + half, 90.0)


def outline(box, steps=4):
  """Points on the border of a box, [8 * steps, 2] lon/lat, and its centre."""
  west, south, east, north = box
  width = (east - west) % 360
  t = np.linspace(-1, 1, 2 * steps + 1)
  side, one = t[:-1], np.ones(2 * steps)
  x, y = np.concatenate([side, one, -side, -one]), np.concatenate([-one, side, one, -side])
  lon, lat = west + width * (x + 1) / 2, south + (north - south) * (y + 1) / 2
  return np.stack([lon, lat], -1), (west + width / 2, (south + north) / 2)


def distances_km(a, b):
  """[N, M] geodesic distances between lon/lat points."""
  lon0, lon1 = np.broadcast_arrays(a[:, None, 0], b[None, :, 0])
  lat0, lat1 = np.broadcast_arrays(a[:, None, 1], b[None, :, 1])
  return np.reshape(WGS84.inv(lon0.ravel(), lat0.ravel(), lon1.ravel(), lat1.ravel())[2], lon0.shape) / 1000


def least_distance_km(box, other):
  """Distance between two centres less both circumradii, by geodesics."""
  (border, centre), (other_border, other_centre) = outline(box), outline(other)
  radii = [distances_km(np.array([c]), p).max() for c, p in ((centre, border), (other_centre, other_border))]
  return distances_km(np.array([centre]), np.array([other_centre])).item() - sum(radii)


@st.composite
def clusters_of_boxes(draw):
  """Boxes crowded around few places, some of them at a pole or at the 180 degree meridian."""
  places = draw(
    st.lists(
      st.tuples(st.sampled_from([-180.0, -179.9, 179.95, 0.0, 31.3]), st.sampled_from([-89.7, -17.0, 0.0, 58.0, 89.6])),
      min_size=1,
      max_size=3,
    )
  )
  rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
  spread_km = draw(st.sampled_from([3.0, 15.0, 60.0]))
  boxes = []
  for _ in range(draw(st.integers(0, 30))):
    lon, lat = places[rng.integers(len(places))]
    lat = float(np.clip(lat + rng.normal(0, spread_km / 111), -90, 90))
    lon += rng.normal(0, spread_km / 111) / max(np.cos(np.radians(lat)), 0.01)
    boxes.append(around(lon, lat, rng.uniform(0.1, 4.0)))
  return np.array(boxes).reshape(-1, 4)


class SpatialSplitTest(parameterized.TestCase):
  def _split_dealt(self, boxes, deal, **kwargs):
    """The split where the blocks have been dealt so."""
    with mock.patch.object(splits, "deal_groups", return_value=deal):
      return splits.spatial_split(boxes, **kwargs)

  @hypothesis.settings(deadline=None, max_examples=60)
  @hypothesis.given(clusters_of_boxes(), st.sampled_from([0.5, 5.0]), st.sampled_from([5.0, 50.0]), st.integers(0, 3))
  def test_boxes_of_different_splits_are_a_buffer_apart_and_no_other_is_left_out(
    self, boxes, buffer_km, block_km, seed
  ):
    keep_away = boxes[:2]
    got = splits.spatial_split(boxes[2:], block_km=block_km, buffer_km=buffer_km, seed=seed, keep_away=keep_away)
    boxes = boxes[2:]
    kept = [i for i, split in enumerate(got.split) if split]
    points = [outline(box)[0] for box in boxes]
    for n, i in enumerate(kept):
      for j in kept[:n]:
        if got.split[i] != got.split[j]:
          self.assertGreaterEqual(distances_km(points[i], points[j]).min(), buffer_km - 1e-6)
      for site in keep_away:
        self.assertGreaterEqual(distances_km(points[i], outline(site)[0]).min(), buffer_km - 1e-6)
    for i, reason in enumerate(got.reason):
      self.assertEqual(bool(reason), not got.split[i])
      if reason:
        gap_km, kind, other = re.fullmatch(
          r"as near as ([\d.]+) km to (\S+) box (\d+) \(buffer .* km\)", reason
        ).groups()
        expected = least_distance_km(boxes[i], (keep_away if kind == "keep_away" else boxes)[int(other)])
        self.assertLess(expected, buffer_km + 0.01)
        self.assertAlmostEqual(float(gap_km), max(expected, 0.0), delta=0.02)
        if kind != "keep_away":
          self.assertIn(got.split[int(other)], ("test",) if kind == "test" else ("validation", "test"))

  def test_groups_are_blocks_of_the_centres_and_lie_in_one_split(self):
    boxes = scattered(400)
    got = splits.spatial_split(boxes, block_km=100, buffer_km=1)
    self.assertEqual(got.group, tuple(block_of((w + e) / 2, (s + n) / 2, 100) for w, s, e, n in boxes))
    seen = collections.defaultdict(set)
    for group, split in zip(got.group, got.split, strict=True):
      seen[group] |= {split} - {""}
    self.assertLessEqual(max(map(len, seen.values())), 1)
    shares = [got.split.count(split) / len(boxes) for split in splits.SHARES]
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.03)

  def test_a_box_across_the_180th_meridian_has_its_centre_there(self):
    got = splits.spatial_split([(179.9, -17.1, -179.8, -17.0)])
    self.assertEqual(got.group, (block_of(-179.95, -17.05),))

  def test_neighbours_across_a_blocks_edge_do_not_straddle(self):
    # 0.1 degrees (11 km) on either side of the edge between b-1_0 and b0_0, boxes of 1 km.
    boxes = [around(lon, 0.2, 0.5) for lon in (-0.1, -0.02, 0.02, 0.1)]
    got = self._split_dealt(boxes, {"b-1_0": "train", "b0_0": "test"})
    self.assertEqual(got.split, ("train", "", "test", "test"))
    # Centres 0.04 degrees (4.453 km) apart, less two half diagonals of 0.709 km.
    self.assertRegex(got.reason[1], r"as near as 3\.0\d km to held-out box 2 \(buffer 5 km\)")

  def test_validation_yields_to_test_and_once_left_out_costs_no_train_box(self):
    # A corner of three blocks of 10 km, boxes of 200 m: the second is 1.7 km from the third, 1.3 km from the first.
    boxes = [around(*lonlat, 0.1) for lonlat in ((0.09, 0.085), (0.10, 0.075), (0.11, 0.06))]
    deal = {"b0_1": "train", "b0_0": "validation", "b1_0": "test"}
    got = self._split_dealt(boxes, deal, block_km=10, buffer_km=2)
    self.assertEqual(got.group, ("b0_1", "b0_0", "b1_0"))
    self.assertEqual(got.split, ("train", "", "test"))
    self.assertRegex(got.reason[1], "1.7. km to test box 2")

  def test_boxes_near_to_the_kept_away_are_left_out_before_the_deal(self):
    boxes = scattered(300)
    got = splits.spatial_split(boxes, keep_away=boxes[:200])
    self.assertEqual(got.split[:200], ("",) * 200)
    self.assertEqual(got.reason[7], "as near as 0.00 km to keep_away box 7 (buffer 5 km)")
    dealt = [split for split in got.split if split]
    self.assertAlmostEqual(dealt.count("test") / len(dealt), 0.2, delta=0.05)

  def test_the_order_of_boxes_moves_none(self):
    boxes = scattered(300)
    order = np.random.default_rng(1).permutation(len(boxes))
    self.assertEqual(
      tuple(np.array(splits.spatial_split(boxes).split)[order]), splits.spatial_split(boxes[order]).split
    )

  def test_another_seed_is_another_deal(self):
    boxes = scattered(300)
    deals = {splits.spatial_split(boxes, seed=seed).split for seed in (0, 0, 1)}
    self.assertLen(deals, 2)

  def test_a_seed_salts_the_names(self):
    order = sorted("abc", key=lambda g: hashlib.sha256(f"7:{g}".encode()).hexdigest())
    got = splits.deal_groups(dict.fromkeys("abc", 1), {}, missing=("validation", "test"), salt="7:")
    self.assertEqual(got, dict(zip(order, ("train", "validation", "test"), strict=True)))

  @parameterized.parameters(
    (0, 0, 2, 3), (-179, 80, 179, 90), (10, -90, 60, -70), (-180, 60, 180, 61), (170, 5, -160, 20)
  )
  def test_a_ball_holds_its_whole_box(self, *box):
    centres, radii = splits._bounding_balls(np.array([box], float))
    to_xyz = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)
    west, south, east, north = box
    width = east - west if west <= east else east - west + 360
    lon, lat = np.meshgrid(west + np.linspace(0, width, 60), np.linspace(south, north, 60))
    points = np.stack(to_xyz.transform(lon.ravel(), lat.ravel(), np.zeros(lon.size)), axis=-1)
    self.assertLessEqual(np.linalg.norm(points - centres, axis=-1).max(), radii.item() + 1e-3)

  def test_no_boxes_are_no_split(self):
    self.assertEqual(splits.spatial_split(np.zeros((0, 4))), ((), (), ()))

  @parameterized.named_parameters(
    ("shape", {"lonlat_boxes": [(1, 2, 3)]}, r"lonlat_boxes has shape \(1, 3\)"),
    (
      "south_above_north",
      {"lonlat_boxes": [(0, 0, 1, 1), (0, 2, 1, 1)]},
      r"1 of 2 boxes .*box 1: \(0.0, 2.0, 1.0, 1.0\)",
    ),
    ("latitude", {"lonlat_boxes": [(0, 0, 1, 91)]}, "1 of 1 boxes"),
    ("longitude", {"keep_away": [(0, 0, 181, 1)]}, "keep_away: 1 of 1 boxes"),
    ("nan", {"lonlat_boxes": [(0, np.nan, 1, 1)]}, "nan"),
    ("block", {"block_km": 0}, "block_km=0"),
    ("buffer", {"buffer_km": -1}, "buffer_km=-1: give a block above 0 km"),
    ("infinite_block", {"block_km": np.inf}, "block_km=inf"),
    ("no_number", {"buffer_km": np.nan}, "buffer_km=nan"),
  )
  def test_what_cannot_be_split_is_refused(self, kwargs, message):
    with self.assertRaisesRegex(splits.SplitError, message):
      splits.spatial_split(**{"lonlat_boxes": [(0, 0, 1, 1)], **kwargs})


def scattered(count):
  """Boxes of 2 to 6 km on Australia, [count, 4]."""
  rng = np.random.default_rng(0)
  return np.array([around(rng.uniform(118, 145), rng.uniform(-32, -18), rng.uniform(1, 3)) for _ in range(count)])


if __name__ == "__main__":
  absltest.main()
