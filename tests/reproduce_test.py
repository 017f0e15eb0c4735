"""A tiny run trained anew and compared, and everything that can make the two differ.

Takes about 50 s on one core: two stages are trained twice and one of them once more, and a comparison traces networks.
"""

import json
import pathlib
import pprint
import shutil
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from ml_collections import ConfigDict

from minec2f_jax import console, experiment
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import checks, record, reproduce
from minec2f_jax.methods import Variables
from tests import configs_test
from tests.toy_folder import run_config, write_folder

EARLIER = {"environments": [{"device": "TPU v9"}], "teacher": None}


def _edit(path: pathlib.Path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


class ReproduceTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.data, cls.finished = cls.root / "data", cls.root / "run"
    write_folder(cls.data)
    config = run_config(cls.data)
    config.coarse.epochs, config.data.coarse.coarsen_gsd_m = 2, 0.0
    experiment.train(config, cls.finished, cache=cls.root / "programs")
    reproduce.reproduce(cls.finished, cache=cls.root / "programs")

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"
    shutil.copytree(self.finished, self.workdir)

  def _resume(self):
    """Compares with the retraining that is there, as if it had been killed just before that."""
    (self.workdir / "reproduction.json").unlink(missing_ok=True)
    with mock.patch.object(reproduce, "train") as train:
      reproduce.reproduce(self.workdir)
    train.assert_called_once()

  def _result(self) -> dict:
    return json.loads((self.workdir / "reproduction.json").read_text())

  def test_a_retraining_is_equal_bit_for_bit_and_says_so_part_by_part(self):
    result = self._result()
    self.assertEqual(result["verdict"], "bitwise equal")
    self.assertEqual((result["first_difference"], result["other_environment"]), ("", []))
    self.assertEqual(
      [(part["what"], part["difference"], part["largest"]) for part in result["parts"]],
      [
        (what, "", 0.0)
        for what in (
          "coarse history", "coarse end", "coarse parameters", "fine history", "fine end", "fine parameters",
          "test scores",
        )
      ],
    )  # fmt: skip
    for part in result["parts"]:
      self.assertEqual(part["recorded"], part["reproduced"])

  def test_the_retraining_stands_beside_the_run_and_leaves_it_alone(self):
    scratch = {path.name for path in (self.workdir / "reproduction").iterdir()}
    self.assertContainsSubset({"coarse", "fine", "results.json"}, scratch)
    self._resume()
    for path in self.finished.rglob("*"):
      if path.is_file() and path.name != "reproduction.json":
        self.assertEqual((self.workdir / path.relative_to(self.finished)).read_bytes(), path.read_bytes(), path)

  def test_the_same_comparison_leaves_the_same_bytes(self):
    before = (self.workdir / "reproduction.json").read_bytes()
    self._resume()
    self.assertEqual((self.workdir / "reproduction.json").read_bytes(), before)

  def test_after_a_comparison_the_next_call_trains_afresh(self):
    with mock.patch.object(reproduce, "train") as train, self.assertRaises(UserError):
      reproduce.reproduce(self.workdir)  # The mock leaves nothing to compare.
    train.assert_called_once()
    self.assertFalse((self.workdir / "reproduction").exists())
    self.assertFalse((self.workdir / "reproduction.json").exists())

  def test_another_seed_in_the_recorded_config_is_found_in_the_first_epoch(self):
    for name in ("fine", "reproduction", "reproduction.json"):
      path = self.workdir / name
      shutil.rmtree(path) if path.is_dir() else path.unlink()
    _edit(self.workdir / "config.json", lambda config: config.update(seed=1, stages=["coarse"]))
    with self.assertRaisesRegex(UserError, r"coarse history: epoch 1, train/bce is 0\.\d+ recorded, 0\.\d+ reproduced"):
      reproduce.reproduce(self.workdir)
    result = self._result()
    self.assertEqual(result["verdict"], "different")
    self.assertIn("train/bce", result["first_difference"])
    parameters = next(part for part in result["parts"] if part["what"] == "coarse parameters")
    self.assertGreater(parameters["largest"], 1e-3)

  def test_a_changed_byte_in_the_data_is_found_before_anything_is_trained(self):
    data = self.workdir / "data"
    shutil.copytree(self.data, data)
    _edit(self.workdir / "config.json", lambda config: config["data"]["fine"].update(path=str(data)))
    self._resume()  # Moved, but the same.
    path = data / "masks" / "toy1.tif"
    content = bytearray(path.read_bytes())
    content[content.rindex(b"\x01\x01\x01") + 1] = 0  # A mined pixel.
    path.write_bytes(content)
    with mock.patch.object(reproduce, "train") as train:
      with self.assertRaisesRegex(UserError, "nothing was trained: fine train has other contents"):
        reproduce.reproduce(self.workdir)
    train.assert_not_called()

  @parameterized.parameters(
    (
      "results.json",
      lambda c: c["rows"][3]["scores"].update(miou=0.99),
      r"fine model on coarse test \(1\), miou is 0.99",
    ),
    ("results.json", lambda c: c["rows"].pop(1), r"coarse model on coarse test \(1\), accuracy is None recorded"),
    ("fine/finished.json", lambda c: c.update(best_epoch=7), "fine end: best_epoch is 7 recorded, 1 reproduced"),
  )
  def test_a_tampered_result_is_named_with_both_values(self, name, change, named):
    _edit(self.workdir / name, change)
    with self.assertRaisesRegex(UserError, named):
      self._resume()
    self.assertEqual(self._result()["verdict"], "different")

  def test_a_tampered_history_is_named_by_epoch_and_metric(self):
    path = self.workdir / "coarse" / "metrics.jsonl"
    first, second = map(json.loads, path.read_text().splitlines())
    second["validation/miou"] = 0.99
    path.write_text(json.dumps({**first, "images_per_s": 1.0}) + "\n" + json.dumps(second) + "\n")
    with self.assertRaisesRegex(UserError, "coarse history: epoch 2, validation/miou is 0.99 recorded"):
      self._resume()
    path.write_text(json.dumps(first) + "\n")
    with self.assertRaisesRegex(UserError, "coarse history: epoch 2, step is None recorded, 4 reproduced"):
      self._resume()

  def test_on_another_machine_kind_close_scores_pass_and_others_do_not(self):
    (self.workdir / "run.json").write_text(json.dumps(EARLIER))
    _edit(self.workdir / "coarse" / "finished.json", lambda content: content.update(best_score=0.5))
    _edit(self.workdir / "results.json", lambda content: _shift(content, 0.9 * reproduce.TOLERANCE))
    with mock.patch.object(console, "say") as say:
      self._resume()
    said = [call.args[0] for call in say.call_args_list]
    self.assertIn("[reproduce] another environment: device (TPU v9 recorded, cpu now)", said)
    self.assertEqual(self._result()["verdict"], f"test scores within {reproduce.TOLERANCE}")
    self.assertIn("best_score", self._result()["first_difference"])
    _edit(self.workdir / "results.json", lambda content: _shift(content, 0.2 * reproduce.TOLERANCE))
    with self.assertRaisesRegex(UserError, "test scores: coarse model on fine test"):
      self._resume()

  def test_a_run_of_two_environments_is_not_held_to_equal_bits(self):
    def add(content):
      content["environments"].insert(0, {**content["environments"][0], "cores": 999})

    _edit(self.workdir / "run.json", add)
    _edit(self.workdir / "results.json", lambda content: _shift(content, 0.9 * reproduce.TOLERANCE))
    self._resume()
    self.assertStartsWith(self._result()["other_environment"][0], "cores (999 recorded")

  @parameterized.parameters("results.json", "data.json", "run.json", "fine/finished.json")
  def test_a_run_that_has_not_finished_is_refused_by_what_it_lacks(self, name):
    (self.workdir / name).unlink()
    with self.assertRaisesRegex(UserError, f"holds no {name}.*--mode=train"):
      reproduce.reproduce(self.workdir)

  def test_a_folder_without_a_run_is_refused(self):
    with self.assertRaisesRegex(UserError, "nowhere: there is no run"):
      reproduce.reproduce(self.root / "nowhere")

  def test_a_teacher_of_other_weights_is_refused_before_anything_is_trained(self):
    _edit(self.workdir / "config.json", lambda config: config.update(teacher=str(self.finished), stages=["fine"]))
    with self.assertRaisesRegex(UserError, r"the teacher .*run has other weights \(None recorded"):
      self._resume()
    config = reproduce.resolve_config(self.workdir)
    model = experiment.load_stage(config, "coarse", experiment.wire(config)["coarse"].method, self.finished)
    _edit(self.workdir / "run.json", lambda content: content.update(teacher=record.model_sha256(model)))
    self._resume()
    self.assertNotIn("coarse history", [part["what"] for part in self._result()["parts"]])


def _shift(results: dict, by: float):
  results["rows"][0]["scores"]["miou"] += by


class ResolveConfigTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.check = self.enterContext(mock.patch.object(reproduce, "check_fields"))  # Of paths that lead nowhere.
    self.workdir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def _note(self, config: ConfigDict):
    (self.workdir / "config.json").write_text(config.to_json_best_effort(sort_keys=True))

  @parameterized.product(name=configs_test.CONFIGS, arg=["", "demo"])
  def test_every_config_comes_back_from_json_with_its_types(self, name, arg):
    config = configs_test._load(name, arg)
    self._note(config)
    found = reproduce.resolve_config(self.workdir)
    self.assertEqual(found.to_dict(), config.to_dict())  # A list is no tuple.
    self.assertEqual(pprint.pformat(found.to_dict()), pprint.pformat(config.to_dict()))  # And 1 is no 1.0.

  def test_what_has_moved_is_taken_from_the_config_given(self):
    config = configs_test._load("fine_hybrid")
    config.pretrained, config.pretrained_sha256, config.data.fine.path = "old.h5", "ab" * 32, "old"
    self._note(config)
    given = configs_test._load("fine_hybrid")
    given.pretrained, given.data.fine.path, given.data.cache_gb = "new.h5", "new", 1.0
    found = reproduce.resolve_config(self.workdir, given)
    self.assertEqual((found.pretrained, found.data.fine.path, found.data.cache_gb), ("new.h5", "new", 1.0))
    self.assertEqual(found.pretrained_sha256, "ab" * 32)

  def test_a_given_config_that_changes_the_run_is_refused_by_field(self):
    self._note(configs_test._load("fine_hybrid"))
    given = configs_test._load("fine_hybrid")
    given.optimizer.learning_rate = 0.5
    with self.assertRaisesRegex(UserError, r"config\.optimizer\.learning_rate \(0\.0001 there, 0\.5 here\)"):
      reproduce.resolve_config(self.workdir, given)

  @parameterized.parameters(({},), ({"data": {}},))
  def test_a_noted_config_that_is_none_is_refused(self, noted):
    (self.workdir / "config.json").write_text(json.dumps(noted))
    with self.assertRaisesRegex(UserError, "config"):
      reproduce.resolve_config(self.workdir, configs_test._load("fine_hybrid"))
    self.check.side_effect = checks.check_fields
    with self.assertRaisesRegex(UserError, "config"):
      reproduce.resolve_config(self.workdir)


class ParametersTest(absltest.TestCase):
  def test_the_largest_difference_is_relative_to_the_largest_value_of_its_array(self):
    one = Variables({"a": {"kernel": jnp.array([4.0, -8.0])}}, {}, {"batch_stats": {"mean": jnp.zeros(2)}})
    other = one._replace(trainable={"a": {"kernel": jnp.array([4.0, -7.0])}})
    found = reproduce._compare_parameters("fine parameters", one, other)
    self.assertEqual(found.largest, 1 / 8)
    self.assertIn("trainable/a/kernel and 0 other arrays differ", found.difference)

  def test_a_zero_of_another_sign_is_a_difference_in_bits_and_none_in_size(self):
    one = Variables({"a": jnp.zeros(2)}, {}, {})
    found = reproduce._compare_parameters("", one, jax.tree.map(np.negative, one))
    self.assertNotEqual(found.difference, "")
    self.assertEqual(found.largest, 0.0)


if __name__ == "__main__":
  absltest.main()
