"""Tests of what an export is made of: the program, the weights, the gate, card and STAC item."""

import json
import pathlib
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl.testing import absltest, parameterized
from jax import export
from scipy import special

from minec2f_jax.errors import UserError
from minec2f_jax.experiment import exporter
from minec2f_jax.export import card, parity, program, stac, weights
from minec2f_jax.export.probability import make_probability
from minec2f_jax.models import deeplabv3plus, padding
from tests import export_case

ALONE = """
import sys
for name in ("minec2f_jax", "flax", "chex", "optax"):
  sys.modules[name] = None  # An import of it fails.
import jax, numpy as np
with open(sys.argv[1], "rb") as file:
  model = jax.jit(jax.export.deserialize(bytearray(file.read())).call)
np.save(sys.argv[3], np.asarray(model(np.load(sys.argv[2]))))
"""
NAMES = ("model.safetensors", "model.stablehlo")


class ProgramTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.config = export_case.make_config()
    cls.model = export_case.make_model(cls.config)
    cls.content, cls.sizes = exporter._program(cls.config, cls.model, ("cpu", "cuda"))
    cls.facts = exporter._facts(cls.config, cls.folder, cls.model, cls.sizes)

  def test_jax_alone_runs_it_on_an_odd_size_and_answers_as_the_network_does(self):
    image = np.random.default_rng(0).normal(0.2, 0.1, (2, 45, 83, 6)).astype(np.float32)
    image[0, 3, 4, 2], image[1, :5], image[1, 9, 9, 0] = np.nan, np.nan, np.inf
    (self.folder / "m.stablehlo").write_bytes(self.content)
    np.save(self.folder / "image.npy", image)
    paths = [str(self.folder / name) for name in ("m.stablehlo", "image.npy", "found.npy")]
    subprocess.run([sys.executable, "-I", "-c", ALONE, *paths], check=True, cwd=self.folder)
    found, valid = np.load(paths[-1]), np.isfinite(image).all(-1)
    logits = self.model.wired.predict(self.model.variables, {"image": image, "valid": valid})
    expected = special.expit(np.asarray(logits, np.float64))
    np.testing.assert_array_equal(np.isnan(found), ~valid)
    np.testing.assert_allclose(found[valid], expected[valid], rtol=0, atol=1e-6)
    self.assertGreater(np.ptp(found[valid]), 0.1)

  def test_the_same_model_is_the_same_file_that_names_no_place_and_no_source(self):
    again, _ = exporter._program(self.config, self.model, ("cpu", "cuda"))
    self.assertEqual(again, self.content)
    self.assertNotIn(b".py", self.content)
    self.assertNotIn(str(pathlib.Path(__file__).parent.parent).encode(), self.content)
    self.assertEqual(self.sizes, "any")
    self.assertEqual(export.deserialize(bytearray(self.content)).platforms, ("cpu", "cuda"))

  def test_a_student_brings_its_teacher_along(self):
    config = export_case.make_config()
    config.stages = ("coarse", "fine")
    model = export_case.make_model(config)
    content, sizes = exporter._program(config, model, ("cpu",))
    image = np.random.default_rng(0).normal(0.2, 0.1, (1, 35, 20, 6)).astype(np.float32)
    sample = {"image": image, "valid": np.ones(image.shape[:3], bool)}
    found = program.load(content)(image)
    expected = special.expit(np.asarray(model.wired.predict(model.variables, sample)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)  # Other compiler options than at the gate.
    self.assertEqual(sizes, "any")
    self.assertGreater(np.ptp(expected), 1e-3)
    jax.tree.map(np.ndarray.fill, model.variables.frozen, jax.tree.map(lambda leaf: 0, model.variables.frozen))
    without = special.expit(np.asarray(model.wired.predict(model.variables, sample)))
    self.assertGreater(np.abs(without - expected).max(), 1e-3)  # It does read its teacher's features.

  def test_a_network_that_must_know_its_size_gets_a_program_of_that_size(self):
    def probability(variables, image):
      return variables + image[..., 0] * np.arange(image.shape[1])[:, None]  # NumPy wants numbers.

    content, sizes = program.serialize(probability, np.float32(1), channels=2, size=4, platforms=("cpu",))
    self.assertEqual(sizes, [4, 4])
    found = program.load(content)(np.ones((3, 4, 4, 2), np.float32))
    np.testing.assert_array_equal(found, np.broadcast_to(np.arange(1.0, 5)[:, None], (3, 4, 4)))

  def test_one_weight_that_is_not_the_models_is_refused(self):
    changed = self.model.variables._replace(trainable=jax.tree.map(np.copy, self.model.variables.trainable))
    changed.trainable["head"]["bias"][0] += 1e-3
    content, _ = exporter._program(self.config, self.model._replace(variables=changed), ("cpu",))
    folder = self.folder / "changed"
    folder.mkdir()
    (folder / "model.stablehlo").write_bytes(content)
    (folder / "model.safetensors").write_bytes(weights.to_bytes(self.model.variables))
    with self.assertRaisesRegex(UserError, "model.stablehlo does not answer .*random image: off by 0.000.*real-like"):
      exporter._hold_against(self.facts, self.model, folder)
    (folder / "model.safetensors").write_bytes(weights.to_bytes(changed))
    with self.assertRaisesRegex(UserError, r"model.safetensors .*\(1 differ, the first is .*'head'.*'bias'"):
      exporter._hold_against(self.facts, self.model, folder)

  def test_the_facts_rebuild_the_network_and_hold_no_path(self):
    self.assertNotIn("somewhere", json.dumps(self.facts))
    self.assertEqual(self.facts["data"], "mines")
    self.assertEqual([band["name"] for band in self.facts["bands"]], list(self.config.data.bands))
    self.assertEqual(self.facts["bands"][3], {"name": "nir", "wavelength_um": 0.842, "mean": 0.2497, "std": 0.1368})
    plain = json.loads(json.dumps(self.facts))["network"]
    method = exporter.methods.make_method(plain, plain["stage"])
    image = np.zeros((1, 32, 32, 6), np.float32)
    one, two = (jax.make_jaxpr(m.logits)(*self.model.variables, image) for m in (method, self.model.wired.method))
    self.assertEqual(str(one.jaxpr), str(two.jaxpr))


class ModelsTest(parameterized.TestCase):
  def test_an_image_of_symbolic_size_is_continued_as_others_are(self):
    shape = (1, *export.symbolic_shape("h, w"), 1)
    exported = export.export(jax.jit(padding.pad_image))(jax.ShapeDtypeStruct(shape, jnp.float32))
    for height, width in [(1, 2), (3, 33), (32, 45), (64, 31)]:
      image = np.arange(height * width, dtype=np.float32).reshape(1, height, width, 1)
      borders = ((0, 0), (0, -height % 32), (0, -width % 32), (0, 0))
      np.testing.assert_array_equal(exported.call(image), np.pad(image, borders, "reflect"))

  def test_a_dilated_convolution_of_symbolic_size_is_the_same(self):
    rng = np.random.default_rng(0)
    image, kernel = (rng.normal(size=shape).astype(np.float32) for shape in [(1, 7, 9, 3), (3, 3, 3, 2)])
    function = lambda image: deeplabv3plus.dilated_conv(image, kernel, rate=4)
    symbolic = jax.ShapeDtypeStruct((1, *export.symbolic_shape("h, w"), 3), jnp.float32)
    found = export.export(jax.jit(function))(symbolic).call(image)
    np.testing.assert_allclose(found, function(image), rtol=0, atol=2e-6)


class WeightsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "model.safetensors"

  def test_they_come_back_bit_by_bit_under_our_names_whatever_their_order_in_memory(self):
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3).T
    kernel[0, 0] = -0.0
    variables = exporter.Variables({"head": {"kernel": kernel}}, {}, {"batch_stats": {"norm": {"var": kernel[0]}}})
    self.path.write_bytes(weights.to_bytes(variables))
    tensors = safetensors.numpy.load_file(self.path)
    self.assertEqual(sorted(tensors), ["extra/batch_stats/norm/var", "trainable/head/kernel"])
    self.assertEqual(tensors["trainable/head/kernel"].tobytes(), kernel.tobytes())
    found = weights.read(self.path)
    self.assertEqual(found.frozen, {})
    self.assertEqual(found.trainable["head"]["kernel"].tobytes(), kernel.tobytes())
    self.assertEqual(weights.to_bytes(found), self.path.read_bytes())

  def test_a_file_of_other_weights_is_refused(self):
    safetensors.numpy.save_file({"features.conv0.weight": np.zeros(3, np.float32)}, self.path)
    with self.assertRaisesRegex(UserError, "not what an export writes"):
      weights.read(self.path)
    self.path.write_bytes(b"\x80\x04cos\nsystem\n")  # A pickle, which is never loaded.
    with self.assertRaises(UserError):
      weights.read(self.path)


