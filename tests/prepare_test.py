"""Tests of `python -m datasets.prepare`."""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from unittest import mock

import numpy as np
import rasterio
from absl.testing import absltest, parameterized

from datasets import chip_records, hashing, mining_demo, preparation
from minec2f_jax import console
from minec2f_jax.data.tfds_source import TfdsSource
from minec2f_jax.errors import UserError
from tests.chip_folder import write_chip, write_index
from tests.rasters import write_geotiff

ROOT = pathlib.Path(__file__).parents[1]
DATASET = "mining_fine/rgb-128px"


def command(*args, **kwargs):
  return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, **kwargs)


class PrepareTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.manual = self.root / "my mines"
    for seed, name in enumerate("abcdef"):
      write_chip(self.manual, name, bands=3, height=16, width=16, seed=seed)
    self._index("a,train,Tara", "b,train,", "c,train,", "d,train,", "e,validation,", "f,test,")
    self.said = []
    self.enter_context(mock.patch.object(console, "say", self.said.append))
    self.target = preparation.find(DATASET, self.root / "data")

  def _index(self, *lines):
    write_index(self.manual, "id,split,mine", *lines)

  def _prepare(self, target=None, **kwargs):
    return preparation.prepare(target or self.target, self.manual, **kwargs)

  def _hashes(self, path):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(path.iterdir())}


class MakeTest(PrepareTest):
  def test_summary_counts_what_the_records_hold(self):
    summary = self._prepare()
    self.assertEqual(
      summary, {**json.loads((self.target.path / "summary.json").read_text()), "bands": chip_records.RGB}
    )
    self.assertEqual({s: c["images"] for s, c in summary["splits"].items()}, {"train": 4, "validation": 1, "test": 1})
    source = TfdsSource(self.target.path, split="train", roles=("red",), image_size=128)
    mined = np.mean([source[i]["label"].mean() for i in range(4)])
    self.assertAlmostEqual(summary["splits"]["train"]["mine_share"], mined, places=12)
    self.assertEqual(summary["climate_zone"], {"temperate": {"train": 1}})
    self.assertIn("1 of 6 images are of mines on the paper's list", summary["notes"])

  def test_manifest_holds_the_hash_of_every_file(self):
    self._prepare()
    manifest = json.loads((self.target.path / "manifest.json").read_text())
    files = [f for f in self.manual.rglob("*") if f.is_file()]
    self.assertEqual(
      manifest["inputs"],
      {f.relative_to(self.manual).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files},
    )
    outputs = self._hashes(self.target.path)
    del outputs["manifest.json"]
    self.assertEqual(manifest["outputs"], outputs)
    self.assertNotIn(str(self.root), (self.target.path / "manifest.json").read_text())

  def test_another_place_gets_the_same_bytes(self):
    other = preparation.find(DATASET, self.root / "elsewhere")
    self._prepare()
    self._prepare(other)
    self.assertEqual(self._hashes(self.target.path), self._hashes(other.path))

  def test_progress_is_told(self):
    self._prepare()
    for line in ("[check] 6 images", "[hash] 13 files", "[mining_fine train] 4 images"):
      self.assertTrue(any(said.startswith(line) for said in self.said), f"{line}: {self.said}")

  def test_description_ends_with_the_flags_to_train_with(self):
    text = preparation.describe(self.target, self._prepare())
    self.assertEqual(
      text.splitlines()[-1],
      f"--config.data.fine.path={self.target.path} --config.data.bands=\"('red', 'green', 'blue')\" "
      "--config.data.image_size=128",
    )
    self.assertIn("mining_fine/rgb-128px: images of 128 x 128 pixels, red green blue", text)
    self.assertIn("Cerro_Corona is in train", text)
    usual = preparation.find("mining_coarse/full", self.root)
    summary = dict(size=256, patches=False, bands=chip_records.BANDS["rgb_nir_swir"], splits={}, climate_zone={})
    text = preparation.describe(usual, {**summary, "product": {}, "left_out": {"x": "ugly"}, "notes": []})
    self.assertIn("left out, ugly: 1 (x)", text)
    self.assertEqual(text.splitlines()[-1], f"--config.data.coarse.path={usual.path}")

  def test_an_empty_split_is_a_note(self):
    self._index("a,train,", "b,train,", "c,train,", "d,train,", "e,validation,", "f,validation,")
    with mock.patch.object(preparation.folder.splits, "deal_groups", lambda sizes, fixed, missing: {
      name: fixed.get(name, "train") for name in sizes
    }):  # fmt: skip
      self.assertIn("no image is in split test", self._prepare()["notes"])


