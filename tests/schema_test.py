"""The table of fields against what configs and modules have, and against values of every kind."""

import dataclasses
import importlib
import inspect
import pathlib
from unittest import mock

import hypothesis
import jax
import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import fine_hybrid
from minec2f_jax import distillation, losses
from minec2f_jax.data import pipeline
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import checks, schema, suite
from minec2f_jax.models import factory
from tests import toy

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMES = sorted(
  ".".join(path.relative_to(ROOT).with_suffix("").parts)
  for folder in ("configs", "configs/baselines", "configs/suites")
  for path in (ROOT / folder).glob("*.py")
  if path.stem != "__init__"
)


def _shipped():
  for name in NAMES:
    config = importlib.import_module(name).get_config()
    for row in config.order if "rows" in config else [None]:
      yield name, config if row is None else suite.row_config(config, row, seed=0)


def _refusal(config) -> str:
  """What is wrong with the fields of `config`; "" if nothing is."""
  try:
    checks.check_fields(config)
  except UserError as error:
    return str(error)
  return ""


class TableTest(parameterized.TestCase):
  def test_every_shipped_config_passes_and_all_its_fields_stand_in_the_table(self):
    configs = list(_shipped())
    self.assertGreater(len(configs), 20)
    for name, config in configs:
      self.assertEqual(_refusal(config), "", name)
      known = set(
        schema.paths({**schema.FIELDS, **schema.named_sections(config), "model": {**_sections(config), **schema.MODEL}})
      )
      self.assertEmpty(set(_leaves(config)) - known, name)

  @parameterized.parameters(*factory.ARCHITECTURES)
  def test_a_networks_sections_and_fields_are_those_of_its_modules(self, architecture):
    modules, table = factory.ARCHITECTURES[architecture], schema.ARCHITECTURES[architecture]
    self.assertEqual(set(table), set(modules))
    for section, module in modules.items():
      fields = {field.name for field in dataclasses.fields(module)} - {"dtype", "name", "parent"}
      self.assertEqual(set(table[section]), fields | ({"levels"} if section == "fusion" else set()), section)
      for field in dataclasses.fields(module):
        if field.name in table[section]:
          self.assertTrue(table[section][field.name].fits(field.default), f"{section}.{field.name}")

  def test_the_table_knows_the_architectures_of_the_factory_alone(self):
    self.assertEqual(set(schema.ARCHITECTURES), set(factory.ARCHITECTURES))

  @parameterized.parameters("dice_kind", "dice_reduce", "ssim_kind")
  def test_the_choices_of_a_loss_are_those_that_it_takes(self, field):
    logits = np.zeros((1, 12, 12), np.float32)
    takes = lambda value: losses.segmentation_loss(logits, logits, **{field: value})
    choices = [x for x in ("soft", "generalized", "batch", "image", "ssim", "ssl") if _allows("coarse.loss", field, x)]
    self.assertLen(choices, 2)
    for value in choices:
      takes(value)
    with self.assertRaises(ValueError):
      takes("another")

  def test_the_normalizers_are_those_that_distillation_takes(self):
    logits = np.zeros((1, 4, 4), np.float32)
    for value in ("selected", "all", "another"):
      allowed = _allows("distillation", "normalizer", value)
      with self.subTest(value), mock.patch.object(distillation, "selection_mask", return_value=logits > 0):
        if allowed:
          distillation.distillation_loss(logits, logits, logits, normalizer=value)
        else:
          with self.assertRaises(ValueError):
            distillation.distillation_loss(logits, logits, logits, normalizer=value)

  def test_the_windows_are_those_of_the_losses(self):
    functions = {"ssim": losses.ssim_loss, "ssl": losses.structural_similarity_weighted_bce_loss}
    sizes = {kind: inspect.signature(loss).parameters["window_size"].default for kind, loss in functions.items()}
    self.assertEqual(checks.SSIM_WINDOWS, sizes)

  def test_the_largest_seed_works_everywhere_and_the_next_one_is_jaxs_seed_0(self):
    largest = 2**32 - 1
    self.assertTrue(_allows("", "seed", largest))
    self.assertFalse(_allows("", "seed", largest + 1))
    data = lambda seed: jax.random.key_data(jax.random.key(seed)).tolist()
    self.assertEqual(data(largest + 1), data(0))
    self.assertNotEqual(data(largest), data(0))
    next(pipeline.train_indices({"coarse": 4, "fine": 4}, batch_size=2, seed=largest))
    np.random.default_rng([largest, 1])

  def test_the_most_threads_can_be_had(self):
    self.assertTrue(_allows("data", "read_threads", 256))
    next(pipeline.train_batches({"fine": toy.ArraySource(2)}, batch_size=2, seed=0, num_threads=256))

  def test_no_limit_is_zero_or_one_in_float32(self):
    for least in (1e-36, 1e-12, 1e-6, 1e-4):
      self.assertGreater(np.float32(least), 0)
    self.assertTrue(_allows("optimizer", "learning_rate", 1e-36))
    self.assertTrue(_allows("distillation", "epsilon", 1e-12))
    for largest in (0.9999, 0.999, 0.99):
      self.assertLess(np.float32(largest), 1)


def _sections(config):
  return schema.ARCHITECTURES[config.model.get("architecture", factory.DEFAULT)]


def _leaves(config, path=""):
  for name, value in config.items():
    yield from _leaves(value, f"{path}{name}.") if isinstance(value, ConfigDict) else [path + name]


def _allows(section: str, field: str, value) -> bool:
  table = schema.FIELDS
  for name in filter(None, section.split(".")):
    table = table[name]
  return table[field].fits(value)


class AnyValueTest(parameterized.TestCase):
  @hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
  @hypothesis.given(
    field=st.sampled_from(sorted(_leaves(fine_hybrid.get_config()))),
    value=st.recursive(
      st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
      lambda inner: st.lists(inner, max_size=5) | st.lists(inner, max_size=5).map(tuple),
      max_leaves=6,
    ),
  )
  def test_whatever_a_field_holds_it_passes_or_is_named_with_its_value(self, field, value):
    plain = fine_hybrid.get_config().to_dict()
    *sections, name = field.split(".")
    holder = plain
    for section in sections:
      holder = holder[section]
    holder[name] = value
    refusal = _refusal(ConfigDict(plain))
    if refusal:
      self.assertIn(f"config.{field}={schema.shown(value)}", refusal)
      self.assertNotIn("\n", refusal)


if __name__ == "__main__":
  absltest.main()
