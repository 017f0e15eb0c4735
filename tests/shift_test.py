"""Tests of `python -m datasets.shift`, on sets written here and, where present, on real ones."""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import numpy as np
import tensorflow_datasets as tfds
from absl import flags
from absl.testing import absltest, parameterized
from PIL import Image
from scipy import stats
from skimage import measure

from datasets import label_sets, shift
from minec2f_jax.data import label_geometry
from minec2f_jax.errors import UserError
from tests.rasters import DATA, write_geotiff

ROOT = pathlib.Path(__file__).parents[1]


def blobs(number: int, *, size: int = 24, seed: int = 0) -> np.ndarray:
  """[number, size, size] uint8: rectangles of random place and extent."""
  rng = np.random.default_rng(seed)
  masks = np.zeros((number, size, size), np.uint8)
  for mask in masks:
    (top, bottom), (left, right) = np.sort(rng.integers(0, size, (2, 2))) + [0, 1]
    mask[top:bottom, left:right] = 1
  return masks


STATISTICS = label_geometry.label_statistics(blobs(3))


class ShiftTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def _folder(self, masks: dict, lines=None):
    folder = self.root / "my chips"
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for name, mask in masks.items():
      write_geotiff(folder / "masks" / f"{name}.tif", mask[None])
    (folder / "index.csv").write_text("\n".join(lines or ["id", *masks]) + "\n")
    return folder

  def _array(self, masks, name="masks.npz", **more):
    path = self.root / name
    if path.suffix == ".npy":
      np.save(path, masks)
    else:
      np.savez(path, masks=masks, **more)
    return path

  def _command(self, *arguments):
    result = subprocess.run(
      [sys.executable, "-m", "datasets.shift", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    self.assertNotIn("Traceback", result.stderr)
    return result


class OpenTest(ShiftTest):
  def _read(self, path, **kwargs):
    masks = label_sets.open_masks(path, **{"domain": "fine", **kwargs})
    return [masks.read(i) for i in range(masks.total)]

  def test_a_folder_gives_the_chips_of_its_domain_with_sizes_and_validity_of_their_own(self):
    small, large = np.eye(4, dtype=np.uint8), np.ones((5, 7), np.uint8)
    large[0, 0] = 255
    lines = ["id,domain,split", "a,fine,train", "b,fine,test", "c,coarse,train"]
    path = self._folder({"a": small, "b": large, "c": small}, lines)
    (name, label, valid, gsd_m), (other, large_label, large_valid, _) = self._read(path)
    self.assertAlmostEqual(gsd_m, 10 / 0.9996, delta=1e-3)  # UTM, on its central meridian.
    self.assertEqual((name, other), ("a", "b"))
    np.testing.assert_array_equal(label, small)
    self.assertTrue(valid.all())
    np.testing.assert_array_equal(large_label, large == 1)
    np.testing.assert_array_equal(large_valid, large == 1)
    self.assertEqual([r[0] for r in self._read(path, split="test")], ["b"])
    self.assertEqual([r[0] for r in self._read(path, domain="coarse")], ["c"])

  def test_a_split_the_index_does_not_name_is_refused(self):
    path = self._folder({}, ["id,domain,split", "a,fine,train", "b,fine,", "c,coarse,train"])
    with self.assertRaisesRegex(UserError, "--split=train, but 1 of 2 fine rows.*name no split"):
      label_sets.open_masks(path, domain="fine", split="train")
    with self.assertRaisesRegex(
      UserError, "no 'coarse test' chip, only {'fine train': 1, 'fine': 1, 'coarse train': 1}"
    ):
      label_sets.open_masks(path, domain="coarse", split="test")

  def test_a_folder_without_rows_is_refused(self):
    with self.assertRaisesRegex(UserError, "no 'fine' chip"):
      label_sets.open_masks(self._folder({}), domain="fine")

  @parameterized.parameters("masks.npz", "masks.npy")
  def test_an_array_gives_its_masks_in_order(self, name):
    masks = blobs(5)
    got = self._read(self._array(masks, name))
    np.testing.assert_array_equal([label for _, label, *_ in got], masks)
    self.assertEqual([name for name, *_ in got], list("01234"))
    self.assertTrue(all(np.isnan(gsd_m) for *_, gsd_m in got))

  def test_a_channel_picks_one_mask_an_image_and_ids_are_kept(self):
    masks = np.stack([blobs(3), blobs(3, seed=1)], 1)
    path = self._array(masks, ids=np.array(["x", "y", "z"]), images=np.zeros((3, 4, 4, 3)))
    for channel in (0, 1):
      got = self._read(path, channel=channel)
      np.testing.assert_array_equal([label for _, label, *_ in got], masks[:, channel])
      self.assertEqual([name for name, *_ in got], ["x", "y", "z"])

  @parameterized.parameters(None, 2, -1)
  def test_a_channel_that_is_not_there_is_refused(self, channel):
    path = self._array(np.zeros((3, 2, 4, 4), np.uint8))
    with self.assertRaisesRegex(UserError, rf"channel is {channel}; choose one of 0 to 1 with --first_channel"):
      label_sets.open_masks(path, domain="fine", channel=channel)

  def test_a_channel_or_split_where_there_is_none_is_refused(self):
    with self.assertRaisesRegex(UserError, "channel 0 asked of an array.*one mask an image"):
      label_sets.open_masks(self._array(blobs(2)), domain="fine", channel=0)
    with self.assertRaisesRegex(UserError, "channel 0 asked of a set"):
      label_sets.open_masks(self._folder({}), domain="fine", channel=0)
    with self.assertRaisesRegex(UserError, "has no splits"):
      label_sets.open_masks(self._array(blobs(2)), domain="fine", split="test")

  def test_arrays_that_are_no_masks_are_refused_by_what_they_hold(self):
    np.savez(self.root / "a.npz", x=np.zeros(3), y=np.zeros((2, 2)))
    with self.assertRaisesRegex(UserError, r"holds {'x': \[3\], 'y': \[2, 2\]}.*name that array 'masks'"):
      label_sets.open_masks(self.root / "a.npz", domain="fine")
    (self.root / "b.npz").write_bytes(b"PK\x03\x04 no archive")
    with self.assertRaisesRegex(UserError, "b.npz: not readable as NumPy file"):
      label_sets.open_masks(self.root / "b.npz", domain="fine")
    with self.assertRaisesRegex(UserError, "holds no mask"):
      label_sets.open_masks(self._array(np.zeros((0, 4, 4))), domain="fine")
    np.save(self.root / "c.npy", np.array([{}]), allow_pickle=True)
    with self.assertRaisesRegex(UserError, "c.npy: not readable"):
      label_sets.open_masks(self.root / "c.npy", domain="fine")

  @parameterized.parameters("", "nowhere", "nowhere.npz")
  def test_what_is_no_set_is_refused(self, name):
    with self.assertRaisesRegex(UserError, "is no set of labels; give a folder with index.csv.*npz file$"):
      label_sets.open_masks(self.root / name, domain="fine")


class Labels(tfds.core.GeneratorBasedBuilder):
  """A prepared dataset; `RECORDS` are its splits."""

  VERSION = tfds.core.Version("1.0.0")
  RECORDS = {
    split: [
      {"id": f"{split}{i}", "label": mask, "valid": 1 - mask.T, "gsd_m": 12.5}
      for i, mask in enumerate(blobs(n, seed=n))
    ]
    for split, n in (("train", 3), ("validation", 0), ("test", 2))
  }

  def _info(self):
    plane = tfds.features.Tensor(shape=(24, 24), dtype=np.uint8)
    gsd_m = tfds.features.Scalar(dtype=np.float32)
    text = tfds.features.Text()
    features = tfds.features.FeaturesDict({"id": text, "label": plane, "valid": plane, "gsd_m": gsd_m})
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(records) for split, records in self.RECORDS.items() if records}

  def _generate_examples(self, records):
    return ((record["id"], record) for record in records)


class TfdsTest(ShiftTest):
  def setUp(self):
    super().setUp()
    tfds.disable_progress_bar()
    builder = Labels(data_dir=self.root, file_format="array_record")
    builder.download_and_prepare()
    self.path = pathlib.Path(builder.data_dir)

  def test_all_splits_or_one_are_read_as_they_were_made(self):
    masks = label_sets.open_masks(self.path, domain="fine")
    got = {name: (label, valid) for name, label, valid, _ in map(masks.read, range(masks.total))}
    self.assertEqual(set(got), {"train0", "train1", "train2", "test0", "test1"})
    for record in (*Labels.RECORDS["train"], *Labels.RECORDS["test"]):
      np.testing.assert_array_equal(got[record["id"]][0], record["label"])
      np.testing.assert_array_equal(got[record["id"]][1], record["valid"] == 1)
    self.assertEqual(label_sets.open_masks(self.path, domain="fine", split="test").total, 2)
    self.assertEqual(shift.measure(masks, title="x").gsd_m, 12.5)

  def test_a_split_that_is_not_there_is_refused(self):
    with self.assertRaisesRegex(UserError, r"--split=validation, but it only has \['test', 'train'\]"):
      label_sets.open_masks(self.path, domain="fine", split="validation")

  def test_records_without_labels_are_refused(self):
    features = self.path / "features.json"
    features.write_text(features.read_text().replace('"valid"', '"other"'))
    with self.assertRaisesRegex(UserError, r"records have no \['valid'\]"):
      label_sets.open_masks(self.path, domain="fine")

  def test_damaged_records_are_told_and_the_remedy(self):
    for file in self.path.glob("*-train.array_record*"):
      file.write_bytes(file.read_bytes()[:1000])
    with self.assertRaisesRegex(UserError, "(?s)3 of 5 masks.*record 0 of train: not readable.*prepare the dataset"):
      shift.measure(label_sets.open_masks(self.path, domain="fine"), title="fine")


class MeasureTest(ShiftTest):
  def test_every_mask_is_measured_at_its_own_size_over_its_valid_pixels(self):
    one, two = np.pad(blobs(1)[0], 2), blobs(1, size=30, seed=2)[0, :, :17]
    two[5:9] = 255
    path = self._folder({"a": one, "b": two, "c": np.zeros((6, 6), np.uint8)})
    got = shift.measure(label_sets.open_masks(path, domain="fine"), title="x")
    self.assertEqual((got.ids, got.sizes, got.empty), (["a", "b", "c"], [(28, 28), (30, 17), (6, 6)], 1))
    np.testing.assert_allclose(got.statistics.coverage, [(m == 1).sum() / (m != 255).sum() for m in (one, two)] + [0])
    rough = measure.perimeter_crofton(one, directions=4) / (2 * np.sqrt(np.pi * one.sum()))
    rough_valid = label_geometry.label_statistics((two == 1)[None], valid=(two != 255)[None]).roughness[0]
    np.testing.assert_allclose(got.statistics.roughness, [rough, rough_valid, np.nan], rtol=1e-12)

  def test_all_broken_masks_are_told_at_once(self):
    path = self._folder({name: np.zeros((4, 4), np.uint8) for name in "abcdefghi"})
    for name in "abcdefg":
      write_geotiff(path / "masks" / f"{name}.tif", np.full((1, 4, 4), 7, np.uint8))
    (path / "masks" / "a.tif").write_bytes(b"II*\0 broken")
    (path / "masks" / "b.tif").unlink()
    with self.assertRaisesRegex(
      UserError, "(?s)7 of 9 masks cannot be used.*a.tif: not readable.*b.tif: no such file.*values 7.*and 2 more$"
    ):
      shift.measure(label_sets.open_masks(path, domain="fine"), title="x")

  def test_array_values_that_are_no_labels_are_told_with_the_id(self):
    masks = blobs(3).astype(np.float32)
    masks[1, 0, :2] = 0.5, np.nan
    with self.assertRaisesRegex(UserError, "1 of 3 masks.*\n  mask 1: values 0.5, nan are no labels"):
      shift.measure(label_sets.open_masks(self._array(masks), domain="fine"), title="x")


class WarningTest(ShiftTest):
  def _report(self, *sets):
    sets = [shift.Measured("x", ["a"] * len(sizes), sizes, gsd_m, 0, STATISTICS) for sizes, gsd_m in sets]
    return shift.report(*sets, names=("drawn", "exact"))

  @parameterized.parameters(
    ([(64, 64)], 10.0, [(64, 64)], 15.0),
    ([(64, 64)], 10.0, [(640, 640)], 10.0),  # More ground, equally fine.
    ([(64, 64)], np.nan, [(64, 96)], 10.0),
    ([(60, 100), (9, 9), (100, 60)], np.nan, [(80, 75)], np.nan),
  )
  def test_sets_of_about_equal_pixels_are_compared_in_silence(self, sizes, gsd_m, others, other_gsd_m):
    self.assertEmpty(self._report((sizes, gsd_m), (others, other_gsd_m))["warnings"])

  @parameterized.parameters(
    ([(64, 64)], 10.0, [(64, 64)], 30.0, "pixels differ in size: 10 m in drawn and 30 m in exact .medians.. Finer"),
    ([(64, 64)], 15.01, [(64, 64)], 10.0, "15.01 m in drawn and 10 m in exact"),
    ([(64, 64)], np.nan, [(64, 97)], 10.0, "images differ in size: 4096 pixels in drawn and 6208 pixels in exact"),
  )
  def test_sets_of_unequal_pixels_are_warned_of(self, sizes, gsd_m, others, other_gsd_m, message):
    content = self._report((sizes, gsd_m), (others, other_gsd_m))
    self.assertRegex(shift.remarks(content)[-1], f"^warning: .*{message}.*rougher: part of the shift in roughness")
    shift.write_report(self.root, content, {"drawn": STATISTICS, "exact": STATISTICS})
    self.assertIn(f"- {shift.remarks(content)[-1]}\n", (self.root / "shift.md").read_text())

  def test_pixel_sizes_of_files_and_records_are_found(self):
    masks = {name: blobs(1)[0] for name in "abc"}
    path = self._folder(masks)
    write_geotiff(path / "masks" / "a.tif", masks["a"][None], crs=None)
    got = shift.measure(label_sets.open_masks(path, domain="fine"), title="x")
    self.assertAlmostEqual(got.gsd_m, 10 / 0.9996, delta=1e-3)
    array = self._array(blobs(3))
    self.assertTrue(np.isnan(shift.measure(label_sets.open_masks(array, domain="fine"), title="x").gsd_m))
    result = self._command(f"--first={path}", f"--second={array}", f"--output={self.root / 'out'}")
    self.assertEqual(result.returncode, 0)
    self.assertNotIn("warning", result.stdout)
    content = json.loads((self.root / "out" / "shift.json").read_text())
    self.assertIsNone(content["sets"]["second"]["gsd_m"])


class CommandTest(ShiftTest):
  def test_report_of_two_sets_in_a_path_with_spaces(self):
    masks = {f"chip{i}": mask for i, mask in enumerate(blobs(12, seed=4))}
    folder = self._folder(masks | {"none": np.zeros((9, 8), np.uint8)})
    array = self._array(blobs(20, seed=5), "other masks.npy")
    output = self.root / "new folder" / "report"
    arguments = (f"--first={array}", f"--second={folder}", "--second_name=drawn", f"--output={output}")
    result = self._command(*arguments)
    self.assertEqual((result.returncode, result.stderr), (0, ""))
    self.assertRegex(result.stdout, r"drawn: 13 masks of 9–24 × 8–24 pixels.*; 1 without mining; ")
    self.assertEqual(result.stdout.splitlines()[-1], f"{output}/shift.md, shift.json and shift.png beside it")
    content = json.loads((output / "shift.json").read_text())
    values = {which: [image["coverage"] for image in images] for which, images in content["images"].items()}
    np.testing.assert_allclose(values["second"], [*(m.mean() for m in masks.values()), 0.0])
    self.assertIsNone(content["images"]["second"][-1]["roughness"])
    got = content["shift"]["coverage"]
    self.assertAlmostEqual(got["ks"], stats.ks_2samp(values["first"], values["second"]).statistic)
    self.assertAlmostEqual(got["first"]["median"], np.median(values["first"]))
    cells = rf"\| coverage \| drawn \| 13 \| {got['second']['mean']:.3f} \|.*\| {got['overlap']:.3f} \| {got['ks']:.3f}"
    self.assertRegex((output / "shift.md").read_text(), cells)
    self.assertGreater(Image.open(output / "shift.png").width, 500)
    before = {file.name: file.read_bytes() for file in output.iterdir()}
    self.assertEqual(set(before), {"shift.md", "shift.json", "shift.png"})
    self._command(*arguments)
    self.assertEqual({file.name: file.read_bytes() for file in output.iterdir()}, before)

  def test_a_set_without_any_mining_has_coverage_but_no_roughness(self):
    array = self._array(np.stack([blobs(6), np.zeros((6, 24, 24), np.uint8)], 1))
    result = self._command(
      f"--first={array}", f"--second={array}", "--first_channel=0", "--second_channel=1", f"--output={self.root}"
    )
    self.assertEqual(result.returncode, 0)
    self.assertRegex(result.stdout, r"fine: 6 masks .*channel 1\); 6 without mining; 6 without boundary")
    self.assertTrue(re.search(r"coverage +fine +6 +0\.000", result.stdout))
    self.assertTrue(re.search(r"roughness +fine +0( +–){7}\n", result.stdout))

  def test_errors_are_one_line_with_status_one(self):
    array = self._array(blobs(2))
    same = self._command(f"--first={array}", f"--second={array}", "--first_domain=fine", "--output=x")
    self.assertEqual(same.returncode, 1)
    self.assertEqual(
      same.stderr, "datasets.shift: both sets are called 'fine'; tell them apart with --first_name and --second_name\n"
    )
    full = self._command(f"--first={array}", f"--second={array}", f"--output={array}")
    self.assertEqual(full.returncode, 1)
    self.assertRegex(full.stderr, r"^datasets.shift: .*masks.npz: cannot be written .*; choose another --output\n$")

  def test_an_interruption_is_one_line_and_leaves_no_half_file(self):
    code = (
      "import runpy, sys; from unittest import mock; from datasets import label_sets\n"
      f"sys.argv[1:] = ['--first=a', '--second=b', '--output={self.root}']\n"
      "with mock.patch.object(label_sets, 'open_masks', side_effect=KeyboardInterrupt):\n"
      "  runpy.run_module('datasets.shift', run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    self.assertEqual(result.returncode, 130)
    self.assertEqual(result.stderr, "\ndatasets.shift: interrupted; the same command starts afresh\n")

  def test_a_full_disk_is_one_line(self):
    array = self._array(blobs(2))
    code = (
      "import resource, runpy, signal, sys\n"
      f"sys.argv[1:] = ['--first={array}', '--second={array}', '--output={self.root / 'full'}']\n"
      "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
      "runpy.run_module('datasets.shift', run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    self.assertEqual(result.returncode, 1)
    self.assertRegex(result.stderr, r"^datasets.shift: .*(File too large).*make room.*\n$")
    self.assertEmpty(list((self.root / "full").iterdir()))

  def test_flags_are_not_defined_on_import(self):
    self.assertNotIn("first_channel", flags.FLAGS)

  def test_help_loads_nothing_heavy(self):
    code = (
      "import sys; from datasets import label_sets, shift; "
      "print(*{'tensorflow_datasets', 'rasterio', 'scipy', 'matplotlib', 'jax'}.intersection(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    self.assertEqual(result.stdout.strip(), "")

  @unittest.skipUnless((DATA / "label_geometry").exists(), "MINEC2F_DATA has no label_geometry/")
  def test_real_coarse_and_fine_labels_differ_as_the_paper_says(self):
    path = DATA / "label_geometry" / "maus_vs_tang_256px_10m.npz"
    maus, tang = (shift.measure(label_sets.open_masks(path, domain="fine", channel=c), title="x") for c in (0, 1))
    content = shift.report(maus, tang, names=("Maus", "Tang"))["shift"]
    self.assertLess(content["roughness"]["first"]["median"], content["roughness"]["second"]["median"] - 0.2)
    self.assertGreater(content["coverage"]["first"]["median"], content["coverage"]["second"]["median"] + 0.05)
    self.assertEqual((content["roughness"]["first"]["n"], content["roughness"]["second"]["n"]), (692, 707))


if __name__ == "__main__":
  absltest.main()
