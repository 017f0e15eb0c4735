"""Tests of the ONNX converter; of conversion itself where MINEC2F_ONNX_PYTHON names the python of docs/export.md."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax import files
from minec2f_jax.errors import UserError
from minec2f_jax.export import to_onnx, weights
from tests import export_case

ROOT = pathlib.Path(__file__).resolve().parent.parent
ONNX_PYTHON = os.environ.get("MINEC2F_ONNX_PYTHON", "")
LOOK = """
import json, sys, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
shapes = [[x.name, x.shape] for x in (*session.get_inputs(), *session.get_outputs())]
print(json.dumps([shapes, session.get_modelmeta().custom_metadata_map]))
"""


def _convert(folder, python=sys.executable):
  return subprocess.run(
    [python, "-m", "minec2f_jax.export.to_onnx", str(folder)], cwd=ROOT, capture_output=True, text=True
  )


class ToOnnxTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.whole = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory())) / "whole"
    cls.config = export_case.make_config()
    cls.model = export_case.make_model(cls.config)
    export_case.write_export(cls.whole, cls.config, cls.model)

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "export"
    shutil.copytree(self.whole, self.folder)

  def _change_a_weight(self):
    variables = weights.read(self.folder / "model.safetensors")
    variables.trainable["head"]["bias"] += np.float32(0.01)
    (self.folder / "model.safetensors").write_bytes(weights.to_bytes(variables))

  def _note_hash(self):
    report = json.loads((self.folder / "report.json").read_text())
    report["files"]["model.safetensors"] = files.sha256(self.folder / "model.safetensors")
    files.write_json(self.folder / "report.json", report)

  def test_a_folder_without_an_export_and_one_that_was_changed_are_refused(self):
    with self.assertRaisesRegex(UserError, "is not what an export leaves"):
      to_onnx.convert(self.folder.parent)
    (self.folder / "report.json").write_text("[]")
    with self.assertRaisesRegex(UserError, "is not what an export leaves"):
      to_onnx.convert(self.folder)
    shutil.copy(self.whole / "report.json", self.folder)
    self._change_a_weight()
    (self.folder / "model.json").write_text("{}")
    with self.assertRaisesRegex(UserError, "model.json, model.safetensors changed since the export"):
      to_onnx.convert(self.folder)

  def test_without_jax2onnx_it_says_where_to_read_on(self):
    with mock.patch.dict("sys.modules", {"jax2onnx": None}):
      with self.assertRaisesRegex(UserError, "docs/export.md"):
        to_onnx.convert(self.folder)

  def test_the_command_says_an_error_in_one_line(self):
    found = _convert(self.folder.parent)
    self.assertEqual(found.returncode, 1)
    self.assertRegex(found.stderr, r"\Ato_onnx: .*is not what an export leaves.*\n\Z")

  def test_the_function_takes_and_gives_channels_first(self):
    facts = json.loads((self.folder / "model.json").read_text())
    function = jax.jit(to_onnx._function(self.folder, facts))
    image = np.random.default_rng(0).normal(0.2, 0.1, (2, 32, 32, 6)).astype(np.float32)
    logits = self.model.wired.predict(self.model.variables, {"image": image, "valid": np.ones((2, 32, 32), bool)})
    found = np.asarray(function(image.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(found[:, 0], 1 / (1 + np.exp(-np.asarray(logits))), rtol=0, atol=1e-5)

  @unittest.skipUnless(ONNX_PYTHON, "MINEC2F_ONNX_PYTHON is not set")
  def test_model_onnx_passes_the_gate_and_tells_qgis_what_it_is(self):
    found = _convert(self.folder, ONNX_PYTHON)
    self.assertEqual(found.returncode, 0, found.stderr)
    report = json.loads((self.folder / "report.json").read_text())
    for one in report["parity"]["model.onnx"].values():
      self.assertLessEqual(one["largest"], 1e-4)
      self.assertGreaterEqual(one["masks_agree"], 0.9999)
    self.assertEqual(report["files"]["model.onnx"], files.sha256(self.folder / "model.onnx"))
    self.assertIn("model.onnx", json.loads((self.folder / "item.json").read_text())["assets"])
    looked = subprocess.run([ONNX_PYTHON, "-c", LOOK, self.folder / "model.onnx"], check=True, capture_output=True)
    shapes, told = json.loads(looked.stdout)
    self.assertEqual(shapes, [["reflectance", [1, 6, 32, 32]], ["probability", [1, 1, 32, 32]]])
    told = {key: json.loads(value) for key, value in told.items()}
    self.assertEqual((told["model_type"], told["class_names"], told["resolution"]), ("Segmentor", {"0": "mine"}, 1000))
    self.assertEqual((told["tile_size"], told["tiles_overlap"], told["seg_thresh"]), (32, 25, 0.5))
    stored = np.array([0.0, 2500.0])  # As Deepness reads: by 255, then standardised.
    seen = (stored / 255 - told["standardization_mean"][0]) / told["standardization_std"][0]
    np.testing.assert_allclose(seen, [0, 0.25], rtol=1e-6)

  @unittest.skipUnless(ONNX_PYTHON, "MINEC2F_ONNX_PYTHON is not set")
  def test_weights_that_are_not_those_of_the_program_are_refused_and_leave_nothing(self):
    self._change_a_weight()
    self._note_hash()  # Even where somebody has made the hash fit.
    before = sorted(path.name for path in self.folder.iterdir())
    found = _convert(self.folder, ONNX_PYTHON)
    self.assertEqual(found.returncode, 1)
    self.assertRegex(found.stderr.splitlines()[-1], "^to_onnx: model.onnx does not answer as the trained model does")
    self.assertEqual(sorted(path.name for path in self.folder.iterdir()), before)


if __name__ == "__main__":
  absltest.main()
