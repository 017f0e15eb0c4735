"""Tests of minec2f_jax.data.chip_set: what stands in the folder beside the chips."""

import csv
import hashlib
import json
import pathlib
import tempfile

from absl.testing import absltest, parameterized

from minec2f_jax.data import chip_set, chips


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
    with self.assertRaisesRegex(
      chip_set.ChipSetError,
      r"one: holds chips made with other settings: gsd_m \(10.0 there, 20.0 now\), new \(None there",
    ):
      chip_set.claim(self.output, {"gsd_m": 20.0, "seed": 1, "layer": None, "new": 3})
    self.assertEqual(json.loads((self.output / "settings.json").read_text())["gsd_m"], 10.0)

  def test_a_folder_of_somebody_else_is_refused(self):
    self.output.mkdir(parents=True)
    chip_set.claim(self.output, {})  # An empty one is as good as none.
    (self.output / "settings.json").unlink()
    (self.output / "index.csv").write_text("id\n")
    with self.assertRaisesRegex(chip_set.ChipSetError, "one: holds files but no settings.json.*empty --output"):
      chip_set.claim(self.output, {})
    (self.output / "settings.json").write_text("{")
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
    text = chip_set.manifest(self.output, outcomes, {"file": "p.gpkg"})
    self.assertFalse(chip_set.is_whole(self.output, text))
    chip_set.write_manifest(self.output, text)
    self.assertTrue(chip_set.is_whole(self.output, text))
    content = json.loads(text)
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
