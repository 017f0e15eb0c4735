"""Runs whose encoders start from a weight file."""

import hashlib
import json
import pathlib
import shutil
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax import experiment
from minec2f_jax.errors import UserError
from minec2f_jax.models import pretrained
from tests import weights
from tests.toy_folder import NAMES, run_config, write_folder


class PretrainedRunTest(parameterized.TestCase):
  """A run from ImageNet weights, with a learning rate so small that they stay what they were."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.data, cls.workdir, cls.path = cls.root / "data", cls.root / "run", cls.root / "densenet.safetensors"
    write_folder(cls.data)
    weights.write_safetensors(cls.path, weights.random_encoder())
    cls.sha256 = hashlib.sha256(cls.path.read_bytes()).hexdigest()
    cls._train(cls._config(), cls.workdir)

  @classmethod
  def _train(cls, config, workdir):
    """As launch.py does, which keeps programs: most runs here have the same ones."""
    experiment.train(config, workdir, cache=cls.root / "programs")

  @classmethod
  def _config(cls, **overrides):
    config = run_config(cls.data)
    config.pretrained = str(cls.path)
    config.optimizer.learning_rate = 1e-30
    config.update(overrides)
    return config

  def _expected(self, **options):
    return pretrained.load(self.path, bands=NAMES, encoder=weights.NET, **options).variables

  def test_teacher_and_student_start_from_the_file(self):
    config, prior = self._config(), None
    for name, wired in experiment.wire(config).items():
      prior = experiment.load_stage(config, name, wired.method, self.workdir, prior)
      jax.tree.map(np.testing.assert_array_equal, prior.trainable["encoder"], self._expected()["params"])

  def test_the_runs_config_notes_the_files_hash(self):
    noted = json.loads((self.workdir / "config.json").read_text())
    self.assertEqual((noted["pretrained"], noted["pretrained_sha256"]), (str(self.path), self.sha256))

  def test_a_run_that_goes_on_needs_the_file_no_more_and_keeps_its_hash(self):
    config = self._config(pretrained="/no/such/file")
    config.fine.epochs = 2
    workdir = self._copy("resumed")
    self._train(config, workdir)
    experiment.evaluate(config, workdir)
    self.assertEqual(json.loads((workdir / "config.json").read_text())["pretrained_sha256"], self.sha256)

  def test_task_2_must_start_from_the_file_that_task_1_started_from(self):
    other = self.root / "other.safetensors"
    weights.write_safetensors(other, weights.random_encoder(seed=1))
    workdir = self._copy("other")
    shutil.rmtree(workdir / "fine")
    with self.assertRaisesRegex(UserError, rf"config\.pretrained_sha256 \({self.sha256} there"):
      self._train(self._config(pretrained=str(other)), workdir)
    with self.assertRaisesRegex(UserError, r"config\.pretrained \(True there, False here\)"):
      self._train(self._config(pretrained=None), workdir)

  def test_a_run_that_has_started_everything_refuses_other_weights_and_other_hashes(self):
    other = self.root / "another.safetensors"
    weights.write_safetensors(other, weights.random_encoder(seed=1))
    workdir = self._copy("finished")
    noted = (workdir / "config.json").read_text()
    for run in (self._train, experiment.evaluate):
      for change in (dict(pretrained=str(other)), dict(pretrained="/no/such/file", pretrained_sha256="abc")):
        with self.assertRaisesRegex(UserError, f"the run started from weights with {self.sha256}"):
          run(self._config(**change), workdir)
    self.assertEqual((workdir / "config.json").read_text(), noted)

  def _copy(self, name: str) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(self.workdir, self.root / name))

  def test_a_student_that_starts_from_the_teacher_takes_nothing_from_the_file(self):
    wired = experiment.wire(self._config(fine={"init_from_prior": True}), self._encoder())
    key, image = jax.random.key(0), np.zeros((1, 32, 32, 6), np.float32)
    teacher = jax.jit(wired["coarse"].method.init)(key, image, None)
    teacher = jax.tree.map(lambda leaf: leaf + 1, teacher)
    student = jax.jit(wired["fine"].method.init)(key, image, teacher)
    jax.tree.map(np.testing.assert_array_equal, student.trainable["encoder"], teacher.trainable["encoder"])

  def _encoder(self):
    return pretrained.load(self.path, bands=NAMES, encoder=weights.NET)

  def test_only_the_encoder_comes_from_the_file_and_the_frozen_teacher_stays(self):
    config, key = self._config(), jax.random.key(0)
    image = np.zeros((1, 32, 32, 6), np.float32)
    teacher = jax.jit(experiment.wire(config)["coarse"].method.init)(key, image, None)
    random, started = (
      jax.jit(experiment.wire(config, encoder)["fine"].method.init)(key, image, teacher)
      for encoder in (None, self._encoder())
    )
    equal = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
    equal(started.frozen, random.frozen)
    for tree, before, name in (
      (started.trainable, random.trainable, "params"),
      (started.extra["batch_stats"], random.extra["batch_stats"], "batch_stats"),
    ):
      equal(tree["encoder"], self._expected()[name])
      equal({**tree, "encoder": {}}, {**before, "encoder": {}})

  def test_the_weights_are_an_argument_of_the_compiled_start_and_no_constant_in_it(self):
    image, encoder = np.zeros((1, 32, 32, 6), np.float32), self._encoder()

    plain, started = (experiment.wire(self._config(), given)["coarse"].method.init for given in (None, encoder))
    self.assertLen(jax.tree.leaves(started), len(jax.tree.leaves(encoder.variables)))
    constants = lambda init: sum(
      np.asarray(const).nbytes
      for const in jax.make_jaxpr(lambda init, *rest: init(*rest))(init, jax.random.key(0), image, None).consts
    )
    self.assertEqual(constants(started), constants(jax.tree_util.Partial(plain)))

  def test_scratch_leaves_the_stem_as_it_was(self):
    config, key = self._config(), jax.random.key(0)
    image = np.zeros((1, 32, 32, 6), np.float32)
    encoder = pretrained.load(self.path, bands=NAMES, adapter="scratch", encoder=weights.NET)
    random, started = (
      jax.jit(experiment.wire(config, given)["coarse"].method.init)(key, image, None).trainable["encoder"]
      for given in (None, encoder)
    )
    np.testing.assert_array_equal(started["stem_conv"]["kernel"], random["stem_conv"]["kernel"])
    np.testing.assert_array_equal(
      started["block1_layer1_conv2"]["kernel"], encoder.variables["params"]["block1_layer1_conv2"]["kernel"]
    )

  def test_conv1x1_starts_behind_a_convolution_that_passes_red_green_and_blue(self):
    config = self._config(pretrained_adapter="conv1x1", model={"encoder": {"input_adapter": True}})
    experiment.check_config(config)
    encoder = pretrained.load(self.path, bands=NAMES, adapter="conv1x1", encoder=weights.NET.clone(input_adapter=True))
    init = jax.jit(experiment.wire(config, encoder)["coarse"].method.init)
    params = init(jax.random.key(0), np.zeros((1, 32, 32, 6), np.float32), None).trainable["encoder"]
    np.testing.assert_array_equal(params["input_adapter"]["kernel"], np.eye(6, 3))  # NAMES begins with them.
    self.assertEqual(params["stem_conv"]["kernel"].shape[2], 3)

  def test_weights_of_another_size_stop_the_run_before_any_data_are_read(self):
    config = self._config()
    config.model.encoder.block_sizes = (1, 1, 2, 1)
    (self.root / "empty").mkdir(exist_ok=True)
    (self.root / "empty" / "index.csv").touch()  # Whoever reads it will find nothing.
    config.data.coarse.path = str(self.root / "empty")
    with self.assertRaisesRegex(
      UserError, r"block_sizes=\(1, 1, 1, 1\), but config.model.encoder has .*\(1, 1, 2, 1\)"
    ):
      self._train(config, self.root / "size")

  def test_a_file_of_another_hash_than_asked_for_is_refused(self):
    config = self._config(pretrained_sha256="0" * 64)
    with self.assertRaisesRegex(UserError, f"has the SHA-256 {self.sha256}, not the 0000"):
      self._train(config, self.root / "hash")

  def test_an_unknown_adapter_is_refused(self):
    with self.assertRaisesRegex(UserError, r"config\.pretrained_adapter='mean'.*inflate"):
      experiment.check_config(self._config(pretrained_adapter="mean"))


if __name__ == "__main__":
  absltest.main()
