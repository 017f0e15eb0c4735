"""A run of the baseline "Prithvi" whose encoder starts from a file."""

import hashlib
import json
import pathlib
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized

from configs.baselines import prithvi
from minec2f_jax import experiment
from minec2f_jax.errors import UserError
from minec2f_jax.models import pretrained
from tests import prithvi_weights, weights
from tests.toy_folder import NAMES, run_config, write_folder


class PrithviRunTest(parameterized.TestCase):
  """With a learning rate so small that the weights stay what they were."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.data, cls.workdir, cls.path = cls.root / "data", cls.root / "run", cls.root / "prithvi.safetensors"
    write_folder(cls.data)
    prithvi_weights.write_safetensors(cls.path, prithvi_weights.random_weights())
    experiment.train(cls._config(), cls.workdir)

  @classmethod
  def _config(cls, **overrides):
    config, toy = prithvi.get_config(), run_config(cls.data)
    config.data, config.optimizer = toy.data, toy.optimizer
    config.optimizer.learning_rate = 1e-30
    config.fine.epochs = 1
    config.model.encoder.update(dict(width=prithvi_weights.WIDTH, depth=2, heads=2))
    config.model.decoder.features = 4
    config.pretrained = str(cls.path)
    config.update(overrides)
    return config

  def test_the_encoder_starts_from_the_file_and_the_rest_as_without_it(self):
    encoder = pretrained.load(self.path, bands=NAMES, encoder=prithvi_weights.NET)
    key, image = jax.random.key(0), np.zeros((1, 32, 32, 6), np.float32)
    random, started = (
      jax.jit(experiment.wire(self._config(), given)["fine"].method.init)(key, image, None) for given in (None, encoder)
    )
    equal = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
    equal(started.trainable["encoder"], encoder.variables["params"])
    equal({**started.trainable, "encoder": {}}, {**random.trainable, "encoder": {}})
    equal(started.extra, random.extra)

  def test_the_run_keeps_them_and_notes_the_files_hash(self):
    expected = pretrained.load(self.path, bands=NAMES, encoder=prithvi_weights.NET).variables["params"]
    method = experiment.wire(self._config())["fine"].method
    model = experiment.load_stage(self._config(), "fine", method, self.workdir)
    jax.tree.map(np.testing.assert_array_equal, model.trainable["encoder"], expected)
    noted = json.loads((self.workdir / "config.json").read_text())
    self.assertEqual(noted["pretrained_sha256"], hashlib.sha256(self.path.read_bytes()).hexdigest())

  def test_scores_can_be_had_again_without_the_file(self):
    experiment.evaluate(self._config(pretrained="/no/such/file"), self.workdir)

  @parameterized.parameters(
    (dict(model=dict(encoder=dict(depth=3))), "with depth=2, but config.model.encoder has depth=3"),
    (dict(pretrained_adapter="conv1x1"), "adapter 'conv1x1'.*take inflate"),
  )
  def test_what_does_not_go_with_the_file_stops_the_run_before_any_data_are_read(self, overrides, pattern):
    config = self._config(**overrides)
    (self.root / "empty").mkdir(exist_ok=True)
    (self.root / "empty" / "index.csv").touch()  # Whoever reads it will find nothing.
    config.data.fine.path = str(self.root / "empty")
    with self.assertRaisesRegex(UserError, pattern):
      experiment.train(config, self.root / "other")

  def test_a_densenets_file_is_refused(self):
    path = self.root / "densenet.safetensors"
    weights.write_safetensors(path, weights.random_encoder())
    with self.assertRaisesRegex(UserError, "holds a DenseNet, but .* is a Prithvi encoder"):
      experiment.train(self._config(pretrained=str(path)), self.root / "densenet")

  def test_features_cannot_be_injected_into_it(self):
    config = self._config(fine=dict(method="attentive_distillation"))
    with self.assertRaisesRegex(UserError, "architecture is 'prithvi', and MineC2FNet"):
      experiment.check_config(config)


if __name__ == "__main__":
  absltest.main()
