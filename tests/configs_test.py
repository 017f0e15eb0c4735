"""Every config and every row of every suite loads and passes the check, and one of each kind trains at toy size."""

import functools
import importlib
import json
import pathlib
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized
from ml_collections import ConfigDict

from minec2f_jax import experiment, metrics, models
from minec2f_jax.experiment import checks, suite_plan
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


def _load(name: str, arg: str = "") -> ConfigDict:
  return importlib.import_module(f"configs.{name}").get_config(arg)


# Of other architectures than toy.shrink knows.
TOY_MODELS = {
  "prithvi": dict(encoder=dict(width=16, depth=1, heads=2), decoder=dict(features=4)),
  "gs_aufpn_densenet": dict(
    encoder=toy.ENCODER, decoder=dict(features=8, nodes=3, node_features=4, reduction=4, bn_momentum=0.9)
  ),
  "unet_densenet": dict(encoder=toy.ENCODER, decoder=dict(features=(8, 8, 6, 6, 4))),
  "deeplabv3plus_densenet": dict(
    encoder=toy.ENCODER, decoder=dict(aspp_features=6, rates=(1, 2, 3), low_level_features=3, features=5)
  ),
}


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


def _kind(config: ConfigDict) -> tuple[str, ...]:
  """What decides which code a run goes through: its architecture and its methods."""
  return (config.model.get("architecture", factory.DEFAULT), *(config[name].method for name in config.stages))


@functools.cache
def _first_of_kinds() -> list[str]:
  """A config of each kind; others differ from it in numbers, and in layers and losses that have tests of their own."""
  found = {}
  for name in CONFIGS:
    found.setdefault(_kind(_load(name)), name)
  return list(found.values())


def _distinct_rows() -> list[tuple[str, str, str]]:
  """(name, suite, row) of all that are trained and are no config, but for numbers that change no program; each once."""
  known, found = {_key(_load(name)) for name in CONFIGS}, {}
  for table in sorted(SUITES, key=lambda name: (name == "ablations", name)):
    config = _load(f"suites.{table}")
    for row in config.order:
      if config.rows[row].trained:
        key = _key(suite_plan.row_config(config, row, seed=0))
        found.setdefault(key, (f"{table}_{row}", table, row))
  return [entry for key, entry in found.items() if key not in known]


def _key(config: ConfigDict) -> str:
  """The same for experiments that are the same at toy size, but for numbers that change no program."""
  shrunk = _shrink(config)
  shrunk.optimizer.learning_rate = shrunk.distillation.temperature = 1.0
  return suite_plan.fingerprint(shrunk)


def _train_two_steps(config: ConfigDict):
  """Runs every stage for one epoch of two steps, with all the machinery of a real run."""
  config = _shrink(config)
  prior = None
  for name in config.stages:
    prior = _run_stage(config, name, prior)
  return prior


_FINISHED = {}  # Most configs share Task 1 to the last value: one worker trains it once.


def _run_stage(config: ConfigDict, name: str, prior):
  settings = json.dumps([experiment.stage_spec(config, name), config[name].to_dict(), config.seed])
  if prior is None and settings in _FINISHED:
    return _FINISHED[settings]
  source = toy.ArraySource(4, bands=len(config.data.bands))
  stage = experiment.make_stage(config, name, experiment.wire(config)[name], source, source)
  assert stage.steps_per_epoch == 2 * len(config[name].streams if config[name].get("sampling") == "union" else [name])
  with tempfile.TemporaryDirectory() as folder:
    result = trainer.run_stage(stage, jax.random.key(0), prior, pathlib.Path(folder) / name)
  if prior is None:
    _FINISHED[settings] = result
  return result


