"""Tests of the synthetic landscapes and of their TFDS builder."""

import pathlib
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

import numpy as np
import tensorflow_datasets as tfds
from absl import flags
from absl.testing import absltest, parameterized
from sklearn import ensemble

from datasets import mining_demo
from datasets.mining_demo import __main__ as command
from datasets.mining_demo import landscape, spectra
from datasets.mining_demo import mining_demo_dataset_builder as builder_lib
from minec2f_jax import console
from minec2f_jax.data import coarsen, label_geometry
from minec2f_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
BLUE, GREEN, RED, NIR, SWIR1, SWIR2 = range(6)
TINY = dict(counts=(5, 2, 2), size=48, gsd_m=50.0)


def tiny_configs() -> list:
  return [
    builder_lib.MiningDemoConfig(name="coarse", coarse=True, seed=1, **TINY),
    builder_lib.MiningDemoConfig(name="fine", coarse=False, seed=2, **TINY),
  ]


def index(image: np.ndarray, a: int, b: int) -> np.ndarray:
  return (image[..., a] - image[..., b]) / np.maximum(image[..., a] + image[..., b], 1e-6)


class SpectraTest(parameterized.TestCase):
  @parameterized.parameters("forest", "conifer", "crop")
  def test_green_vegetation_has_a_red_edge_and_a_dark_swir2(self, name):
    spectrum = np.array(spectra.SPECTRA[name])
    self.assertGreater(index(spectrum, NIR, RED), 0.6)
    self.assertLess(spectrum[SWIR2], spectrum[SWIR1])

  @parameterized.parameters("water", "turbid", "pond")
  def test_water_is_wet_by_both_water_indices(self, name):
    spectrum = np.array(spectra.SPECTRA[name])
    self.assertGreater(index(spectrum, GREEN, NIR), 0.3)
    self.assertGreater(index(spectrum, GREEN, SWIR1), 0.7)

  def test_swir2_tells_ores_from_soils_of_the_same_red(self):
    ores = [spectra.SPECTRA[n] for n in ("iron", "copper", "laterite", "limestone")]
    soils = [spectra.SPECTRA[n] for n in ("sand", "red_soil", "brown_soil", "rock", "fallow")]
    ratio = lambda rows: np.array([s[SWIR2] / s[SWIR1] for s in rows])
    self.assertLess(ratio(ores).max(), 0.8)
    self.assertGreater(ratio(soils).min(), 0.8)


class LandscapeTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.scenes = [landscape.landscape(700 + i) for i in range(72)]

  def test_same_seed_same_scene_and_another_seed_another_one(self):
    again = landscape.landscape(700)
    np.testing.assert_array_equal(again.image, self.scenes[0].image)
    np.testing.assert_array_equal(again.fine, self.scenes[0].fine)
    self.assertFalse(np.array_equal(self.scenes[1].fine, self.scenes[0].fine))

  def test_image_is_reflectance_and_zero_exactly_where_invalid(self):
    for scene in self.scenes:
      self.assertEqual((scene.image.shape, scene.image.dtype), ((128, 128, 6), np.float32))
      np.testing.assert_array_equal((scene.image == 0).all(-1), ~scene.valid)
      self.assertTrue((scene.image[scene.valid] > 0).all() and scene.image.max() <= 1.2)
      self.assertTrue(set(np.unique(scene.fine)) <= {0, 1} and scene.fine.any())

  def test_climate_greens_the_land_around_the_mine(self):
    def ndvi(zone):
      scenes = [landscape.landscape(i, size=64, gsd_m=40.0, zone=zone) for i in range(8)]
      return np.mean([np.median(index(s.image, NIR, RED)[s.valid & (s.fine == 0)]) for s in scenes])

    self.assertGreater(ndvi(1), ndvi(2) + 0.25)

  def test_one_scene_in_ten_has_gaps(self):
    gaps = [not landscape.landscape(i, size=16, gsd_m=160.0).valid.all() for i in range(400)]
    self.assertBetween(np.sum(gaps), 40 - 24, 40 + 24)  # Binomial: four standard deviations.

  def test_labels_are_shaped_like_those_of_real_mines(self):
    # Beside them the 720 chips of Maus et al. and Tang & Werner, centred on mines, 2.56 km wide as these: mean coverage
    # 0.284 fine and 0.374 coarse, IoU 0.647, roughness coarse / fine 0.721.
    fine = np.stack([s.fine for s in self.scenes])
    coarse = np.stack([coarsen.coarsen(i, m, gsd_m=20.0) for i, m in enumerate(fine)])
    of_fine, of_coarse = label_geometry.label_statistics(fine), label_geometry.label_statistics(coarse, fine)
    self.assertBetween(of_fine.coverage.mean(), 0.2, 0.35)
    self.assertBetween(of_coarse.coverage.mean(), 0.3, 0.45)
    self.assertBetween(of_coarse.iou.mean(), 0.647 - 0.1, 0.647 + 0.1)
    ratio = np.nanmean(of_coarse.roughness) / np.nanmean(of_fine.roughness)
    self.assertBetween(ratio, 0.721 - 0.15, 0.721 + 0.15)

  def test_pixels_alone_do_not_solve_it_and_infrared_bands_help(self):
    def pixels(scenes):
      return (
        np.concatenate([s.image[s.valid][::9] for s in scenes]),
        np.concatenate([s.fine[s.valid][::9] for s in scenes]),
      )

    (x, y), (test_x, test_y) = pixels(self.scenes[:36]), pixels(self.scenes[36:])
    iou = []
    for bands in ((BLUE, GREEN, RED), (BLUE, GREEN, RED, NIR), range(6)):
      model = ensemble.RandomForestClassifier(24, min_samples_leaf=20, random_state=0).fit(x[:, bands], y)
      guess = model.predict(test_x[:, bands])
      iou.append((guess & test_y).sum() / (guess | test_y).sum())
    self.assertLess(iou[0] + 0.03, iou[1])
    self.assertLess(iou[1] + 0.05, iou[2])
    self.assertBetween(iou[0], 0.3, 0.55)
    self.assertLess(iou[2], 0.8)


class BuilderTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(mock.patch.object(builder_lib.MiningDemo, "BUILDER_CONFIGS", tiny_configs()))
    self.data_dir = self.enter_context(tempfile.TemporaryDirectory())

  def test_records_are_those_of_their_own_seeds(self):
    paths = mining_demo.prepare(self.data_dir)
    for config in tiny_configs():
      builder = tfds.builder_from_directory(paths[config.name])
      self.assertEqual(
        {s: i.num_examples for s, i in builder.info.splits.items()}, {"train": 5, "validation": 2, "test": 2}
      )
      for number, split in enumerate(("train", "validation", "test")):
        for record in builder.as_data_source(split):
          prefix, place = record["id"].decode().rsplit("_", 1)
          self.assertEqual(prefix, f"{config.name}_{split}")
          want = builder_lib.make_example(config, number, int(place))
          for key in want:
            np.testing.assert_array_equal(record[key], want[key], err_msg=key)

  def test_metadata_name_the_bands_and_the_scale(self):
    info = tfds.builder_from_directory(mining_demo.prepare(self.data_dir)["fine"]).info
    self.assertEqual(tuple(info.metadata["bands"]), ("blue", "green", "red", "nir", "swir1", "swir2"))
    self.assertEqual(info.metadata["reflectance_scale"], 1e-4)
    self.assertEqual(info.metadata["gsd_m"], 50.0)
    self.assertEqual(info.features["climate"].names[1], "arid")
    self.assertIn("Synthetic", info.description)

  def test_every_image_of_every_split_and_config_is_another_place(self):
    images = [
      builder_lib.make_example(c, s, i)["image"].tobytes() for c in tiny_configs() for s in range(3) for i in range(3)
    ]
    self.assertLen(set(images), len(images))

  def test_coarse_record_differs_from_the_fine_one_in_its_label_alone(self):
    coarse, fine = (builder_lib.MiningDemoConfig(name="x", coarse=c, seed=5, **TINY) for c in (True, False))
    for i in range(8):
      a, b = builder_lib.make_example(coarse, 0, i), builder_lib.make_example(fine, 0, i)
      np.testing.assert_array_equal(a["image"], b["image"])
      np.testing.assert_array_equal(a["valid"], b["valid"])
      self.assertFalse(np.array_equal(a["label"], b["label"]))

  def test_label_is_zero_where_there_is_no_data(self):
    config = builder_lib.MiningDemoConfig(name="x", coarse=True, seed=3, **TINY)
    examples = [builder_lib.make_example(config, 0, i) for i in range(40)]
    gaps = [e for e in examples if not e["valid"].all()]
    self.assertNotEmpty(gaps)
    for example in gaps:
      self.assertEqual(example["label"][example["valid"] == 0].max(), 0)

  def test_prepared_twice_is_made_once(self):
    first = mining_demo.prepare(self.data_dir)
    with mock.patch.object(builder_lib, "make_example", side_effect=AssertionError("made again")):
      self.assertEqual(mining_demo.prepare(self.data_dir), first)

  def test_after_a_failure_halfway_the_next_call_starts_afresh(self):
    with mock.patch.object(builder_lib, "make_example", side_effect=KeyboardInterrupt):
      with self.assertRaises(KeyboardInterrupt):
        mining_demo.prepare(self.data_dir)
    version = pathlib.Path(self.data_dir) / "mining_demo" / "coarse" / "1.0.0"
    self.assertFalse(version.exists())
    # What a killed process, which cannot clean up, leaves behind.
    version.with_name("incomplete.KILLED_1.0.0").mkdir(parents=True)
    self.assertTrue(pathlib.Path(mining_demo.prepare(self.data_dir)["coarse"], "dataset_info.json").is_file())

  def test_incomplete_copy_is_refused_by_name(self):
    paths = mining_demo.prepare(self.data_dir)
    pathlib.Path(paths["fine"], "dataset_info.json").unlink()
    with self.assertRaisesRegex(UserError, "fine.1.0.0 exists but is no complete dataset"):
      mining_demo.prepare(self.data_dir)

  def test_second_of_two_processes_uses_what_the_first_one_made(self):
    made = pathlib.Path(mining_demo.prepare(self.enter_context(tempfile.TemporaryDirectory()))["coarse"])
    here = pathlib.Path(self.data_dir) / "mining_demo" / "coarse" / "1.0.0"
    make_example = builder_lib.make_example

    def late(*args):  # The other process finishes while this one is at work.
      if not here.exists():
        shutil.copytree(made, here)
      return make_example(*args)

    with mock.patch.object(builder_lib, "make_example", side_effect=late):
      self.assertEqual(mining_demo.prepare(self.data_dir)["coarse"], str(here))

  def test_landscapes_load_neither_tfds_nor_rasterio_nor_tensorflow(self):
    code = (
      "import sys; from datasets.mining_demo import landscape; "
      "print(*{'tensorflow', 'tensorflow_datasets', 'rasterio'}.intersection(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    self.assertEqual(result.stdout.strip(), "")


class CommandTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    command.define_flags(flags.FLAGS)
    for name in ("data_dir", "scenery"):
      self.addCleanup(delattr, flags.FLAGS, name)
    flags.FLAGS(["datasets.mining_demo", "--data_dir=x"])

  @parameterized.parameters(
    (UserError("x is no complete dataset"), "^datasets.mining_demo: x is no complete dataset$"),
    (OSError("no room"), "^datasets.mining_demo: a file cannot be read or written: no room; make room"),
    (KeyboardInterrupt(), "^130$"),
  )
  def test_what_goes_wrong_is_one_line(self, error, message):
    with mock.patch.object(mining_demo, "prepare", side_effect=error), self.assertRaisesRegex(SystemExit, message):
      command.main(["datasets.mining_demo"])

  def test_a_full_disk_as_array_record_tells_of_it_is_an_error_of_files(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    failing = mock.patch.object(builder_lib.MiningDemo, "download_and_prepare", side_effect=RuntimeError("No\nroom"))
    with failing, self.assertRaisesRegex(OSError, "^No room$"):
      builder_lib.prepare(folder)

  def test_places_are_told(self):
    with (
      mock.patch.object(console, "say") as say,
      mock.patch.object(mining_demo, "prepare", lambda path: {"fine": path}),
    ):
      command.main(["datasets.mining_demo"])
    say.assert_called_once_with("fine: x")


if __name__ == "__main__":
  absltest.main()
