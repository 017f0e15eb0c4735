"""Tests of scoring a run again: on its own data, on others, with predictions; on one teacher of toy size."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

import numpy as np
import rasterio
from absl.testing import absltest, parameterized
from scipy import special
from sklearn import metrics as sklearn_metrics

from minec2f_jax import console, experiment
from minec2f_jax.data import encoding, geotiff, resize
from minec2f_jax.errors import UserError
from minec2f_jax.evaluation import evaluate as evaluate_lib
from minec2f_jax.experiment import noted, page, predictions
from tests import toy
from tests.rasters import write_geotiff
from tests.toy_folder import NAMES, run_config, write_folder

ROOT = pathlib.Path(__file__).resolve().parent.parent
OTHER_IDS = ("a/b", "ü&<x>", "c", "d")


def _write_other(root: pathlib.Path):
  """Test chips alone, of another size, in degrees but for the last, which has no place."""
  (root / "images" / "a").mkdir(parents=True)
  (root / "masks" / "a").mkdir(parents=True)
  source = toy.ArraySource(len(OTHER_IDS), size=48, seed=9)
  transform = rasterio.Affine(2e-4, 0, 10, 0, -1e-4, 60)
  for i, name in enumerate(OTHER_IDS):
    image = np.round(source.image[i, :, :40].transpose(2, 0, 1) * 1e4).astype(np.int16)
    image[:, :4, :4] = -32768
    place = {"crs": None} if i == len(OTHER_IDS) - 1 else {"crs": "EPSG:4326", "transform": transform}
    _write(root / "images" / f"{name}.tif", image, NAMES, nodata=-32768, **place)
    _write(root / "masks" / f"{name}.tif", source.label[i, :, :40][None], (), **place)
  lines = [f"{name},test,{climate}" for name, climate in zip(OTHER_IDS, ("arid", "arid", "polar", ""))]
  (root / "index.csv").write_text("\n".join(["id,split,climate_zone", *lines]) + "\n")


def _write(path, bands, names, *, crs, transform=None, **profile):
  write_geotiff(path, bands, names, crs=crs, **profile)
  if crs:
    with rasterio.open(path, "r+") as file:
      file.transform = transform


def _results(folder) -> dict:
  return json.loads((folder / "results.json").read_text(), parse_constant=lambda text: 1 / 0)


class ScoringTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.data, cls.other, cls.workdir = cls.root / "data", cls.root / "other", cls.root / "run"
    write_folder(cls.data)
    splits = ["train", "train", "validation", "test", "test", "test"]
    places = [*range(6), 6, 6, 6, 6, 7, 7]
    lines = [f"toy{i},{('coarse', 'fine')[i % 2]},{splits[i // 2]},place{places[i]}" for i in range(12)]
    (cls.data / "index.csv").write_text("\n".join(["id,domain,split,location_group", *lines]) + "\n")
    _write_other(cls.other)
    experiment.train(cls._config(), cls.workdir, predictions=True)

  @classmethod
  def _config(cls):
    config = run_config(cls.data)
    config.stages, config.data.coarse.coarsen_gsd_m = ("coarse",), 0.0
    return config

  def _evaluate(self, config=None, **options):
    """What it said, with results in `options`' output or in the workdir."""
    with mock.patch.object(console, "say") as say:
      experiment.evaluate(config, self.workdir, **options)
    return " ".join(call.args[0] for call in say.call_args_list)

  def _others(self):
    config = self._config()
    config.data.fine.path, config.data.coarse.path = str(self.other), None
    return config

  def _logits(self, config, source):
    method = experiment.wire(config)["coarse"]
    variables = experiment.load_stage(config, "coarse", method.method, self.workdir)
    return evaluate_lib.predict_all(method.predict, variables, source, batch_size=2).astype(np.float64)

  def test_predictions_lie_on_the_chips_own_grids_and_give_the_scores_of_the_report(self):
    config = self._config()
    for row in _results(self.workdir)["rows"]:
      source = experiment.open_source(config, row["domain"], "test")
      logits, truth = self._logits(config, source), np.stack([sample["label"] for sample in source])
      stored = []
      for i, name in enumerate(source.ids):
        with rasterio.open(self.workdir / "predictions" / row["domain"] / "teacher" / f"{name}.tif") as file:
          with rasterio.open(source.rows[i].image) as chip:
            self.assertEqual((file.crs, file.transform, file.shape), (chip.crs, chip.transform, chip.shape))
          self.assertEqual((file.count, file.dtypes[0], file.nodata), (1, "uint16", 65535))
          self.assertEqual(file.tags()["scale"], "probability = value / 65534; 65535 = no data")
          stored.append(file.read(1))
      stored = np.stack(stored) / encoding.SCALE
      np.testing.assert_allclose(stored, special.expit(logits), atol=1.01 / encoding.SCALE)
      truth, guess, chance = truth.ravel(), (stored > 0.5).ravel(), special.expit(logits.ravel())
      scores = row["scores"]
      self.assertAlmostEqual(scores["accuracy"], sklearn_metrics.accuracy_score(truth, guess), delta=1e-9)
      self.assertAlmostEqual(scores["iou_mine"], sklearn_metrics.jaccard_score(truth, guess), delta=1e-9)
      self.assertAlmostEqual(scores["mf1"], sklearn_metrics.f1_score(truth, guess, average="macro"), delta=1e-9)
      brier, nll = sklearn_metrics.brier_score_loss(truth, chance), sklearn_metrics.log_loss(truth, chance)
      self.assertAlmostEqual(row["calibration"]["brier"], brier, delta=1e-9)
      self.assertAlmostEqual(row["calibration"]["nll"], nll, delta=1e-9)
      self.assertEqual(row["intervals"]["miou"]["unit"], "location group")
      self.assertEqual(row["boundaries"]["num_images"], len(source))

  def test_the_workdir_alone_is_enough_and_a_moved_data_set_is_known_by_its_content(self):
    before = (self.workdir / "results.json").read_text()
    moved, config = self.root / "moved", self._config()
    shutil.copytree(self.data, moved)
    config.data.fine.path = str(moved)
    self._evaluate(config)
    after = (self.workdir / "results.json").read_text()
    self.assertNotEqual(after, before)  # By the data's name.
    self.assertEqual(_results(self.workdir)["rows"], json.loads(before)["rows"])
    self._evaluate()
    self.assertEqual((self.workdir / "results.json").read_text(), before)

  def test_another_data_set_is_scored_into_a_folder_of_its_own(self):
    before, output = (self.workdir / "results.json").read_text(), self.root / "new" / "output"
    said = self._evaluate(self._others(), output=output, predictions=True)
    self.assertEqual((self.workdir / "results.json").read_text(), before)
    result = _results(output)
    (row,) = result["rows"]
    self.assertEqual((result["data"], row["tested_on"], row["model"]), ("other", "fine test (4)", "teacher"))
    self.assertIn("data: other;", said)
    self.assertEqual(list(row["counts"]), list(OTHER_IDS))
    self.assertEqual([group["name"] for group in row["groups"]["climate zone"]], ["arid", "polar", "unknown"])
    self.assertEqual((row["boundaries"]["num_images"], row["boundaries"]["num_without_pixel_size"]), (3, 1))
    evaluated = json.loads((output / "evaluated.json").read_text())
    self.assertEqual(evaluated["run"], str(self.workdir))
    self.assertFalse((output / "config.json").exists())
    self._check_predictions(output)

  def _check_predictions(self, output):
    """Of chips of 48 x 40 pixels that the network saw at 32 x 32."""
    source = experiment.open_source(self._others(), "fine", "test")
    logits, folder = self._logits(self._others(), source), output / "predictions" / "fine" / "teacher"
    self.assertEqual(sorted(os.listdir(folder)), sorted(["a%2Fb.tif", "ü%26%3Cx%3E.tif", "c.tif", "d.tif"]))
    for i, name in enumerate(source.ids):
      with rasterio.open(folder / f"{predictions.safe_name(name)}.tif") as file:
        values, place = file.read(1), (file.crs, file.transform)
      with rasterio.open(source.rows[i].image) as chip:
        self.assertEqual(place, (chip.crs, chip.transform))
      self.assertEqual(values.shape, (48, 40))
      expected, valid = resize.resize_map(special.expit(logits[i]), source[i]["valid"], 48, 40)
      np.testing.assert_array_equal(values == encoding.NODATA, ~valid)
      self.assertTrue((values[:3, :3] == encoding.NODATA).all())
      np.testing.assert_allclose(values[valid] / encoding.SCALE, expected[valid], atol=1.01 / encoding.SCALE)

  def test_the_size_of_pixels_can_be_told_for_files_that_do_not(self):
    config = self._others()
    config.data.gsd_m = 10.0
    source = experiment.open_source(config, "fine", "test")
    self.assertEqual(source.details(3)["gsd_m"], (15.0, 12.5))  # 48 x 40 pixels of 10 m as 32 x 32.
    np.testing.assert_allclose(source.details(0)["gsd_m"], (11.14 * 1.5, 11.16 * 1.25), rtol=2e-3)  # At 60 degrees.

  def test_other_data_without_an_output_are_refused_and_the_difference_is_named(self):
    before = (self.workdir / "results.json").read_text()
    with self.assertRaisesRegex(UserError, r"choice of test sets .*coarse.* Give --output=DIR"):
      experiment.evaluate(self._others(), self.workdir)
    config = self._config()
    config.data.fine.path = str(self.other)
    with self.assertRaisesRegex(UserError, r"another data: fine test has .* Give --output=DIR"):
      experiment.evaluate(config, self.workdir)
    config = self._config()
    config.data.image_size = 48
    with self.assertRaisesRegex(UserError, r"config.data.image_size \(32 there, 48 here\). Give --output=DIR"):
      experiment.evaluate(config, self.workdir)
    self.assertEqual((self.workdir / "results.json").read_text(), before)

  def test_data_that_changed_in_place_do_not_overwrite_the_runs_results(self):
    run, data = self.root / "changed_run", self.root / "changed"
    shutil.copytree(self.data, data)
    config = self._config()
    config.data.coarse.path = config.data.fine.path = str(data)
    shutil.copytree(self.workdir, run)
    mask = np.zeros((1, 32, 32), np.uint8)
    write_geotiff(data / "masks" / "toy7.tif", mask)
    with self.assertRaisesRegex(UserError, r"another data: fine test has other contents .*Give --output=DIR"):
      experiment.evaluate(config, run)

  def test_an_output_that_is_a_runs_or_a_file_is_refused(self):
    with self.assertRaisesRegex(UserError, "is the workdir of a run, and this evaluation is of another choice of test"):
      experiment.evaluate(self._others(), self.workdir, output=self.workdir)
    foreign = self.root / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    with self.assertRaisesRegex(UserError, "foreign is the workdir of a run, and this evaluation is of another run"):
      experiment.evaluate(None, self.workdir, output=foreign)
    with self.assertRaisesRegex(UserError, "index.csv is a file"):
      experiment.evaluate(self._others(), self.workdir, output=self.data / "index.csv")
    with self.assertRaisesRegex(UserError, "cannot be made"):
      experiment.evaluate(self._others(), self.workdir, output=self.data / "index.csv" / "x")

  @parameterized.parameters(
    (lambda c: c.data.update(bands=NAMES[:4]), r"config\.data\.bands .*swir1.* there"),
    (lambda c: c.data.mean.update(red=0.5), r"config\.data\.mean\.red \(0\.1229 there, 0\.5 here\)"),
    (lambda c: c.model.encoder.update(growth_rate=8), r"config\.model\.encoder\.growth_rate \(4 there, 8 here\)"),
  )
  def test_what_the_weights_expect_must_stay_whatever_the_output(self, change, message):
    config = self._others()
    change(config)
    with self.assertRaisesRegex(UserError, message):
      experiment.evaluate(config, self.workdir, output=self.root / "never")
    self.assertFalse((self.root / "never").exists())

  def test_a_folder_without_a_run_and_a_config_without_data_are_refused(self):
    with self.assertRaisesRegex(UserError, "nowhere: there is no run"):
      experiment.evaluate(None, self.root / "nowhere")
    config = self._others()
    config.data.fine.path = None
    with self.assertRaisesRegex(UserError, "no data to score on.*config.data.fine.path"):
      experiment.evaluate(config, self.workdir, output=self.root / "never")

  def test_a_run_of_an_earlier_version_without_hashes_is_known_by_its_config(self):
    run = self.root / "early"
    shutil.copytree(self.workdir, run)
    (run / "data.json").unlink()
    plain = json.loads((run / "config.json").read_text())
    del plain["data"]["gsd_m"]
    (run / "config.json").write_text(json.dumps(plain))
    experiment.evaluate(None, run)
    with self.assertRaisesRegex(UserError, r"config.data.coarse.path .*Give --output=DIR"):
      experiment.evaluate(self._others(), run)

  def test_noted_configs_come_back_with_tuples_and_fields_that_can_be_set(self):
    config = noted.get_config(self.workdir)
    self.assertEqual(*(json.loads(c.to_json_best_effort()) for c in (config, self._config())))
    self.assertEqual(config.data.bands, NAMES)
    config.teacher = "somewhere"  # A bare None would take no text.

  def test_the_page_has_worst_and_best_images_with_all_they_need(self):
    config = self._config()
    sources = experiment.open_sources(config, [("fine", "test"), ("coarse", "test")])
    wired = experiment.wire(config)
    models = {"coarse": experiment.load_stage(config, "coarse", wired["coarse"].method, self.workdir)}
    found = page.gather(
      config, self.workdir, wired, models, sources, _results(self.workdir), titles={"coarse": "teacher"}
    )
    self.assertEqual(list(found.cards), ["fine test", "coarse test"])
    self.assertEqual([card.why.split()[0] for card in found.cards["fine test"]], ["worst", "best"])
    worst, best = (card.scores["teacher"] for card in found.cards["fine test"])
    self.assertLessEqual(worst, best)
    card = found.cards["fine test"][0]
    self.assertEqual(card.probabilities["teacher"].shape, card.label.shape)
    self.assertEqual(found.facts["Images"], "3 fine test, 3 coarse test")
    self.assertLen(found.curves["coarse"], 1)
    json.dumps([found.config, found.facts, found.results])

  def test_no_card_is_shown_twice_and_none_without_a_score(self):
    nan = float("nan")
    self.assertEqual(page._chosen(np.array([0.5, nan, 0.2]), "m"), {2: "worst of 2 by m's IoU of mine", 0: mock.ANY})
    self.assertEqual(list(page._chosen(np.arange(9.0), "m")), [0, 1, 2, 6, 7, 8])
    self.assertEqual((list(page._chosen(np.array([0.5]), "m")), page._chosen(np.array([nan]), "m")), ([0], {}))

  def test_the_command_line_changes_what_the_run_has_noted(self):
    output = self.root / "by command"
    command = [sys.executable, "launch.py", "--mode=evaluate", f"--workdir={self.workdir}"]
    overrides = [
      f"--config.data.fine.path={self.other}",
      "--config.data.gsd_m=10",
      f"--output={output}",
      "--config.data.coarse.path=",
    ]
    result = subprocess.run([*command, *overrides, "--predictions"], cwd=ROOT, capture_output=True, text=True)
    self.assertEqual(result.returncode, 0, result.stderr)
    rows = _results(output)["rows"]
    self.assertEqual([row["tested_on"] for row in rows], ["fine test (4)"])
    self.assertEqual(rows[0]["boundaries"]["num_without_pixel_size"], 0)
    self.assertNotIn("Warning", result.stderr)
    self.assertLen(os.listdir(output / "predictions" / "fine" / "teacher"), 4)


