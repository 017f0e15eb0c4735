"""What fills invalid pixels reaches nothing: from the file through resize, augmentation, loss, gradient and scores."""

import pathlib
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized

from configs import fine_hybrid
from minec2f_jax import experiment
from minec2f_jax.data import pipeline
from tests import toy
from tests.rasters import write_geotiff

BANDS = ("red", "green", "blue", "nir", "swir1", "swir2")
SIZE = 40  # Not the network's: the chips are resized.


def write_folder(root: pathlib.Path, fill: float) -> pathlib.Path:
  """Four chips whose invalid pixels, a third of them, hold `fill` in the image and 255 in the label."""
  for name in ("images", "masks"):
    (root / name).mkdir(parents=True)
  for number in range(6):
    rng = np.random.default_rng(number)
    image = rng.uniform(0.02, 0.6, (6, SIZE, SIZE)).astype(np.float32)
    label = (image[:1] > 0.3).astype(np.uint8)
    known = rng.random((SIZE, SIZE)) > 0.1
    known[:, : 3 * number] = False
    write_geotiff(root / "images" / f"{number}.tif", np.where(known, image, np.float32(fill)), BANDS, mask=known)
    write_geotiff(root / "masks" / f"{number}.tif", label)
  rows = [f"{n},{split}" for n, split in enumerate(("train",) * 4 + ("validation", "test"))]
  (root / "index.csv").write_text("\n".join(["id,split", *rows]) + "\n")
  return root


class ValidityTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.config = toy.shrink(fine_hybrid.get_config())
    self.config.stages = ("coarse",)
    self.config.coarse.loss.update(dict(dice=1.0, ssim=1.0, boundary=1.0))
    self.wired = experiment.wire(self.config)["coarse"]
    self.step = jax.jit(jax.value_and_grad(self.wired.method.loss, has_aux=True))
    self.prepare, self.variables = None, None

  def _everything(self, fill: float) -> dict[str, bytes]:
    """Whatever comes out of a training step and an evaluation, as bytes; pixels of the output only where valid."""
    self.config.data.coarse.path = str(write_folder(self.root / str(fill), fill))
    source = experiment.open_source(self.config, "coarse", "train")
    stage = experiment.make_stage(self.config, "coarse", self.wired, source, source)
    self.prepare = self.prepare or jax.jit(stage.prepare)  # Compiled once.
    batch = next(pipeline.train_batches({"coarse": source}, batch_size=4, seed=0, num_threads=0))
    batch = {"coarse": self.prepare(jax.random.key(1), batch["coarse"])}
    self.variables = self.variables or self.wired.method.init(jax.random.key(0), batch["coarse"]["image"], None)
    (loss, _), gradient = self.step(*self.variables, batch, jax.random.key(2))
    (sample, _), *_ = pipeline.eval_batches(source, batch_size=4)
    logits = np.asarray(self.wired.predict(self.variables, sample))
    self.assertTrue(np.isfinite(loss) and np.isfinite(logits).all())
    self.assertBetween(float(sample["valid"].mean()), 0.5, 0.95)
    return {
      "samples": b"".join(source[i][name].tobytes() for i in range(4) for name in ("image", "label", "valid")),
      "augmented": np.asarray(batch["coarse"]["image"]).tobytes(),
      "loss": np.asarray(loss).tobytes(),
      "gradient": b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(gradient)),
      "logits": logits[sample["valid"]].tobytes(),
      "scores": repr(stage.validate(self.variables)).encode(),
    }

  def test_no_fill_changes_a_bit_of_anything_that_counts(self):
    expected = self._everything(0.25)
    for fill in (0.0, 65535.0, -9999.0, np.nan, np.inf):
      self.assertEqual(self._everything(fill), expected, f"fill {fill}")


if __name__ == "__main__":
  absltest.main()
