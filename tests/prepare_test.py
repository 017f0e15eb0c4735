"""Tests of `python -m datasets.prepare`."""

import ast
import hashlib
import io
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import tempfile
from unittest import mock

import numpy as np
import rasterio
from absl import flags
from absl.testing import absltest, parameterized

from datasets import chip_records, hashing, mining_demo, preparation, prepare
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
      f'--config.data.fine.path={self.target.path} \'--config.data.bands=("red", "green", "blue")\' '
      "--config.data.image_size=128",
    )
    bands = shlex.split(text.splitlines()[-1])[1].partition("=")[2]
    self.assertEqual(ast.literal_eval(bands), chip_records.RGB)  # As launch.py reads it.
    self.assertIn("mining_fine/rgb-128px: images of 128 x 128 pixels, red green blue", text)
    self.assertIn("Cerro_Corona is in train", text)
    usual = preparation.find("mining_coarse/full", self.root)
    summary = dict(size=256, patches=False, bands=chip_records.BANDS["rgb_nir_swir"], splits={}, climate_zone={})
    text = preparation.describe(usual, {**summary, "product": {}, "left_out": {"x": "ugly"}, "notes": []})
    self.assertIn("left out, ugly: 1 (x)", text)
    self.assertEqual(text.splitlines()[-1], f"--config.data.coarse.path={usual.path}")
    spaced = preparation.find("mining_coarse/full", self.root / "it's here")
    text = preparation.describe(spaced, {**summary, "product": {}, "left_out": {}, "notes": []})
    self.assertEqual(shlex.split(text.splitlines()[-1]), [f"--config.data.coarse.path={spaced.path}"])

  def test_images_without_valid_pixels_or_mine_are_noted(self):
    nothing = np.zeros((1, 16, 16), np.uint8)
    write_geotiff(self.manual / "masks" / "b.tif", nothing)
    write_geotiff(self.manual / "masks" / "f.tif", nothing)
    write_geotiff(self.manual / "masks" / "c.tif", nothing + 255, nodata=255)
    summary = self._prepare()
    self.assertEqual(summary["notes"][-2:], ["images without any valid pixel: 1 (c)", "images without any mine: 2"])
    self.assertEqual(summary["without_valid_pixel"], ["c"])
    patches = self._prepare(preparation.find("mining_fine/rgb-128px-patches", self.root))
    self.assertIn("patches without any valid pixel: 1 (c_r00c00)", patches["notes"])

  def test_a_sound_folder_has_no_such_notes(self):
    self.assertNotRegex(" ".join(self._prepare()["notes"]), "without any")

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
    self.assertRegex(summary["left_out"]["c"], "^broken: images/c.tif, .*cannot be decoded")
    self.assertEqual(summary["left_out"]["b"], "broken: masks/b.tif: no such file; check the path")
    self.assertNotIn(str(self.root), (self.target.path / "summary.json").read_text())
    self.assertIn("  left out, broken: 2 (b, c)\n", preparation.describe(self.target, summary))
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
    with self.assertRaisesRegex(UserError, r"none of 1 images is left .1 left out: broken.; correct them"):
      self._prepare(skip_broken=True)

  def test_messages_of_the_folder_we_are_in_stay_as_they_are(self):
    inside = preparation._inside
    self.assertEqual(inside(pathlib.Path("a/b"), "a/b/images/x.tif: bad a/b/c"), "images/x.tif: bad c")
    self.assertEqual(inside(pathlib.Path("."), "images/x.tif: ../y"), "images/x.tif: ../y")

  def test_images_without_the_bands_leave_nothing(self):
    self._index("a,train,")
    with self.assertRaisesRegex(
      UserError, "none of 1 images is left .*no band nir.*--dataset=mining_fine/rgb would keep 1$"
    ):
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

  @parameterized.parameters("images/a.tif.msk", "images/a.tif.aux.xml", "masks/b.tif.msk", "masks/b.tif.aux.xml")
  def test_sidecars_count_as_input(self, name):
    sidecar = self.manual / name
    self._prepare()
    sidecar.write_text("<PAMDataset></PAMDataset>")
    with self.assertRaisesRegex(UserError, f"(?s)other files.*{name}: new"):
      self._prepare()
    mask = (self.manual / "masks" / "a.tif").read_bytes()
    sidecar.write_bytes(mask if name.endswith("msk") else b"<PAMDataset/>")
    other = preparation.find(DATASET, self.root / "elsewhere")
    self._prepare(other)
    self.assertIn(name, json.loads((other.path / "manifest.json").read_text())["inputs"])
    sidecar.write_bytes(sidecar.read_bytes() + b" ")
    with self.assertRaisesRegex(UserError, f"(?s)other files.*{name}: changed"):
      self._prepare(other)

  def test_images_of_the_other_domain_are_no_input(self):
    write_index(self.manual, "id,domain,split", "a,fine,train", "b,fine,train", "c,coarse,train", "d,coarse,test")
    self._prepare()
    inputs = json.loads((self.target.path / "manifest.json").read_text())["inputs"]
    self.assertCountEqual(
      inputs, ["index.csv", *(f"{kind}/{name}.tif" for kind in ("images", "masks") for name in "ab")]
    )
    write_chip(self.manual, "c", bands=3, height=16, width=16, seed=99)
    self._prepare()
    self.assertTrue(any("none has changed" in said for said in self.said))

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
    self.assertEqual([f.name for f in self.target.path.parent.iterdir()], [".lock"])

  def test_a_full_disk_is_one_line_and_leaves_nothing(self):
    args = [f"--dataset={DATASET}", f"--manual_dir={self.manual}", f"--data_dir={self.root / 'data'}"]
    for limit in (500, 50_000):  # Of the size of a file: the small ones fail, or the records.
      code = (
        f"import resource, runpy, signal, sys; sys.argv[1:] = {args!r}\n"
        f"signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, ({limit},) * 2)\n"
        "runpy.run_module('datasets.prepare', run_name='__main__')"
      )
      result = command("-c", code)
      self.assertEqual(result.returncode, 1)
      self.assertRegex(result.stderr, r"^datasets.prepare: .*cannot be written \(.*File too large.*make room.*\n$")
      self.assertEqual([f.name for f in self.target.path.parent.iterdir()], [".lock"])
    self._prepare()

  def test_records_that_fail_for_want_of_room_are_told_by_what_tfds_says(self):
    with mock.patch.object(self.target.builder, "download_and_prepare", side_effect=RuntimeError("no\nroom")):
      with self.assertRaisesRegex(UserError, r"1.0.0: cannot be written \(no room\); make room, or choose another"):
        self._prepare()

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
    self.assertTrue(any(said.endswith("left by a call that was killed; removed") for said in self.said))
    self.assertCountEqual([f.name for f in self.target.path.parent.iterdir()], [".lock", "1.0.0"])
    other = preparation.find(DATASET, self.root / "elsewhere")
    self._prepare(other)
    self.assertEqual(self._hashes(self.target.path), self._hashes(other.path))

  def test_a_second_call_is_refused_while_the_first_is_at_work(self):
    records, refused = chip_records.records, []

    def disturbed(*args):
      with self.assertRaisesRegex(UserError, f"process {os.getpid()} is at work there"):
        self._prepare()
      refused.append(True)
      return records(*args)

    with mock.patch.object(chip_records, "records", disturbed):
      self.assertEqual(self._prepare()["splits"]["train"]["images"], 4)
    self.assertLen(refused, 6)
    self.assertCountEqual([f.name for f in self.target.path.parent.iterdir()], [".lock", "1.0.0"])

  def test_a_call_that_was_overtaken_uses_what_the_other_one_made(self):
    hash_inputs, made = preparation._hash_inputs, []

    def overtaken(*args):
      with mock.patch.object(preparation, "_hash_inputs", hash_inputs):
        if not made:
          made.append(self._prepare())
      return hash_inputs(*args)

    with mock.patch.object(preparation, "_hash_inputs", overtaken):
      self.assertEqual(self._prepare()["splits"], made[0]["splits"])
    self.assertTrue(any("finished by another call" in said for said in self.said))


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

  def test_an_interruption_is_one_line(self):
    with mock.patch.object(preparation, "prepare", side_effect=KeyboardInterrupt):
      with mock.patch.object(sys, "stderr", io.StringIO()) as told, self.assertRaises(SystemExit) as stopped:
        self._main(f"--dataset={DATASET}", f"--manual_dir={self.manual}")
    self.assertEqual(stopped.exception.code, 130)
    self.assertRegex(told.getvalue(), r"^\ndatasets.prepare: interrupted; .*\n$")

  def test_flags_are_not_defined_on_import(self):
    self.assertNotIn("skip_broken", flags.FLAGS)

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
    with mock.patch.object(mining_demo, "prepare", lambda path: {"fine": f"{path}/f"}):
      self._main("--dataset=mining_demo", "--data_dir=over there")
    self.assertEqual(shlex.split(self.said[-1]), ["--config.data.fine.path=over there/f"])

  def test_verify_alone_needs_no_folder(self):
    self._prepare()
    self._main(f"--dataset={DATASET}", f"--data_dir={self.root / 'data'}", "--verify")
    self.assertTrue(any("as they were written" in said for said in self.said))
    self.assertStartsWith(self.said[-1].splitlines()[-1], f"--config.data.fine.path={self.target.path}")

  def test_a_place_that_cannot_be_written_is_one_line(self):
    (self.root / "file").write_text("")
    with self.assertRaisesRegex(SystemExit, "cannot be read or written: .*choose another folder"):
      self._main(f"--dataset={DATASET}", f"--manual_dir={self.manual}", f"--data_dir={self.root / 'file'}")

  def _main(self, *args):
    prepare.define_flags(flags.FLAGS)
    try:
      flags.FLAGS(["datasets.prepare", *args])
      prepare.main(["datasets.prepare"])
    finally:
      for name in ("dataset", "manual_dir", "data_dir", "sensor", "skip_broken", "verify"):
        delattr(flags.FLAGS, name)


if __name__ == "__main__":
  absltest.main()
