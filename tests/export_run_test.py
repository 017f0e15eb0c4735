"""Tests of exporting a run: what is written, that it is whole or not there, and what is refused."""

import json
import pathlib
import tempfile
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized
from ml_collections import ConfigDict

from minec2f_jax import console, experiment, files
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import exporter, noted
from minec2f_jax.export import weights
from tests.toy_folder import run_config, write_folder

FILES = ("README.md", "item.json", "model.json", "model.safetensors", "model.stablehlo", "report.json")


class ExportRunTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.workdir, cls.output = cls.root / "run", cls.root / "new" / "out"
    write_folder(cls.root / "mines")
    config = run_config(cls.root / "mines")
    config.stages, config.data.coarse.coarsen_gsd_m = ("coarse",), 0.0
    experiment.train(config, cls.workdir)
    cls.before = {path: files.sha256(path) for path in sorted(cls.workdir.rglob("*")) if path.is_file()}
    with mock.patch.object(console, "say") as say:
      cls.report = exporter.export(None, cls.workdir, cls.output)
    cls.said = say.call_args_list[-1].args[0]

  def test_the_folder_holds_all_files_and_the_report_their_hashes_and_parity(self):
    self.assertEqual(sorted(path.name for path in self.output.iterdir()), sorted(FILES))
    self.assertEqual([path.name for path in self.output.parent.iterdir()], ["out"])
    report = json.loads((self.output / "report.json").read_text())
    self.assertEqual(report, self.report)
    self.assertEqual(report["files"], {name: files.sha256(self.output / name) for name in FILES[:-1]})
    self.assertEqual((report["stage"], report["sizes"], report["platforms"]), ("coarse", "any", ["cpu", "cuda"]))
    for name, most in (("model.safetensors", 0.0), ("model.stablehlo", 1e-6)):
      self.assertEqual(list(report["parity"][name]), ["random", "real-like", "gaps"])
      for found in report["parity"][name].values():
        self.assertLessEqual(found["largest"], most)
        self.assertEqual(found["masks_agree"], 1.0)
    self.assertIn(str(self.output), self.said)

  def test_facts_are_those_of_the_run_and_name_no_place_of_this_machine(self):
    facts = json.loads((self.output / "model.json").read_text())
    results = json.loads((self.workdir / "results.json").read_text())["rows"]
    self.assertEqual(facts["scores"], [{name: row[name] for name in ("tested_on", "scores")} for row in results])
    self.assertEqual((facts["data"], facts["images"]["fine test"], facts["gsd_m"]), ("mines", 1, None))
    self.assertEqual(facts["model_sha256"], self.report["model_sha256"])
    for name in FILES:
      self.assertNotIn(str(self.root).encode(), (self.output / name).read_bytes(), name)
    self.assertIn("| coarse test (1) |", (self.output / "README.md").read_text())

  def test_the_run_is_left_as_it_was_and_a_second_export_is_the_same(self):
    config = noted.get_config(self.workdir)
    config.data.gsd_m, config.data.fine.path = 5.0, "another"
    exporter.export(config, self.workdir, self.root / "second")
    for name in ("model.stablehlo", "model.safetensors"):
      self.assertEqual((self.root / "second" / name).read_bytes(), (self.output / name).read_bytes())
    facts = json.loads((self.root / "second" / "model.json").read_text())
    self.assertEqual((facts["gsd_m"], facts["data"]), (5.0, "mines"))
    after = {path: files.sha256(path) for path in sorted(self.workdir.rglob("*")) if path.is_file()}
    self.assertEqual(after, self.before)

  def test_a_file_that_is_not_right_leaves_nothing(self):
    def other(variables):
      changed = jax.tree.map(np.copy, variables)
      changed.trainable["head"]["kernel"][0, 0, 0, 0] += 1e-6
      return whole(changed)

    whole, output = weights.to_bytes, self.root / "refused" / "out"
    with mock.patch.object(weights, "to_bytes", other):
      with self.assertRaisesRegex(UserError, "model.safetensors does not hold the run's weights"):
        exporter.export(None, self.workdir, output)
    self.assertEqual(list(output.parent.iterdir()), [])

  @parameterized.parameters(("cpu", "abacus"), ("cuda",))
  def test_platforms_that_are_not_known_or_lack_the_one_of_the_gate_are_refused(self, *platforms):
    with self.assertRaisesRegex(UserError, f"'{platforms[-1]}'.*take some of .*with 'cpu'"):
      exporter.export(None, self.workdir, self.root / "abacus", platforms=platforms)
    self.assertFalse((self.root / "abacus").exists())

  def test_a_folder_that_holds_something_and_a_file_are_refused(self):
    (self.root / "file").write_text("")
    for output in (self.output, self.root / "file"):
      with self.assertRaisesRegex(UserError, "holds something already: give a new folder"):
        exporter.export(None, self.workdir, output)

  def test_a_folder_that_cannot_be_made_is_a_users_error(self):
    (self.root / "plain").write_text("")
    with self.assertRaisesRegex(UserError, "cannot be written .* give another folder"):
      exporter.export(None, self.workdir, self.root / "plain" / "out")

  def test_no_run_and_a_run_without_checkpoints_are_refused(self):
    with self.assertRaisesRegex(UserError, "there is no run"):
      exporter.export(None, self.root / "nowhere", self.root / "x")
    empty = self.root / "empty"
    empty.mkdir()
    (empty / "config.json").write_bytes((self.workdir / "config.json").read_bytes())
    with self.assertRaisesRegex(UserError, "holds no checkpoint of the stage 'coarse'"):
      exporter.export(None, empty, self.root / "x")
    self.assertFalse((self.root / "x").exists())

  def test_a_config_that_cannot_be_is_refused_as_ever(self):
    for config in (ConfigDict({"rows": ()}), ConfigDict({**noted.get_config(self.workdir), "data": "mines"})):
      with self.assertRaisesRegex(UserError, "suite|config.data"):
        exporter.export(config, self.workdir, self.root / "x")

  def test_without_safetensors_it_says_how_to_get_it(self):
    with mock.patch.dict("sys.modules", {"safetensors": None}):
      with self.assertRaisesRegex(UserError, r"pip install 'minec2f_jax\[export\]'"):
        weights.to_bytes(exporter.Variables({}, {}, {}))


if __name__ == "__main__":
  absltest.main()
