"""Tests of minec2f_jax.data.sensors."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax.data import sensors

S2_NAMES = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
SIX = ("red", "green", "blue", "nir", "swir1", "swir2")


class RolesTest(parameterized.TestCase):
  @parameterized.parameters("rbg", ((),), (("red", "red"),), (("red", "thermal"),))
  def test_unknown_double_and_empty_roles_are_refused(self, bands):
    with self.assertRaisesRegex(sensors.SensorError, "data.bands"):
      sensors.check_roles(bands)


class FindBandsTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("sentinel2_scene", S2_NAMES, "sentinel2_l1c", (4, 3, 2, 8, 12, 13)),
    ("zero_padded", ("B02", "B03", "B04", "B08", "B11", "B12"), "sentinel2_l2a", (3, 2, 1, 4, 5, 6)),
    ("narrow_nir_alone", ("B2", "B3", "B4", "B8A", "B11", "B12"), "sentinel2_l2a", (3, 2, 1, 4, 5, 6)),
    ("role_names_any_case", ("BLUE", "Green", "red", "NIR", "SWIR_1", "swir2"), "reflectance", (3, 2, 1, 4, 5, 6)),
    (
      "landsat",
      ("QA_PIXEL", "SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7"),
      "landsat_c2_l2",
      (5, 4, 3, 6, 7, 8),
    ),
    ("hls_l30", ("B02", "B03", "B04", "B05", "B06", "B07"), "hls_l30", (3, 2, 1, 4, 5, 6)),
    ("hls_s30", S2_NAMES, "hls_s30", (4, 3, 2, 9, 12, 13)),
    (
      "unnamed_extra_band",
      (None, "red", "green", "blue", "nir", "swir1", "swir2", ""),
      "reflectance",
      (2, 3, 4, 5, 6, 7),
    ),
  )
  def test_bands_are_found_by_name(self, names, sensor, expected):
    found = sensors.find_bands(names, SIX, sensors.SENSORS[sensor])
    self.assertEqual(found, expected)

  def test_order_of_bands_in_the_file_does_not_matter(self):
    order = np.random.default_rng(0).permutation(len(S2_NAMES))
    shuffled = [S2_NAMES[i] for i in order]
    found = sensors.find_bands(shuffled, SIX, sensors.SENSORS["sentinel2_l2a"])
    self.assertEqual([shuffled[i - 1] for i in found], ["B4", "B3", "B2", "B8", "B11", "B12"])

  @parameterized.named_parameters(
    ("missing", ("B2", "B3", "B4"), "reflectance", r"\['nir'\].*1='B2'.*B8A.*data.bands"),
    ("unnamed", (None, "", None, None), "reflectance", "none of the 4 bands has a name"),
    ("twice", ("red", "green", "blue", "nir", "NIR"), "reflectance", r"'nir': \[4, 5\]"),
    ("two_names_of_one_band", ("red", "B4", "green", "blue", "nir"), "reflectance", r"'red': \[1, 2\]"),
    ("s30_numbers_read_as_plain_hls", ("B02", "B03", "B04", "B05"), "hls", r"\['nir'\]"),
  )
  def test_what_cannot_be_told_is_refused_by_name(self, names, sensor, message):
    with self.assertRaisesRegex(sensors.SensorError, message):
      sensors.find_bands(names, SIX[:4], sensors.SENSORS[sensor])


class EncodingTest(parameterized.TestCase):
  @parameterized.parameters(
    ("reflectance", 0.25, 0.25),
    ("reflectance_x10000", 2500, 0.25),
    ("sentinel2_l2a", 2500, 0.25),
    ("sentinel2_l1c", 2500, 0.25),
    ("sentinel2_l2a_baseline04", 3500, 0.25),  # (3500 - 1000) / 10000.
    ("landsat_c2_l2", 18182, 0.300005),  # 18182 * 2.75e-5 - 0.2.
    ("hls_l30", 2500, 0.25),
    ("hls_s30", 2500, 0.25),
    ("hls", 2500, 0.25),
  )
  def test_digital_numbers_become_reflectance(self, name, dn, expected):
    got = sensors.to_reflectance(np.array([dn]), sensors.SENSORS[name])
    self.assertEqual(got.dtype, np.float32)
    np.testing.assert_allclose(got, [expected], rtol=1e-6)

  def test_both_sentinel2_encodings_of_one_scene_agree_within_a_digital_number(self):
    old = np.arange(1, 20000, 7, dtype=np.uint16)
    a = sensors.to_reflectance(old, sensors.SENSORS["sentinel2_l2a"])
    b = sensors.to_reflectance(old + 1000, sensors.SENSORS["sentinel2_l2a_baseline04"])
    np.testing.assert_allclose(a, b, atol=1e-6)

  def test_auto_takes_plausible_floats_as_reflectance(self):
    self.assertEqual(sensors.resolve_sensor("auto", dtype="float32").name, "reflectance")

  @parameterized.named_parameters(
    (
      "integers",
      dict(name="auto", dtype="int16", value_range=(-3, 4261)),
      r"int16, values -3\.\.4261.*data.sensor.*sentinel2_l2a_baseline04",
    ),
    (
      "metadata_of_another_product",
      dict(name="sentinel2_l2a", dtype="uint16", tags={"PRODUCT_TYPE": "S2MSI2A", "PROCESSING_BASELINE": "05.09"}),
      "metadata say 'sentinel2_l2a_baseline04', config.data.sensor says 'sentinel2_l2a'",
    ),
    (
      "bands_of_different_scales",
      dict(name="auto", dtype="uint16", scales=[1e-4, 2e-4], offsets=[0.0, 0.0]),
      "integers do not tell",
    ),
    ("unknown_name", dict(name="sentinel3", dtype="int16"), "sentinel3.*choose one of"),
    ("integers_as_fractions", dict(name="reflectance", dtype="uint16"), "integers cannot hold"),
    ("scale_of_nothing", dict(name="auto", dtype="uint16", scales=[0.0], offsets=[0.0]), "are no scales"),
    ("eight_bits", dict(name="reflectance_x10000", dtype="uint8"), "8 bits cannot hold.*picture"),
    ("complex", dict(name="auto", dtype="complex64"), "only integer and floating-point"),
    (
      "contradicting_tags",
      dict(name="sentinel2_l2a", dtype="uint16", scales=[1e-4] * 3, offsets=[-0.1] * 3),
      r"tags say.*-0\.1.*sentinel2_l2a",
    ),
  )
  def test_guesses_are_refused(self, kwargs, message):
    with self.assertRaisesRegex(sensors.SensorError, message):
      sensors.resolve_sensor(**kwargs)

  def _check(self, name, stored, valid=None):
    stored = np.asarray(stored)
    sensor = sensors.resolve_sensor(name, dtype=stored.dtype) if isinstance(name, str) else name
    valid = np.ones(stored.shape, bool) if valid is None else valid
    sensors.check_plausible(sensor, stored, sensors.to_reflectance(stored, sensor), valid)

  @parameterized.named_parameters(
    ("unnamed_floats_in_another_unit", "auto", np.float32([12, 4261]), r"values 12\.\.4261: not reflectance"),
    ("one_unnamed_float_in_another_unit", "auto", np.float32([0.1] * 99 + [3.0]), r"values 0.1\.\.3: not reflectance"),
    ("digital_numbers_as_reflectance", "reflectance", np.float32([12, 4261]), "mean reflectance 2.14e.03"),
    ("reflectance_as_digital_numbers", "sentinel2_l2a", np.float32([0.1, 1.9]), "up to 1.9 are reflectance already"),
    ("water_as_landsat", "landsat_c2_l2", np.int16([100, 900]), "mean reflectance -0.186 .*'landsat_c2_l2'"),
    ("landsat_as_tenthousandths", "reflectance_x10000", np.uint16([16000, 20000]), "mean reflectance 1.8"),
  )
  def test_values_that_cannot_be_are_refused(self, name, stored, message):
    with self.assertRaisesRegex(sensors.SensorError, message):
      self._check(name, stored)

  def test_values_that_can_be_pass_and_invalid_ones_do_not_count(self):
    self._check("auto", np.float32([-0.05, 1.4]))
    self._check("reflectance", np.float32([-0.3, 0.1, 2.5]))  # Outliers of a sensor that somebody named.
    self._check("sentinel2_l2a_baseline04", np.uint16([700, 900]))  # Deep water: -0.03 and -0.01.
    self._check("auto", np.float32([0.1, np.nan, 9e9]), valid=np.array([True, False, False]))
    self._check("auto", np.float32([9e9]), valid=np.array([False]))

  def test_scale_and_offset_tags_of_all_bands_tell_integers(self):
    got = sensors.resolve_sensor("auto", dtype="uint16", scales=[2.75e-5] * 2, offsets=[-0.2] * 2)
    np.testing.assert_allclose(sensors.to_reflectance([18182], got), [0.300005], rtol=1e-6)

  @parameterized.named_parameters(
    ("l2a_old", {"PRODUCT_TYPE": "S2MSI2A", "PROCESSING_BASELINE": "03.01"}, "sentinel2_l2a"),
    ("l2a_new", {"PROCESSING_LEVEL": "Level-2A", "PROCESSING_BASELINE": "05.09"}, "sentinel2_l2a_baseline04"),
    ("l1c_new", {"product_type": "S2MSI1C", "processing_baseline": "04.00"}, "sentinel2_l1c_baseline04"),
    ("l1c_uri", {"PRODUCT_URI": "S2A_MSIL1C_20191017T004711_N0208_R102_T54LWM_20191017T021024.SAFE"}, "sentinel2_l1c"),
    ("l2a_uri", {"PRODUCT_URI": "S2B_MSIL2A_20220617T143739_N0400_R096_T19KDQ_x.SAFE"}, "sentinel2_l2a_baseline04"),
    ("landsat", {"LANDSAT_PRODUCT_ID": "LC08_L2SP_233084_20210601_20210608_02_T1"}, "landsat_c2_l2"),
    ("landsat_c1", {"LANDSAT_PRODUCT_ID": "LC08_L1TP_233084_20170601_20170608_01_T1"}, None),
    ("landsat_7", {"LANDSAT_PRODUCT_ID": "LE07_L2SP_233084_20010601_20200608_02_T1"}, None),
    ("hls_l30", {"HLS_PROCESSING_TIME": "2021", "LANDSAT_PRODUCT_ID": "LC08_L1TP_x_02_T1"}, "hls_l30"),
    (
      "hls_s30",
      {"HLS_PROCESSING_TIME": "2021", "PRODUCT_URI": "S2A_MSIL1C_x_N0300_R.SAFE", "PROCESSING_BASELINE": "03.00"},
      "hls_s30",
    ),
    ("level_without_baseline", {"PRODUCT_TYPE": "S2MSI2A"}, None),
    ("baseline_without_level", {"PROCESSING_BASELINE": "04.00"}, None),
    ("home_made", {"PRODUCT_TYPE": "S2MSI2A", "PROCESSING_BASELINE": "99.99"}, None),
    ("strange_baseline", {"PRODUCT_TYPE": "S2MSI2A", "PROCESSING_BASELINE": "new"}, None),
    ("nothing", {"AREA_OR_POINT": "Area"}, None),
  )
  def test_products_are_known_by_their_metadata(self, tags, expected):
    self.assertEqual(sensors.identify(tags), expected)
    if expected:
      self.assertEqual(sensors.resolve_sensor("auto", dtype="uint16", tags=tags).name, expected)

  @parameterized.parameters(("hls_l30", "hls"), ("hls", "hls_s30"))
  def test_hls_is_either_half_of_it(self, named, identified):
    tags = {"HLS_PROCESSING_TIME": "2021"} | ({"PRODUCT_URI": "S2A_MSIL1C"} if identified == "hls_s30" else {})
    self.assertEqual(sensors.identify(tags), identified)
    self.assertEqual(sensors.resolve_sensor(named, dtype="int16", tags=tags).name, named)
    with self.assertRaisesRegex(sensors.SensorError, "metadata say"):
      sensors.resolve_sensor("landsat_c2_l2", dtype="int16", tags=tags)

  def test_whoever_says_how_the_numbers_are_meant_is_believed_against_the_metadata(self):
    # Harmonised mosaics keep the metadata of what they were made from.
    tags = {"PRODUCT_TYPE": "S2MSI2A", "PROCESSING_BASELINE": "05.09"}
    self.assertEqual(sensors.resolve_sensor("reflectance_x10000", dtype="uint16", tags=tags).offset, 0.0)
    self.assertEqual(sensors.resolve_sensor("auto", dtype="float32", tags=tags).scale, 1.0)

  def test_agreeing_and_absent_tags_pass(self):
    got = sensors.resolve_sensor("sentinel2_l2a_baseline04", dtype="uint16", scales=[1e-4, 1.0], offsets=[-0.1, 0.0])
    self.assertEqual(got.offset, -0.1)


class NormalizeTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.image = np.array([[[[0.3, 0.1], [np.nan, np.inf]]]], np.float32)  # [1, 1, 2, 2].
    self.valid = np.array([[[True, False]]])
    self.expected = [[[[1.0, -0.5], [0.0, 0.0]]]]  # (.3 - .1) / .2 and (.1 - .2) / .2.

  def test_numpy_stays_numpy(self):
    got = sensors.normalize(self.image, self.valid, mean=(0.1, 0.2), std=(0.2, 0.2))
    self.assertIsInstance(got, np.ndarray)
    self.assertEqual(got.dtype, np.float32)
    np.testing.assert_allclose(got, self.expected, rtol=1e-6)

  def test_jax_under_jit_with_a_finite_gradient(self):
    def total(image, valid):
      out = sensors.normalize(image, valid, mean=(0.1, 0.2), std=(0.2, 0.4))
      return out.sum(), out

    run = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, out), grad = run(jnp.asarray(self.image), jnp.asarray(self.valid))
    self.assertIsInstance(out, jax.Array)
    np.testing.assert_allclose(out, [[[[1.0, -0.25], [0.0, 0.0]]]], rtol=1e-6)
    np.testing.assert_allclose(grad, [[[[5.0, 2.5], [0.0, 0.0]]]], rtol=1e-6)  # 1 / std.

  def test_statistics_of_other_bands_are_refused(self):
    with self.assertRaisesRegex(ValueError, "2 channels, but mean 6"):
      sensors.normalize(self.image, self.valid, mean=(0.1,) * 6, std=(0.2,) * 6)


if __name__ == "__main__":
  absltest.main()