class NameTest(parameterized.TestCase):
  @parameterized.parameters("..", ".hidden", "a/b", "a%2Fb", "ü", "x" * 300, "a b", "")
  def test_a_safe_name_is_a_files_name(self, name):
    safe = predictions.safe_name(name)
    self.assertNotIn("/", safe)
    self.assertFalse(safe.startswith("."))
    self.assertLessEqual(len(safe.encode()), 200)

  def test_names_do_not_meet(self):
    names = ["a/b", "a%2Fb", "a b", "a_b", "." + "x", "%2Ex", "x" * 300, "x" * 299]
    self.assertLen({predictions.safe_name(name) for name in names}, len(names))

  def test_without_a_file_of_its_own_a_map_lies_as_the_network_saw_it(self):
    path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "map.tif"
    logits, valid = np.float32([[0.0, 2.0, -2.0], [9.0, -9.0, np.nan]]), np.ones((2, 3), bool)
    valid[1, 2] = False
    predictions.write_prediction(path, logits, valid, tags={"model": "student"})
    self.assertIsNone(geotiff.read_header(path).grid)
    with open(path, "rb") as file, rasterio.MemoryFile(file.read()) as memory, memory.open() as found:
      expected = np.rint(special.expit(np.float64([0, 2, -2, 9, -9])) * encoding.SCALE)
      np.testing.assert_array_equal(found.read(1).ravel(), [*expected, encoding.NODATA])
      self.assertEqual((found.tags()["model"], found.descriptions), ("student", ("probability of a mine",)))

  def test_codes_keep_the_side_of_the_threshold_and_never_mean_no_data(self):
    near = np.array([0.0, 0.5 - 1e-9, 0.5, 0.5 + 1e-9, 1.0])
    codes = encoding.encode(near)
    np.testing.assert_array_equal(codes, [0, 32767, 32767, 32768, 65534])
    np.testing.assert_array_equal(codes / encoding.SCALE > 0.5, near > 0.5)


if __name__ == "__main__":
  absltest.main()