class ParityTest(parameterized.TestCase):
  def test_figures_by_hand(self):
    expected = np.array([0.2, 0.501, np.nan, 0.9])
    self.assertEqual(parity.compare(expected, expected), {"largest": 0.0, "masks_agree": 1.0})
    found = parity.compare(np.array([0.2, 0.499, np.nan, 0.9]), expected)
    self.assertAlmostEqual(found["largest"], 0.002, delta=1e-12)
    self.assertAlmostEqual(found["masks_agree"], 2 / 3, delta=1e-12)

  @parameterized.named_parameters(
    ("a number where there are no data", np.array([0.2, 0.5, 0.5, 0.9])),
    ("none where there are data", np.array([0.2, np.nan, np.nan, 0.9])),
    ("another shape", np.zeros(3)),
  )
  def test_never_equal_is(self, found):
    expected = np.array([0.2, 0.5, np.nan, 0.9])
    self.assertEqual(parity.compare(found, expected), {"largest": np.inf, "masks_agree": 0.0})
    with self.assertRaisesRegex(UserError, "m.onnx does not answer.*a image: off by inf"):
      parity.require_equal("m.onnx", lambda image: found, {"a": None}, {"a": expected}, largest=1.0)

  def test_each_limit_refuses_by_itself(self):
    expected, found = np.array([0.5, 0.5004, 0.9]), np.array([0.5, 0.4996, 0.9])
    check = lambda **limits: parity.require_equal("f", lambda image: found, {"a": None}, {"a": expected}, **limits)
    self.assertAlmostEqual(check(largest=1e-3)["a"]["largest"], 8e-4, delta=1e-9)
    with self.assertRaisesRegex(UserError, "off by 0.0008"):
      check(largest=7e-4)
    with self.assertRaisesRegex(UserError, "masks agree on 66.6667%"):
      check(largest=1e-3, masks_agree=0.9999)

  def test_images_show_what_can_go_wrong_and_are_the_same_every_time(self):
    images, again = (parity.make_images([0.1, 0.2], [0.1, 0.05], "any") for _ in range(2))
    for name, image in images.items():
      np.testing.assert_array_equal(image, again[name])
      self.assertEqual(image.dtype, np.float32)
    gaps = np.isfinite(images["gaps"])
    self.assertNotEqual(gaps.shape[1] % 32 * (gaps.shape[2] % 32), 0)
    self.assertTrue((gaps[0].any(-1) & ~gaps[0].all(-1)).any())  # One band of a pixel is lacking.
    self.assertFalse(gaps[1].any())
    self.assertTrue(np.isfinite(images["random"]).all())
    fixed = parity.make_images([0.1, 0.2], [0.1, 0.05], [32, 32])
    self.assertEqual({image.shape for image in fixed.values()}, {(2, 32, 32, 2)})


class PapersTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    config = export_case.make_config()
    cls.facts = exporter._facts(config, pathlib.Path("nowhere"), export_case.make_model(config), "any")
    cls.facts["scores"] = [{"tested_on": "fine test (3)", "scores": {"miou": 0.5, "mf1": 0.25, "accuracy": None}}]

  def test_the_item_has_what_stac_and_its_extension_ask_for(self):
    item = json.loads(json.dumps(stac.make_item(self.facts, (*NAMES, "model.onnx"))))
    # STAC 1.1, item-spec: these fields; bbox only where there is a geometry; a range of dates where datetime is null.
    wanted = {"type", "stac_version", "stac_extensions", "id", "geometry", "properties", "links", "assets"}
    self.assertEqual(set(item), wanted)
    self.assertEqual((item["type"], item["stac_version"], item["geometry"]), ("Feature", "1.1.0", None))
    properties = item["properties"]
    self.assertTrue({"datetime", "start_datetime", "end_datetime"} <= set(properties))
    # MLM 1.5.2, mlmItemFields, and fields of inputs, outputs and their structures.
    self.assertIn("https://stac-extensions.github.io/mlm/v1.5.2/schema.json", item["stac_extensions"])
    self.assertTrue(
      {"mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"} <= set(properties), properties
    )
    (given,), (answer,) = properties["mlm:input"], properties["mlm:output"]
    self.assertRegex(properties["mlm:name"], r"^[a-zA-Z][a-zA-Z0-9_.-]+[a-zA-Z0-9]$")
    self.assertTrue({"name", "input"} <= set(given))
    self.assertTrue({"name", "tasks", "result"} <= set(answer))
    for structure in (given["input"], answer["result"]):
      self.assertEqual(set(structure), {"shape", "dim_order", "data_type"})
      self.assertLen(structure["shape"], len(structure["dim_order"]))
    self.assertIn("bands", given["input"]["dim_order"])  # Because it names bands, which then "bands" must describe.
    self.assertEqual([band["name"] for band in properties["bands"]], given["bands"])
    self.assertEqual([entry["value"] for entry in answer["classification:classes"]], [0, 1])
    self.assertRegex(properties["mlm:framework_version"], r"^\d+\.\d+\.\d+")
    self.assertIs(properties["mlm:pretrained"], False)
    self.assertIsNone(properties["mlm:pretrained_source"])  # To be null where not pretrained.
    for name, asset in item["assets"].items():  # Role and artifact type go together.
      self.assertEqual("mlm:model" in asset["roles"], "mlm:artifact_type" in asset)
      self.assertEqual(asset["href"], f"./{name}")
    self.assertEqual(properties["gsd"], 10.0)

  def test_the_card_says_what_goes_in_what_comes_out_and_on_what_it_was_scored(self):
    text = card.to_markdown(self.facts, NAMES)
    for said in (
      "| 4 | swir1 | 1.61 | 0.2204 | 0.1292 |",
      "of mines, in percent",
      "| fine test (3) | 50.00 | 25.00 | - | - |",
      "pixel size: 10 m",
      "Trained from random weights",
      "## Licence",
      self.facts["model_sha256"],
    ):
      self.assertIn(said, text)
    self.assertNotIn("demonstration", text)
    self.assertNotIn("takes one tile", text)
    demo = card.to_markdown({**self.facts, "data": "mining_demo", "scores": [], "gsd_m": None}, (*NAMES, "model.onnx"))
    for said in ("demonstration data, which are not mines", "scores are not known", "not noted", "takes one tile"):
      self.assertIn(said, demo)

  def test_the_cards_lines_of_python_load_a_program(self):
    folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    identity = make_probability(lambda scale, image: scale * image, mean=[0.0], std=[1.0])
    content, _ = program.serialize(identity, (np.float32(2),), channels=1, size=8, platforms=("cpu",))
    (folder / "model.stablehlo").write_bytes(content)
    np.save(folder / "image.npy", np.full((1, 2, 2, 1), 0.5, np.float32))
    code = card.to_markdown(self.facts, NAMES).split("```python\n")[1].split("```")[0]
    self.assertLessEqual(len(code.strip().splitlines()), 10)
    code += "print(mask.all(), float(probability[0, 0, 0]))"
    said = subprocess.run(
      [sys.executable, "-c", code], check=True, cwd=folder, capture_output=True, text=True
    ).stdout.split()
    self.assertEqual(said[0], "True")
    self.assertAlmostEqual(float(said[1]), 1 / (1 + np.exp(-1)), delta=1e-6)


if __name__ == "__main__":
  absltest.main()
