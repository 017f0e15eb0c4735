"""Tests of python -m datasets.chips from outside: flags, Beam, exit status, messages, signals."""

import ast
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from unittest import mock

import pyproj
import shapely
from absl.testing import absltest, parameterized

from datasets import chip_report
from datasets.mining_coarse import mining_coarse_dataset_builder
from datasets.mining_fine import mining_fine_dataset_builder
from minec2f_jax import console
from minec2f_jax.data import chips, geotiff
from minec2f_jax.errors import UserError
from tests import chip_runs, scenery
from tests.scenery import SIX


class FlagsTest(chip_runs.SceneTest):
  """What is wrong with flags is told by their names, before anything is read or made."""

  @parameterized.parameters(
    (dict(gsd_m="nan"), "--gsd_m=nan: give a finite number"),
    (dict(margin="inf"), "--margin=inf: give a finite number"),
    (dict(max_area_km2="inf"), "--max_area_km2=inf: give a finite number"),
    (dict(min_valid="nan"), "--min_valid=nan: give a finite number"),
    (dict(bands="red,ultraviolet"), "--bands=red,ultraviolet: name each band once, out of blue,green,red,nir"),
    (dict(bands="red,red"), "--bands=red,red: name each band once"),
    (dict(bands=""), "--bands=: name each band once"),
    (dict(sensor="sentinel2"), "--sensor=sentinel2: unknown; choose one of auto, reflectance, "),
    (dict(drivers="GTiff,PNG"), r"--drivers=GTiff,PNG: drivers \['PNG'\] are unknown"),
    (dict(block_km=0), "--block_km=0: must be above 0$"),
    (dict(min_area_km2=2, max_area_km2=1), "--min_area_km2=2 is above --max_area_km2=1"),
    (dict(min_size_px=64, max_size_px=32), "--min_size_px=64 is above --max_size_px=32"),
    (dict(stac_collections="a"), "--stac_collections searches a STAC API; give --stac, too"),
    (dict(stac_collections="a", stac=True), "--imagery=.*: searched for in the network; allow it with --allow_remote"),
    (dict(stac_datetime="2021"), "--stac_datetime is for the search of a STAC API; give --stac_collections, too"),
    (dict(max_items=3, stac=True), "--max_items is for the search of a STAC API"),
  )
  def test_a_flag_is_named(self, given, message):
    with self.assertRaisesRegex(UserError, f"^{message}"):
      self._run(**{"polygons": "nowhere", **given})
    self.assertFalse(self.output.exists())

  def test_a_file_without_polygons_says_so(self):
    self._polygons(name="none.geojson")
    for name in ("polygons", "keep_away"):
      with self.assertRaisesRegex(UserError, "none.geojson: holds no polygon"):
        self._run(**{name: self.root / "none.geojson"})
    self.assertFalse(self.output.exists())

  @parameterized.parameters(True, False)
  def test_polygons_and_imagery_that_do_not_meet_are_placed(self, swapped):
    exchange = lambda lonlat: lonlat[:, ::-1]
    elsewhere = shapely.transform(self.mines[0], exchange) if swapped else shapely.box(10, 20, 10.01, 20.01)
    self._polygons(elsewhere)
    no_chip = self.assertRaisesRegex(UserError, r"no chip could be made \(no imagery covers it 1\)")
    with mock.patch.object(console, "say") as say, no_chip:
      self._run()
    said = "\n".join(call.args[0] for call in say.call_args_list)
    west, south, east, north = elsewhere.bounds
    mine = f"longitude {west:.5g} to {east:.5g}, latitude {south:.5g} to {north:.5g}"
    self.assertIn(f"  polygons at {mine}\n", said)
    to_lonlat = pyproj.Transformer.from_crs(scenery.UTM, "EPSG:4326", always_xy=True)
    (x, y), side = scenery.ORIGIN, 6000
    west, south, east, north = to_lonlat.transform_bounds(x, y - side, x + side, y)
    scene = f"longitude {west:.5g} to {east:.5g}, latitude {south:.5g} to {north:.5g}"
    self.assertIn(f"  imagery at {scene}", said)
    self.assertEqual("with longitude and latitude exchanged they would meet" in said, swapped)

  @parameterized.parameters(
    ("coarse", SIX, 10.0, "mining_coarse"),
    ("coarse", SIX, 9.8, "mining_coarse"),
    ("coarse", SIX, 9.7, "mining_coarse/full"),
    ("coarse", ("red", "green", "blue"), 9.7, "mining_coarse/full-rgb"),
    ("coarse", ("blue", "green", "red", "nir"), 10.0, "mining_coarse/fine_filtered-rgb_nir"),
    ("fine", SIX[::-1], 1.0, "mining_fine"),
    ("fine", ("red", "green", "blue"), 1.0, "mining_fine/rgb"),
    ("fine", ("red", "nir"), 1.0, ""),
  )
  def test_the_dataset_that_takes_the_chips_is_known(self, domain, roles, largest_km2, expected):
    self.assertEqual(chip_report.dataset_of(domain, roles, largest_km2), expected)
    self.assertEqual(chip_report.FILTERED_KM2, mining_coarse_dataset_builder.MIN_AREA_KM2)
    builder = {"fine": mining_fine_dataset_builder.MiningFine, "coarse": mining_coarse_dataset_builder.MiningCoarse}
    _, _, config = expected.partition("/")
    configs = {c.name: c for c in builder[domain].BUILDER_CONFIGS}
    if expected:
      self.assertEqual({*configs[config or next(iter(configs))].layout.bands}, {*roles})

  @parameterized.parameters(
    (SIX, "", "pack them: python -m datasets.prepare --dataset=mining_coarse/full --manual_dir='a b'"),
    (("red", "nir"), """ --config.data.bands="('red', 'nir')\"""", "look at a b/contact_sheet.png"),
  )
  def test_the_last_line_says_how_to_train(self, roles, bands, before):
    made = chips.Outcome("a", {"id": "a", "area_km2": "1.0"}, {"images/a.tif": "0"})
    with mock.patch.object(console, "say") as say:
      chip_report.say_next(pathlib.Path("a b"), [made], domain="coarse", roles=roles)
    *_, previous, last = [call.args[0] for call in say.call_args_list]
    self.assertEqual((previous, last), (before, f"or train at once: --config.data.coarse.path='a b'{bands}"))
    if bands:
      (flag,) = shlex.split(bands)
      self.assertEqual(ast.literal_eval(flag.partition("=")[2]), roles)


