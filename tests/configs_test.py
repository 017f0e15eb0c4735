"""Every config and every row of every suite loads, passes the check and trains two steps at toy size."""

import importlib
import json
import pathlib
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized
from ml_collections import ConfigDict

from minec2f_jax import experiment
from minec2f_jax.experiment import suite
from minec2f_jax.models import PixelHead, PrithviDecoder, Segmenter, ViTEncoder, factory
from minec2f_jax.training import trainer
from tests import toy

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIGS = sorted(
  prefix + path.stem
  for folder, prefix in (("configs", ""), ("configs/baselines", "baselines."))
  for path in (ROOT / folder).glob("*.py")
  if path.stem != "__init__"
)
SUITES = sorted(path.stem for path in (ROOT / "configs" / "suites").glob("*.py") if path.stem != "__init__")
ROWS = [
  (f"{table}_{row}", table, row)
  for table in SUITES
  for row in importlib.import_module(f"configs.suites.{table}").get_config().order
]


def _load(name: str, arg: str = "") -> ConfigDict:
  return importlib.import_module(f"configs.{name}").get_config(arg)


# Of other architectures than toy.shrink knows.
TOY_MODELS = {"prithvi": dict(encoder=dict(width=16, depth=1, heads=2), decoder=dict(features=4))}


def _shrink(config: ConfigDict) -> ConfigDict:
  """`config` at toy size, whatever its architecture."""
  model = config.model
  architecture = model.get("architecture", factory.DEFAULT)
  if architecture == factory.DEFAULT:
    return toy.shrink(config)
  config.model = _load("fine_hybrid").model
  config = toy.shrink(config)
  config.model = model
  config.model.update(TOY_MODELS[architecture])
  return config


def _train_two_steps(config: ConfigDict):
  """Runs every stage for one epoch of two steps, with all the machinery of a real run."""
  config = _shrink(config)
  experiment.check_config(config)
  prior = None
  for name in config.stages:
    prior = _run_stage(config, name, prior)
  return prior


_FINISHED = {}  # Most rows share Task 1 to the last value: one worker trains it once.


def _run_stage(config: ConfigDict, name: str, prior):
  settings = json.dumps([experiment.stage_spec(config, name), config[name].to_dict(), config.seed])
  if prior is None and settings in _FINISHED:
    return _FINISHED[settings]
  source = toy.ArraySource(4, bands=len(config.data.bands))
  stage = experiment.make_stage(config, name, experiment.wire(config)[name], source, source)
  assert stage.steps_per_epoch == 2
  with tempfile.TemporaryDirectory() as folder:
    result = trainer.run_stage(stage, jax.random.key(0), prior, pathlib.Path(folder) / name)
  if prior is None:
    _FINISHED[settings] = result
  return result


class ConfigsTest(parameterized.TestCase):
  @parameterized.product(name=CONFIGS, arg=["", "demo"])
  def test_config_loads_and_passes_the_check(self, name, arg):
    experiment.check_config(_load(name, arg))

  @parameterized.parameters(CONFIGS)
  def test_config_trains_two_steps(self, name):
    variables = _train_two_steps(_load(name))
    for leaf in jax.tree.leaves((variables.trainable, variables.extra)):
      self.assertTrue(np.all(np.isfinite(leaf)))

  @parameterized.named_parameters(*ROWS)
  def test_suite_row_trains_two_steps(self, table, row):
    config = _load(f"suites.{table}")
    variables = _train_two_steps(suite.row_config(config, row, seed=0))
    for leaf in jax.tree.leaves((variables.trainable, variables.extra)):
      self.assertTrue(np.all(np.isfinite(leaf)))

  def test_an_unknown_argument_is_refused(self):
    with self.assertRaisesRegex(ValueError, "demo"):
      _load("fine_hybrid", "small")

  @parameterized.parameters(
    ("none", "none"), ("standard", "standard"), ("image", "image"), ("pixel", "pixel"), ("hybrid", "hybrid")
  )
  def test_an_ablation_differs_from_the_paper_in_its_selection_alone(self, name, selection):
    config, hybrid = _load(f"fine_{name}"), _load("fine_hybrid")
    self.assertEqual(config.distillation.selection, selection)
    config.distillation.selection = hybrid.distillation.selection
    self.assertEqual(config.to_json_best_effort(), hybrid.to_json_best_effort())

  def test_prithvi_is_the_network_as_published_on_the_fine_set_alone(self):
    config = _load("baselines.prithvi")
    self.assertEqual(config.stages, ("fine",))
    self.assertEqual((config.fine.method, config.fine.init_from_prior), ("supervised", False))
    self.assertEqual(set(config.model), {"architecture", "encoder", "decoder", "dtype"})
    net = factory.make_segmenter(config.model)
    self.assertEqual(net, Segmenter(ViTEncoder(), PrithviDecoder(), PixelHead()))
    image = jax.ShapeDtypeStruct((1, 256, 256, 6), np.float32)
    count = factory.count_parameters(jax.eval_shape(net.init, jax.random.key(0), image))
    # Encoder, neck, 3x3 convolution, BN and one logit.
    self.assertEqual(count["trainable"], 86_237_184 + 9_443_328 + 9 * 768 * 256 + 2 * 256 + 257)

  def test_printed_gains_follow_from_the_printed_scores(self):
    rows = importlib.import_module("configs.suites.table4").get_config().rows
    gains = {name: round(row.paper.miou - rows.none.paper.miou, 2) for name, row in rows.items()}
    self.assertEqual(gains, {"none": 0.0, "standard": 0.24, "image": 4.82, "pixel": 5.49, "hybrid": 5.56})


class CheckConfigTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"data": {"image_size": 0}}, "image_size=0"),
    ({"data": {"image_size": 10}}, "10x10.*11x11 window"),
    ({"data": {"bands": ("red", "thermal")}}, "thermal"),
    ({"data": {"bands": ("red", "red")}}, "bands"),
    ({"distillation": {"selection": "best"}}, "'best'"),
    ({"stages": ("coarse", "medium")}, "medium"),
    ({"fine": {"method": "magic"}}, "magic"),
    ({"data": {"sensor": "sentinel3"}}, "sentinel3.*sentinel2_l2a"),
    ({"data": {"batch_size": 0}}, "batch_size=0"),
    ({"distillation": {"temperature": 0.0}}, "temperature=0.0"),
    ({"monitor": "loss"}, "monitor='loss'"),
    ({"model": {"fusion": {"gate": "open"}}}, "open"),
    ({"model": {"fusion": {"levels": ("c9",)}}}, "c9"),
  )
  def test_a_wrong_value_is_named(self, override, named):
    config = toy.shrink(_load("fine_hybrid"))
    config.update(override)
    with self.assertRaisesRegex(ValueError, named):
      experiment.check_config(config)

  def test_missing_data_says_how_to_get_them_and_names_the_demo(self):
    with self.assertRaisesRegex(ValueError, r"config\.data\.fine\.path.*:demo"):
      experiment.open_source(_load("fine_hybrid"), "fine", "train")


if __name__ == "__main__":
  absltest.main()