class ConfigsTest(parameterized.TestCase):
  @parameterized.product(name=CONFIGS, arg=["", "demo"])
  def test_config_loads_and_passes_the_check(self, name, arg):
    # Seconds to trace a network of full size: once for each kind.
    check = experiment.check_config if arg == "demo" or name in _first_of_kinds() else checks.check_fields
    check(_load(name, arg))

  @parameterized.parameters(_first_of_kinds())
  def test_config_trains_two_steps(self, name):
    variables = _train_two_steps(_load(name))
    for leaf in jax.tree.leaves((variables.trainable, variables.extra)):
      self.assertTrue(np.all(np.isfinite(leaf)))

  @parameterized.named_parameters(*_distinct_rows())
  def test_suite_row_is_of_a_kind_that_is_trained_and_passes_the_check(self, table, row):
    config = suite_plan.row_config(_load(f"suites.{table}"), row, seed=0)
    self.assertIn(_kind(config), {_kind(_load(name)) for name in CONFIGS})
    experiment.check_config(_shrink(config))

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

  @parameterized.parameters(
    ("unet", models.UNet(), models.UNetHead(), 32),
    ("deeplabv3plus", models.DeepLabV3Plus(), models.PointwiseHead(), 16),
  )
  def test_classic_decoders_stand_on_the_papers_encoder_and_see_the_fine_set_alone(self, name, decoder, head, stride):
    config = _load(f"baselines.{name}")
    self.assertEqual(
      factory.make_segmenter(config.model), Segmenter(models.DenseNet(output_stride=stride), decoder, head)
    )
    plain = _load("fine_hybrid")
    plain.update(stages=("fine",), fine=dict(method="supervised", init_from_prior=False))
    del plain.model, config.model
    self.assertEqual(config.to_json_best_effort(), plain.to_json_best_effort())

  @parameterized.parameters(
    ("table3", (0.0, 2.0, 5.44, 6.06)),
    ("table4", (0.0, 0.24, 4.82, 5.49, 5.56)),
    ("table5", (0.0, 5.26, 10.2)),
    ("table13", (0.0, 0.27, 1.24, 1.69)),
  )
  def test_printed_gains_follow_from_the_printed_scores(self, table, gains):
    config = _load(f"suites.{table}")
    miou = [config.rows[name].paper.miou for name in config.order]
    self.assertEqual(tuple(round(value - miou[0], 2) for value in miou), gains)

  @parameterized.parameters(("mdil_ss", 85.36, 75.10), ("gsmf_rs_dil", 85.02, 74.70), ("minec2fnet", 90.50, 82.92))
  def test_accuracy_follows_from_the_printed_confusion_matrix_and_miou_does_not(self, name, mf1, miou):
    paper = _load("suites.table14").rows[name].paper
    counts = np.round(100 * np.array([[paper.tn, paper.fp], [paper.fn, paper.tp]])).astype(int)
    scores = {key: round(100 * float(value), 2) for key, value in metrics.scores(counts).items()}
    self.assertEqual((counts.sum(), scores["accuracy"]), (10_000, paper.accuracy))
    self.assertEqual((scores["mf1"], scores["miou"]), (mf1, miou))
    self.assertEqual(paper.mf1 == mf1, name != "minec2fnet")
    self.assertNotEqual(paper.miou, miou)

  def test_the_papers_plain_network_is_the_same_in_all_tables_that_show_it(self):
    places = (("table3", "none"), ("table4", "none"), ("table5", "rgb_nir"), ("input_size", "fine_256"))
    rows = [(_load(f"suites.{table}"), row) for table, row in places]
    self.assertLen({suite_plan.fingerprint(suite_plan.row_config(config, row, seed=0)) for config, row in rows}, 1)
    self.assertLen({tuple(sorted(config.rows[row].paper.items())) for config, row in rows}, 1)

  @parameterized.parameters([name for name in SUITES if name != "coarse_composition"])
  def test_a_suite_on_the_demo_passes_the_check(self, name):
    suite_plan.check_suite(_load(f"suites.{name}", "demo"))

  def test_the_demo_has_one_coarse_set(self):
    with self.assertRaisesRegex(ValueError, "leave out"):
      _load("suites.coarse_composition", "demo")


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