class BeamTest(chip_runs.SceneTest):
  def setUp(self):
    super().setUp()
    try:
      import apache_beam  # noqa: F401
    except ImportError:
      self.skipTest("apache_beam is not installed")

  def test_beam_makes_the_same_files(self):
    self._run()
    threads = chip_runs.hashes_of(self.output)
    self.output = self.root / "beam"
    self._run(runner="beam", beam_options="--direct_num_workers=2")
    self.assertEqual(chip_runs.hashes_of(self.output), threads)
    self.assertFalse((self.output / "outcomes").exists())

  def test_beam_that_is_missing_is_told_with_the_remedy(self):
    hidden = mock.patch.dict(sys.modules, {"apache_beam": None})
    with hidden, self.assertRaisesRegex(UserError, r"needs Apache Beam: pip install -e '.\[beam\]'"):
      self._run(runner="beam")

  @parameterized.parameters(
    ("--runner=NoSuchRunner", ": "),
    ("--runner='", ": "),
    ("--direct_num_worker=2", ": --direct_num_worker=2 unknown"),
    ("--direct_num_workers=2 --no_such --project=p stray", ": --no_such stray unknown"),
    ("--direct_num_workers=two", ": .*direct_num_workers"),
  )
  def test_beam_options_that_beam_refuses_are_named(self, beam_options, why):
    with self.assertRaisesRegex(UserError, f"--beam_options=.*: Beam refuses them{why}"):
      self._run(runner="beam", beam_options=beam_options)

  def test_what_a_worker_cannot_write_is_one_error(self):
    full = mock.patch.object(geotiff, "write_geotiff", side_effect=UserError("a.tif: cannot be written"))
    with full, self.assertRaisesRegex(UserError, r"^a.tif: cannot be written \(and \d+ chips more\)$"):
      self._run(runner="beam")
    self.assertFalse((self.output / "outcomes").exists())

  def test_a_defect_keeps_its_traceback_and_leaves_nothing(self):
    defect = mock.patch.object(chips, "make_chip", side_effect=ZeroDivisionError)
    with defect, self.assertRaisesRegex(Exception, "ZeroDivisionError"):
      self._run(runner="beam")
    self.assertFalse((self.output / "outcomes").exists())


