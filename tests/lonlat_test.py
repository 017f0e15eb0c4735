"""Tests of minec2f_jax.data.lonlat."""

import numpy as np
import shapely
from absl.testing import absltest, parameterized
from hypothesis import given
from hypothesis import strategies as st

from minec2f_jax.data import lonlat


def ring(lons, lats):
  """Longitudes as files hold them, in -180..180, and latitudes, closed."""
  lons, lats = np.array([*lons, lons[0]], float), np.array([*lats, lats[0]], float)
  return (lons + 180) % 360 - 180, lats


class BoxTest(parameterized.TestCase):
  @parameterized.parameters(
    ((10, -5, 20, 5), [(10, -5, 20, 5)]), ((170, -5, -160, 5), [(170, -5, 180, 5), (-180, -5, -160, 5)])
  )
  def test_a_box_is_cut_where_it_crosses_the_antimeridian(self, bounds, parts):
    self.assertEqual([part.bounds for part in shapely.get_parts(lonlat.box(*bounds))], parts)


class AreaTest(parameterized.TestCase):
  @given(st.floats(-180, 180), st.floats(1, 170), st.floats(-80, 70), st.booleans())
  def test_a_ring_that_goes_around_no_pole_keeps_its_width_wherever_it_begins(self, west, width, south, clockwise):
    lons, lats = [west, west + width, west + width, west], [south, south, south + 10, south + 10]
    step = -1 if clockwise else 1
    area = lonlat.area_within(*ring(lons[::step], lats[::step]), pole=90.0)
    self.assertAlmostEqual(area.area, 10 * width, places=6)
    self.assertGreaterEqual(area.bounds[0], -180)
    self.assertLessEqual(area.bounds[2], 180)
    self.assertAlmostEqual(area.distance(shapely.Point((west + width / 2 + 180) % 360 - 180, south + 5)), 0.0)

  @parameterized.product(pole=(90.0, -90.0), first=(-180.0, -77.0, 10.0, 179.0), step=(60, -60))
  def test_a_ring_around_a_pole_encloses_its_cap(self, pole, first, step):
    lons, lats = first + np.arange(0, 360, abs(step)) * np.sign(step), np.full(6, pole * 8 / 9)
    area = lonlat.area_within(*ring(lons, lats), pole=pole)
    cap = shapely.box(-180, min(pole, pole * 8 / 9), 180, max(pole, pole * 8 / 9))
    self.assertAlmostEqual(area.symmetric_difference(cap).area, 0.0, places=6)


if __name__ == "__main__":
  absltest.main()
