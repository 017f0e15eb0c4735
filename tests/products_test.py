"""Tests of minec2f_jax.data.products."""

import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax.data import products, sensors


class NameTest(parameterized.TestCase):
  @parameterized.parameters(
    ("S2A_MSIL2A_20210612T143739_N0300_R096_T19KDQ_20210612T175802.SAFE", "sentinel2_l2a"),
    ("S2B_MSIL1C_20210612T143739_N0301_R096_T19KDQ_20210612T175802.SAFE", "sentinel2_l1c"),
    ("S2C_MSIL2A_20250612T143739_N0511_R096_T19KDQ_20250612T175802.SAFE", "sentinel2_l2a_baseline04"),
    ("S2A_MSIL1C_20190612T143739_N0500_R096_T19KDQ_20230612T175802.SAFE", "sentinel2_l1c_baseline04"),  # Reprocessed.
    ("LC08_L2SP_233084_20210601_20210608_02_T1", "landsat_c2_l2"),
    ("LC09_L2SR_233084_20220601_20220608_02_T2", "landsat_c2_l2"),
    ("HLS.L30.T19KDQ.2021152T143000.v2.0", "hls_l30"),
    ("HLS.S30.T19KDQ.2021152T143000.v2.0", "hls_s30"),
    ("S2A_MSIL2A_20210612T143739_N9999_R096_T19KDQ_20210612T175802.SAFE", None),
    ("T19KDQ_20210612T143739", None),
    ("quarry", None),
  )
  def test_a_products_name_tells_the_sensor(self, name, expected):
    self.assertEqual(products.sensor_of(name), expected)
    self.assertIn(expected, (None, *sensors.SENSORS))

  @parameterized.parameters(
    "LE07_L2SP_233084_20100601_20200608_02_T1",
    "LT05_L2SP_233084_19900601_20200608_02_T1",
    "LC08_L1TP_233084_20210601_20210608_02_T1",
  )
  def test_landsat_that_is_not_registered_is_refused_with_its_name_and_a_remedy(self, name):
    with self.assertRaisesRegex(products.ProductError, f"{name}.*Level 2 of Landsat 8 and 9.*bands named by role"):
      products.sensor_of(name)

  @parameterized.parameters(
    (("T19KDQ_20210612T143739",), "2021-06-12"),
    (("LC08_L2SP_233084_20210601_20210608_02_T1",), "2021-06-01"),
    (("HLS.L30.T19KDQ.2021152T143000.v2.0",), "2021-06-01"),  # Day 152 of 2021.
    (("HLS.L30.T19KDQ.2020366T143000.v2.0",), "2020-12-31"),  # A leap year.
    (("scene", "2021-06-01T14:30:00Z"), "2021-06-01"),
    (("id_99999999_20210601",), "2021-06-01"),
    (("99999999", "120210601"), ""),
    ((), ""),
  )
  def test_the_first_date_in_a_name_is_found(self, texts, expected):
    self.assertEqual(products.date_of(*texts), expected)


class RoleTest(parameterized.TestCase):
  @parameterized.parameters(
    ("B05", "hls_l30", "nir"), ("B05", "sentinel2_l2a", None), ("B8A", "sentinel2_l2a", "nir"),
    ("SR_B5", "landsat_c2_l2", "nir"), ("swir1", "hls", "swir1"), ("Red", "reflectance", "red"),
    ("swir16", "reflectance", "swir1"), ("NIR08", "landsat_c2_l2", "nir"), ("angle", "reflectance", None),
  )  # fmt: skip
  def test_a_name_plays_the_role_of_its_sensors_words_or_its_common_name(self, name, sensor, expected):
    self.assertEqual(products.role_of(name, sensors.get_sensor(sensor)), expected)


class CloudTest(parameterized.TestCase):
  def test_each_scl_class_is_cloud_fill_or_neither(self):
    cloud, fill = products.cloud_flags("scl", np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(np.flatnonzero(cloud), [3, 8, 9, 10])
    np.testing.assert_array_equal(np.flatnonzero(fill), [0, 1])

  @parameterized.parameters(
    *[("qa_pixel", bit, bit in (1, 2, 3, 4), bit == 0) for bit in range(16)],
    *[("fmask", bit, bit in (0, 1, 2, 3), False) for bit in range(8)],
  )
  def test_each_bit_means_cloud_fill_or_neither(self, kind, bit, cloud, fill):
    flags = products.cloud_flags(kind, np.array([1 << bit, 0], np.int32))
    np.testing.assert_array_equal(flags, [[cloud, False], [fill, False]])

  def test_usual_values_of_landsat_read_as_documented(self):
    # LSDS-1619, Table 6-3: fill, clear, water, cloud high confidence, cloud shadow.
    cloud, fill = products.cloud_flags("qa_pixel", np.array([1, 21824, 21952, 22280, 23888]))
    np.testing.assert_array_equal(cloud, [False, False, False, True, True])
    np.testing.assert_array_equal(fill, [True, False, False, False, False])

  def test_fmask_fill_is_no_cloud_although_all_its_bits_are_set(self):
    cloud, fill = products.cloud_flags("fmask", np.array([255, 254, 64, 128 + 32]))
    np.testing.assert_array_equal(cloud, [False, True, False, False])
    np.testing.assert_array_equal(fill, [True, False, False, False])


if __name__ == "__main__":
  absltest.main()
