"""Tests of minec2f_jax.experiment.mapper: scenes mapped with the model of a toy run, on one device and on eight."""

import contextlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import rasterio
from absl.testing import absltest, parameterized

from minec2f_jax import experiment
from minec2f_jax.data import encoding
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import mapper, noted, training_places
from minec2f_jax.mapping import symmetries
from tests import toy
from tests.rasters import write_geotiff
from tests.toy_folder import NAMES, run_config, write_folder

ROOT = pathlib.Path(__file__).resolve().parent.parent
_ON_EIGHT = """
import sys
from minec2f_jax.experiment import mapper
mapper.predict(None, sys.argv[1], inputs=[sys.argv[2]], output=sys.argv[3], tile=32, batch=8)
"""


def read(folder, name="probability"):
  with rasterio.open(pathlib.Path(folder) / f"{name}.tif") as file:
    return file.read(1)


def probability(folder):
  return read(folder) / encoding.SCALE


class MapperTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.enterClassContext(contextlib.redirect_stdout(io.StringIO()))
    write_folder(cls.root / "data")
    config = run_config(cls.root / "data")
    config.stages, config.data.coarse.coarsen_gsd_m = ("coarse",), 0.0
    cls.run_folder = cls.root / "run"
    experiment.train(config, cls.run_folder, predictions=True)
    cls.bands = np.round(toy.ArraySource(1, size=90).image[0].transpose(2, 0, 1) * 1e4).astype(np.int16)
    cls.scene = write_geotiff(cls.root / "scene.tif", cls.bands, NAMES)

  def setUp(self):
    super().setUp()
    self.out = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def predict(self, path=None, *, run=None, config=None, **options):
    """(the map folder, what was said)."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
      (folder,) = self.maps(path or self.scene, run=run, config=config, **options)
    return folder, said.getvalue()

  def maps(self, path, *, run=None, config=None, **options):
    options = {"tile": 32, "cache": self.root / "cache", **options}
    return mapper.predict(config, run or self.run_folder, inputs=[path], output=self.out, **options)

  def test_the_map_of_a_chip_is_the_prediction_of_the_evaluation(self):
    (evaluated,) = self.run_folder.glob("predictions/**/toy10.tif")
    folder, _ = self.predict(self.root / "data" / "images" / "toy10.tif")
    with rasterio.open(evaluated) as file:
      wanted = file.read(1)
    np.testing.assert_allclose(read(folder).astype(int), wanted.astype(int), atol=1)

  def test_the_note_tells_model_training_and_pixels(self):
    folder, _ = self.predict(threshold=0.4)
    note = json.loads((folder / "map.json").read_text())
    facts = {name: note[name] for name in ("run", "stage", "scene", "sensor", "threshold", "tile", "overlap", "tta")}
    self.assertEqual(
      facts,
      {"run": "run", "stage": "coarse", "scene": "scene", "sensor": "reflectance_x10000"}
      | {"threshold": 0.4, "tile": 32, "overlap": 16, "tta": False},
    )
    ((west, south, east, north),), unplaced = note["trained_on"]["boxes"], note["trained_on"]["unplaced"]
    self.assertEqual(unplaced, 0)
    self.assertBetween(-45.0, west, east)  # UTM 23S at 500 km E: its central meridian.
    self.assertAlmostEqual(north - south, 320 / 110.6e3, delta=1e-4)  # 32 pixels of 10 m.
    np.testing.assert_allclose(note["network_pixel_size_m"], 10.0, rtol=2e-3)
    self.assertNotIn(str(self.root), (folder / "map.json").read_text())

  def test_a_stage_of_a_run_can_be_chosen_by_its_folder(self):
    by_run, _ = self.predict()
    first = (by_run / "map.json").read_bytes()
    by_stage, said = self.predict(run=self.run_folder / "coarse")
    self.assertIn("is mapped already", said)
    self.assertEqual((by_stage / "map.json").read_bytes(), first)

  def test_eight_devices_give_the_map_of_one_within_one_stored_unit(self):
    folder, _ = self.predict(batch=8)
    settings = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-c", _ON_EIGHT, self.run_folder, self.scene, self.out / "eight"]
    done = subprocess.run(
      list(map(str, command)), cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertIn("8 x cpu", done.stdout)
    difference = read(self.out / "eight" / "scene").astype(int) - read(folder).astype(int)
    self.assertLessEqual(np.abs(difference).max(), 1)

  def test_the_mean_over_symmetries_turns_with_the_image_bit_for_bit(self):
    chip = self.bands[:, :32, :32]
    (self.out / "in").mkdir()
    for name, bands in {"a": chip, "b": np.rot90(chip, axes=(1, 2)), "c": chip[:, :, ::-1]}.items():
      write_geotiff(self.out / "in" / f"{name}.tif", bands.copy(), NAMES)
    with contextlib.redirect_stdout(io.StringIO()):
      plain, turned, mirrored = map(read, self.maps(self.out / "in", tta=True))
    np.testing.assert_array_equal(turned, np.rot90(plain))
    np.testing.assert_array_equal(mirrored, plain[:, ::-1])

  def test_symmetries_are_averaged(self):
    image, valid = np.random.default_rng(0).uniform(size=(2, 4, 4, 1)).astype(np.float32), np.ones((2, 4, 4), bool)
    corner = lambda image, valid: image[..., 0] * (np.arange(16).reshape(4, 4) == 0)
    found = np.asarray(symmetries.average(corner)(image, valid))
    wanted = np.zeros((2, 4, 4))  # Each corner stands at the first place of two of the eight.
    for row in (0, 3):
      for column in (0, 3):
        wanted[:, row, column] = image[:, row, column, 0] / 4
    np.testing.assert_allclose(found, wanted, rtol=1e-6)

  def test_a_scene_of_other_pixels_is_seen_in_those_of_the_training(self):
    half = write_geotiff(self.out / "half.tif", self.bands[:, :60, :60], NAMES)
    with rasterio.open(half, "r+") as file:
      file.transform = rasterio.Affine(5, 0, 5e5, 0, -5, 8e6)
    folder, said = self.predict(half)
    self.assertIn("pixels of 5 x 5 m are shown to the network as 10 x 10 m", said)
    note = json.loads((folder / "map.json").read_text())
    np.testing.assert_allclose([note["pixel_size_m"], note["network_pixel_size_m"]], [[5, 5], [10, 10]], rtol=2e-3)
    resampled = probability(folder)
    self.assertEqual(resampled.shape, (60, 60))
    folder, said = self.predict(half, pixel_size_m=5.0)
    self.assertNotIn("are shown", said)
    self.assertGreater(np.abs(probability(folder) - resampled).mean(), 1e-3)

  def test_another_sensor_in_the_config_is_used_and_a_wrong_one_refused(self):
    config = noted.get_config(self.run_folder)
    config.data.sensor = "reflectance"
    floats = write_geotiff(self.out / "floats.tif", (self.bands / 1e4).astype(np.float32), NAMES)
    plain, _ = self.predict()
    other, _ = self.predict(floats, config=config)
    np.testing.assert_allclose(read(other).astype(int), read(plain).astype(int), atol=1)
    with self.assertRaisesRegex(UserError, "cannot hold sensor 'reflectance'"):
      self.predict(config=config)

  @parameterized.parameters(
    (dict(tile=0), "tile=0"),
    (dict(overlap=32), "overlap=32: give 0 to tile - 1 = 31"),
    (dict(pixel_size_m=-1.0), "pixel_size_m=-1.0"),
    (dict(run="nowhere"), "there is no run"),
  )
  def test_what_cannot_be_is_named(self, options, message):
    with self.assertRaisesRegex(UserError, message):
      self.predict(**options)

  def test_the_workdir_of_a_run_is_no_place_for_maps(self):
    with self.assertRaisesRegex(UserError, "is the workdir of a run"):
      mapper.predict(None, self.run_folder, inputs=[self.scene], output=self.run_folder)

  def test_images_that_are_gone_count_as_unplaced(self):
    moved = self.root / "gone"
    shutil.copytree(self.run_folder, moved)
    plain = json.loads((moved / "config.json").read_text())
    plain["data"]["coarse"]["path"] = str(self.root / "nowhere")
    (moved / "config.json").write_text(json.dumps(plain))
    found = training_places.find(moved)
    self.assertEqual((found.boxes, found.sides_m), ([], None))
    self.assertEqual(found.unplaced, 5)  # Four training images and one for validation.


if __name__ == "__main__":
  absltest.main()