class BrokenTest(PrepareTest):
  def setUp(self):
    super().setUp()
    (self.manual / "masks" / "b.tif").unlink()
    image = self.manual / "images" / "c.tif"
    write_geotiff(image, np.full((3, 16, 16), 0.5), ("blue", "green", "red"), compress="deflate")
    with rasterio.open(image) as src:
      offset = int(src.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
    with open(image, "r+b") as file:  # Its header stays in order.
      file.seek(offset)
      file.write(b"\xff" * 16)

  def test_all_broken_images_are_named_and_nothing_is_made(self):
    with self.assertRaisesRegex(
      UserError,
      r"(?s)2 of 6 chips cannot be used.*b: .*b.tif: no such file.*c: .*c.tif.*cannot be decoded.*--skip_broken",
    ):
      self._prepare()
    self.assertFalse((self.root / "data").exists())

  def test_they_can_be_left_out_and_are_listed(self):
    summary = self._prepare(skip_broken=True)
    self.assertEqual(summary["splits"]["train"]["images"], 2)
    self.assertEqual(list(summary["left_out"]), ["b", "c"])
    self.assertRegex(summary["left_out"]["c"], "broken: .*cannot be decoded")
    inputs = json.loads((self.target.path / "manifest.json").read_text())["inputs"]
    self.assertIn("images/c.tif", inputs)
    self.assertNotIn("masks/b.tif", inputs)

  def test_an_encoding_nobody_told_is_told_once_with_the_flag(self):
    for name in "abcdef":
      write_geotiff(self.manual / "images" / f"{name}.tif", np.ones((3, 16, 16), np.uint16), chip_records.RGB)
      write_geotiff(self.manual / "masks" / f"{name}.tif", np.ones((1, 16, 16), np.uint8))
    with self.assertRaisesRegex(UserError, r"(?s)6 of 6 chips.*a: .*a.tif: dtype uint16.*and 5 more.*is --sensor here"):
      self._prepare()
    summary = self._prepare(sensor="reflectance_x10000")
    self.assertEqual(summary["splits"]["train"], {"images": 4, "valid_share": 1.0, "mine_share": 1.0})

  def test_nothing_but_broken_images_is_an_error_even_when_skipped(self):
    self._index("b,train,")
    with self.assertRaisesRegex(UserError, "none of 1 images is left .*1 left out: broken"):
      self._prepare(skip_broken=True)

  def test_images_without_the_bands_leave_nothing(self):
    self._index("a,train,")
    with self.assertRaisesRegex(UserError, "none of 1 images is left .*no band nir.*choose another config"):
      self._prepare(preparation.find("mining_fine/rgb_nir", self.root))

  def test_a_folder_of_the_other_domain_is_told(self):
    write_index(self.manual, "id,domain", "a,coarse")
    with self.assertRaisesRegex(UserError, "no row of this domain"):
      self._prepare()


class AgainTest(PrepareTest):
  def test_the_same_folder_is_found_made(self):
    first = self._prepare()
    before = {f.name: f.stat().st_mtime_ns for f in self.target.path.iterdir()}
    self.assertEqual(self._prepare(), {**first, "bands": list(first["bands"])})
    self.assertEqual({f.name: f.stat().st_mtime_ns for f in self.target.path.iterdir()}, before)
    self.assertIn("mining_fine/rgb-128px is there already, made from these very files: 13, none has changed", self.said)

  def test_changed_gone_and_new_files_are_named(self):
    self._prepare()
    self._index("a,train,Tara", "b,train,", "c,train,", "d,train,", "e,validation,", "g,test,")
    write_chip(self.manual, "a", bands=3, height=16, width=16, seed=99)
    write_chip(self.manual, "g", bands=3, height=16, width=16, seed=6)
    with self.assertRaisesRegex(
      UserError,
      r"(?s)other files.*images/f.tif: gone.*masks/f.tif: gone.*images/g.tif: new.*images/a.tif: changed.*index.csv: "
      r"changed.*another --data_dir, or delete",
    ):
      self._prepare()

  def test_another_setting_is_refused_with_both_values(self):
    self._prepare()
    with self.assertRaisesRegex(UserError, "made with sensor='auto', not 'reflectance'; give another --data_dir"):
      self._prepare(sensor="reflectance")

  def test_a_dataset_that_tells_nothing_of_its_making_is_refused(self):
    self._prepare()
    (self.target.path / "manifest.json").unlink()
    with self.assertRaisesRegex(UserError, "manifest.json cannot be read.*nobody knows"):
      self._prepare()
    (self.target.path / "dataset_info.json").unlink()
    with self.assertRaisesRegex(UserError, "no complete dataset: delete that folder"):
      self._prepare()

  def test_verify_finds_what_has_changed(self):
    with self.assertRaisesRegex(UserError, "nothing is prepared there"):
      preparation.verify(self.target)
    self._prepare()
    preparation.verify(self.target)
    self.assertIn("mining_fine/rgb-128px: all 7 files are as they were written", self.said)
    records = next(self.target.path.glob("*train*"))
    damaged = bytearray(records.read_bytes())
    damaged[1000] ^= 1
    records.write_bytes(damaged)
    (self.target.path / "features.json").rename(self.target.path / "features.old")
    with self.assertRaisesRegex(
      UserError, r"(?s)damaged:.*features.json: gone.*features.old: new.*train.array_record.*: changed"
    ):
      preparation.verify(self.target)


class DifferencesTest(absltest.TestCase):
  def test_of_many_the_first_are_shown_and_the_rest_is_counted(self):
    before, now = {f"f{i}": "x" for i in range(9)}, {"f8": "y", "new": "z"}
    self.assertEqual(hashing.differences(before, now, limit=2), "\n  f0: gone\n  f1: gone\n  ... and 8 more")
    self.assertEqual(hashing.differences(now, dict(now)), "")


class InterruptedTest(PrepareTest):
  def test_an_error_halfway_leaves_nothing(self):
    with mock.patch.object(chip_records, "_record", side_effect=KeyboardInterrupt):
      with self.assertRaises(KeyboardInterrupt):
        self._prepare()
    self.assertEmpty(list(self.target.path.parent.iterdir()))

  def test_after_a_kill_the_next_call_starts_afresh(self):
    code = (
      "import os, signal; from datasets import chip_records, preparation\n"
      "records, seen = chip_records.records, []\n"
      "def kill(*args):\n"
      "  seen.append(0) if len(seen) < 2 else os.kill(os.getpid(), signal.SIGKILL)\n"
      "  return records(*args)\n"
      "chip_records.records = kill\n"
      f"preparation.prepare(preparation.find({DATASET!r}, {str(self.root / 'data')!r}), {str(self.manual)!r})\n"
    )
    self.assertEqual(command("-c", code).returncode, -signal.SIGKILL)
    self.assertFalse(self.target.path.exists())
    self._prepare()
    self.assertTrue(any(said.startswith("left by calls that were killed") for said in self.said))
    other = preparation.find(DATASET, self.root / "elsewhere")
    self._prepare(other)
    self.assertEqual(self._hashes(self.target.path), self._hashes(other.path))

  def test_of_two_calls_the_second_uses_what_the_first_one_made(self):
    records = chip_records.records

    def overtaken(*args):
      with mock.patch.object(chip_records, "records", records):
        if not self.target.path.exists():
          self._prepare()
      return records(*args)

    with mock.patch.object(chip_records, "records", overtaken):
      self.assertEqual(self._prepare()["splits"]["train"]["images"], 4)
    self.assertTrue(any("finished by another call" in said for said in self.said))
    self.assertEqual([f.name for f in self.target.path.parent.iterdir()], ["1.0.0"])


class CommandTest(PrepareTest):
  def test_the_command_makes_a_dataset_without_tensorflow(self):
    args = [f"--dataset={DATASET}", f"--manual_dir={self.manual}", f"--data_dir={self.root}"]
    code = (
      f"import atexit, runpy, sys; sys.argv[1:] = {args!r}\n"
      "atexit.register(lambda: print('tensorflow' in sys.modules))\n"
      "runpy.run_module('datasets.prepare', run_name='__main__')"
    )
    result = command("-c", code)
    *_, flags, tensorflow = result.stdout.splitlines()
    self.assertEqual((result.returncode, result.stderr, tensorflow), (0, "", "False"))
    path = self.root / "mining_fine" / "rgb-128px" / "1.0.0"
    self.assertStartsWith(flags, f"--config.data.fine.path={path}")
    self.assertLen(TfdsSource(path, split="train", roles=("red",), image_size=128), 4)

  def test_a_mistake_is_one_line_and_status_1(self):
    result = command("-m", "datasets.prepare", "--dataset=mining_fin", f"--manual_dir={self.manual}")
    self.assertEqual((result.returncode, result.stdout), (1, ""))
    self.assertEqual(
      result.stderr,
      "datasets.prepare: --dataset=mining_fin: there is no 'mining_fin'; choose one of mining_fine, mining_coarse or "
      "mining_demo\n",
    )

  def test_help_loads_nothing_heavy(self):
    code = "import sys; import datasets.prepare; print({'tensorflow_datasets', 'numpy', 'rasterio'} & set(sys.modules))"
    self.assertEqual(command("-c", code).stdout.strip(), "set()")

  @parameterized.parameters(
    (["--dataset=mining_fine/rgbb", "--manual_dir=x"], "no config 'rgbb'; choose one of rgb_nir_swir, .*rgb-128px"),
    (["--dataset=mining_fine"], "--manual_dir is not set.*mining_fine/README.md"),
    (["--dataset=mining_fine", "--manual_dir=/nowhere"], "/nowhere/index.csv: no such file"),
    (["--dataset=mining_fine", "--manual_dir=x", "--sensor=spot"], "--sensor=spot is unknown; .*landsat_c2_l2"),
    (["--dataset=mining_demo/fine"], "mining_demo is made from nothing"),
    (["--dataset=mining_demo", "--verify"], "mining_demo is made from nothing"),
  )
  def test_mistakes_are_named(self, args, message):
    with self.assertRaisesRegex(SystemExit, f"datasets.prepare: .*{message}"):
      self._main(*args, f"--data_dir={self.root}")

  def test_the_demo_is_made_by_its_own_command(self):
    with mock.patch.object(mining_demo, "prepare", lambda path: {"coarse": f"{path}/c", "fine": f"{path}/f"}):
      self._main("--dataset=mining_demo", "--data_dir=here")
    self.assertEqual(self.said[-1], "--config.data.coarse.path=here/c --config.data.fine.path=here/f")

  def test_verify_alone_needs_no_folder(self):
    self._prepare()
    self._main(f"--dataset={DATASET}", f"--data_dir={self.root / 'data'}", "--verify")
    self.assertTrue(any("as they were written" in said for said in self.said))
    self.assertStartsWith(self.said[-1].splitlines()[-1], f"--config.data.fine.path={self.target.path}")

  def test_a_place_that_cannot_be_written_is_one_line(self):
    (self.root / "file").write_text("")
    with self.assertRaisesRegex(SystemExit, "cannot be read or written: .*choose another --data_dir"):
      self._main(f"--dataset={DATASET}", f"--manual_dir={self.manual}", f"--data_dir={self.root / 'file'}")

  def _main(self, *args):
    from absl import flags

    from datasets import prepare

    names = ("dataset", "manual_dir", "data_dir", "sensor", "skip_broken", "verify")
    saved = {name: (flags.FLAGS[name].value, flags.FLAGS[name].present) for name in names}
    try:
      flags.FLAGS([os.path.basename(__file__), *args])
      prepare.main(["datasets.prepare"])
    finally:
      for name, (value, present) in saved.items():
        flags.FLAGS[name].value, flags.FLAGS[name].present = value, present


if __name__ == "__main__":
  absltest.main()
