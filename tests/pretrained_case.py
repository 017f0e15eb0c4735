"""What tests of weight files share: a file, its writers, and how it is loaded or refused."""

import pathlib
import tempfile

from absl.testing import parameterized
from safetensors.numpy import save_file

from minec2f_jax.errors import UserError
from minec2f_jax.models import pretrained
from tests import weights

WRITERS = {
  "published": lambda path, variables: weights.write_keras(path, variables, published=True),
  "keras": weights.write_keras,
  "keras3": weights.write_keras_3,
  "safetensors": weights.write_safetensors,
}


class PretrainedTestCase(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.path = self.root / "some file"

  def _load(self, *, bands=pretrained.RGB, adapter="inflate", encoder=weights.NET, path=None):
    return pretrained.load(path or self.path, bands=bands, adapter=adapter, encoder=encoder)

  def _refused(self, pattern, **options):
    with self.assertRaisesRegex(UserError, pattern) as caught:
      self._load(**options)
    self.assertIn(str(self.path), str(caught.exception))
    self.assertNotIn("\n", str(caught.exception))
    return str(caught.exception)

  def _write(self, change):
    """A file of torch's names, after `change` has altered the tensors."""
    tensors = weights.torch_tensors(weights.random_encoder())
    change(tensors)
    save_file(tensors, self.path)
