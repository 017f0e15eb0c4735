"""Tests of minec2f_jax.data.chip_set: what stands in the folder beside the chips."""

import contextlib
import csv
import hashlib
import json
import os
import pathlib
import tempfile

from absl.testing import absltest, parameterized

from minec2f_jax.data import chip_note, chip_set, chips
from minec2f_jax.errors import UserError


def made(name, split="train", **row):
  row = {"id": name, "split": split, "domain": "coarse", "area_km2": "1.5", **row}
  return chips.Outcome(name, row, {f"images/{name}.tif": "a1", f"masks/{name}.tif": "b2"})


def refused(name, *reasons):
  return chips.Outcome(name, {"id": name, "lon": "1", "lat": "2", "area_km2": "3"}, reasons=reasons)


class ChipSetTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = tempfile.TemporaryDirectory()
    self.addCleanup(directory.cleanup)
    self.output = pathlib.Path(directory.name) / "sets" / "one"

  def _rows(self, name):
    with open(self.output / name, newline="", encoding="utf-8") as file:
      return list(csv.DictReader(file))

  def test_the_same_settings_go_on(self):
    for _ in range(2):
      chip_set.claim(self.output, {"gsd_m": 10.0, "bands": ("red", "nir")})
    self.assertEqual(json.loads((self.output / "settings.json").read_text()), {"gsd_m": 10.0, "bands": ["red", "nir"]})
    self.assertTrue((self.output / "images").is_dir() and (self.output / "masks").is_dir())

  def test_other_settings_are_refused_with_both_values(self):
    chip_set.claim(self.output, {"gsd_m": 10.0, "seed": 1, "layer": None})
    (self.output / "images" / "a.tif").touch()
    with self.assertRaisesRegex(
      chip_set.ChipSetError,
      r"one: holds chips made with other settings: gsd_m \(10.0 there, 20.0 now\), new \(None there",
    ):
      chip_set.claim(self.output, {"gsd_m": 20.0, "seed": 1, "layer": None, "new": 3})
    self.assertEqual(json.loads((self.output / "settings.json").read_text())["gsd_m"], 10.0)

  def test_settings_may_change_while_there_is_no_chip(self):
    chip_set.claim(self.output, {"max_cloud": 0.0})
    (self.output / chip_note.MANIFEST).write_text("{}")
    chip_set.claim(self.output, {"max_cloud": 0.2})
    self.assertEqual(json.loads((self.output / "settings.json").read_text()), {"max_cloud": 0.2})
    self.assertFalse((self.output / chip_note.MANIFEST).exists())

  def test_a_set_is_held_by_one_run(self):
    with chip_set.held(self.output) as output:
      self.assertEqual(output, self.output)
      with self.assertRaisesRegex(UserError, rf"one: process {os.getpid()} is at work there"), chip_set.held(output):
        self.fail("held twice")
      chip_set.claim(output, {})  # The lock is no file of somebody else.
    with chip_set.held(self.output):
      pass
    self.assertTrue((self.output / "settings.json").exists())

  def test_what_ends_before_it_began_leaves_no_folder(self):
    with contextlib.suppress(ZeroDivisionError), chip_set.held(self.output):
      raise ZeroDivisionError
    self.assertFalse(self.output.exists())
    self.output.mkdir()
    for _ in range(2):
      with chip_set.held(self.output):
        pass
    self.assertTrue(self.output.exists())  # It was somebody's.

  def test_nothing_is_touched_in_a_folder_of_somebody_else(self):
    self.output.mkdir(parents=True)
    (self.output / ".download.partial").write_text("theirs")
    with self.assertRaisesRegex(chip_set.ChipSetError, "holds files but no settings.json"), chip_set.held(self.output):
      self.fail("held")
    self.assertEqual([path.name for path in self.output.iterdir()], [".download.partial"])
    path = self.output / ".download.partial"
    with self.assertRaisesRegex(chip_set.ChipSetError, "partial: is a file"), chip_set.held(path):
      self.fail("held")

  def test_a_folder_of_somebody_else_is_refused(self):
    self.output.mkdir(parents=True)
    chip_set.claim(self.output, {})  # An empty one is as good as none.
    (self.output / "settings.json").unlink()
    (self.output / "index.csv").write_text("id\n")
    with self.assertRaisesRegex(chip_set.ChipSetError, "one: holds files but no settings.json.*empty --output"):
      chip_set.claim(self.output, {})
    for content in ("{", "[]", "7", "\udcff".encode("utf-8", "surrogateescape")):
      content = content.encode() if isinstance(content, str) else content
      (self.output / "settings.json").write_bytes(content)
      with self.assertRaisesRegex(chip_set.ChipSetError, "settings.json: not readable"):
        chip_set.claim(self.output, {})

  def test_rows_are_sorted_and_reasons_of_all_scenes_are_told(self):
    chip_set.claim(self.output, {})
    why = (("s1", "cloudy: 34 % (SCL) > 20 %"), ("s2", "corrupt: x.tif, band 1: a, b; c"))
    outcomes = [made("c"), refused("b", *why), made("a", country="Côte d'Ivoire"), refused("d", ("", "no imagery"))]
    chip_set.write_index(self.output, outcomes)
    index = self._rows("index.csv")
    self.assertEqual([(row["id"], row["country"]) for row in index], [("a", "Côte d'Ivoire"), ("c", "")])
    self.assertEqual(tuple(index[0]), chip_set.INDEX_COLUMNS)
    self.assertEqual(
      [(row["id"], row["reason"], row["lon"]) for row in self._rows("quarantine.csv")],
      [("b", "s1: cloudy: 34 % (SCL) > 20 % | s2: corrupt: x.tif, band 1: a, b; c", "1"), ("d", "no imagery", "1")],
    )

  def test_a_chip_that_is_in_quarantine_now_is_taken_away(self):
    chip_set.claim(self.output, {})
    for folder in ("images", "masks"):
      for name in "ab":
        (self.output / folder / f"{name}.tif").write_text("x")
    chip_set.write_index(self.output, [made("a"), refused("b", ("", "too near: c"))])
    left = sorted(path.relative_to(self.output).as_posix() for path in self.output.rglob("*.tif"))
    self.assertEqual(left, ["images/a.tif", "masks/a.tif"])

  def test_other_rows_take_the_manifest_away(self):
    chip_set.claim(self.output, {})
    for outcomes, stays in (([made("a")], True), ([made("a"), refused("b", ("", "no imagery"))], False)):
      chip_set.write_index(self.output, [made("a")])
      chip_set.write_manifest(self.output, {})
      chip_set.write_index(self.output, outcomes)
      self.assertEqual((self.output / chip_note.MANIFEST).exists(), stays)

  def test_writing_the_same_again_touches_nothing(self):
    outcomes = [made("a"), refused("b", ("", "no imagery"))]
    dates = []
    for _ in range(2):
      chip_set.claim(self.output, {"seed": 1})
      chip_set.write_index(self.output, outcomes)
      chip_set.write_manifest(self.output, chip_set.manifest(self.output, outcomes, {}))
      dates.append({path.name: path.stat().st_mtime_ns for path in self.output.iterdir() if path.is_file()})
    self.assertEqual(dates[0], dates[1])
    self.assertLen(dates[0], 4)

  def test_the_manifest_names_every_file_and_counts(self):
    outcomes = [made("b", "test"), made("a"), refused("c", ("", "no imagery"))]
    chip_set.claim(self.output, {"seed": 1})
    chip_set.write_index(self.output, outcomes)
    content = chip_set.manifest(self.output, outcomes, {"file": "p.gpkg"})
    self.assertFalse(chip_set.is_whole(self.output, content))
    chip_set.write_manifest(self.output, content)
    self.assertTrue(chip_set.is_whole(self.output, content))
    self.assertEqual(json.loads((self.output / chip_note.MANIFEST).read_text()), content)
    self.assertEqual(content["counts"], {"chips": {"train": 1, "validation": 0, "test": 1}, "quarantine": 1})
    self.assertEqual((content["settings"], content["polygons"]), ({"seed": 1}, {"file": "p.gpkg"}))
    own = {n: hashlib.sha256((self.output / n).read_bytes()).hexdigest() for n in ("index.csv", "quarantine.csv")}
    self.assertEqual({n: content["sha256"][n] for n in own}, own)
    self.assertEqual({n: h for n, h in content["sha256"].items() if "a.tif" in n}, outcomes[1].hashes)

  def test_a_folder_has_a_hash_that_follows_its_files(self):
    (self.output / "deep").mkdir(parents=True)
    seen = set()
    for name, content in (("a", "1"), ("deep/b", "1"), ("a", "2")):
      (self.output / name).write_text(content)
      seen.add(chip_set.sha256(self.output))
    self.assertLen(seen, 3)
    self.assertEqual(chip_set.sha256(self.output / "a"), hashlib.sha256(b"2").hexdigest())


if __name__ == "__main__":
  absltest.main()