class ProcessTest(chip_runs.SceneTest):
  """What only a process of its own shows: exit status, messages, signals."""

  def _all(self, **kwargs):
    return self._arguments(sensor="sentinel2_l2a", **kwargs)

  def _process(self, *arguments, **kwargs):
    return subprocess.Popen(
      [sys.executable, "-m", "datasets.chips", *arguments, *self._all(**kwargs)],
      cwd=chip_runs.ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def test_an_error_is_one_line_and_status_1(self):
    process = self._process(bands="red,ultraviolet")
    _, error = process.communicate(timeout=60)
    self.assertEqual(process.returncode, 1)
    self.assertRegex(error, r"^datasets\.chips: .*ultraviolet.*\n$")

  def _ends(self, *arguments, **kwargs):
    process = self._process(*arguments, **kwargs)
    _, error = process.communicate(timeout=60)
    self.assertEqual(process.returncode, 1)
    self.assertRegex(error, r"^datasets\.chips: .*\n$")
    return error

  def test_a_set_without_chips_is_an_error(self):
    self._polygons(shapely.box(10, 20, 10.01, 20.01))
    self.assertIn("no chip could be made (no imagery covers it 1)", self._ends())

  def test_an_output_that_cannot_be_made_is_one_line(self):
    (self.root / "file").touch()
    self.assertIn("Not a directory", self._ends(output=self.root / "file" / "chips"))

  @parameterized.parameters("local", "beam")
  def test_a_full_disk_is_one_line_and_the_same_command_goes_on(self, runner):
    if runner == "beam":
      try:
        import apache_beam  # noqa: F401
      except ImportError:
        self.skipTest("apache_beam is not installed")
    limited = f"ulimit -f 8; exec {shlex.join([sys.executable, '-m', 'datasets.chips', *self._all(runner=runner)])}"
    process = subprocess.run(
      ["bash", "-c", limited], cwd=chip_runs.ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    self.assertEqual(process.returncode, 1, process.stderr)
    self.assertRegex(process.stderr, r"datasets\.chips: \S+\.tif: cannot be written \(.*File too large.*\n$")
    self.assertNotIn("Traceback", process.stderr)
    self._run()
    self.assertEmpty(list(self.output.rglob("*.partial")))

  def test_two_runs_do_not_share_an_output(self):
    process = self._process(workers=1)
    while process.poll() is None and not (self.output / "settings.json").exists():
      time.sleep(0.005)
    self.assertIsNone(process.poll())
    process.send_signal(signal.SIGSTOP)
    try:
      self.assertIn(f"chips: process {process.pid} is at work there", self._ends())
    finally:
      process.send_signal(signal.SIGCONT)
    _, error = process.communicate(timeout=60)
    self.assertEqual((process.returncode, error), (0, ""))

  def test_help_is_fast_and_names_the_flags(self):
    began = time.monotonic()
    process = self._process("--helpshort")
    said, _ = process.communicate(timeout=60)
    self.assertIn("--buffer_km", said)
    self.assertLess(time.monotonic() - began, 5)

  @parameterized.parameters(signal.SIGINT, signal.SIGKILL)
  def test_an_interrupted_run_is_completed_to_the_byte(self, sent):
    self._run(workers=1)
    whole = chip_runs.hashes_of(self.output)
    self.output = self.root / "interrupted"
    process = self._process(workers=1)
    while process.poll() is None and len(list(self.output.glob("images/*.tif"))) < 3:
      time.sleep(0.005)
    process.send_signal(sent)
    _, error = process.communicate(timeout=60)
    if sent == signal.SIGINT:
      self.assertEqual(process.returncode, 130)
      self.assertIn("the same command goes on", error)
    self.assertFalse((self.output / "manifest.json").exists())
    self._run()
    self.assertEqual(chip_runs.hashes_of(self.output), whole)


if __name__ == "__main__":
  absltest.main()
