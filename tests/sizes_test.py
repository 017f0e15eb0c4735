"""Images of any size, from 1 x 1 upwards, through both networks and a run."""

import functools
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import linen as nn
from jax import export

from configs import fine_hybrid
from minec2f_jax import experiment
from minec2f_jax.models import (
  AttentiveInjection,
  MineC2FNet,
  Segmenter,
  make_minec2fnet,
  make_segmenter,
  padding,
)
from minec2f_jax.models.fpn import upsample_nearest
from minec2f_jax.training import trainer
from tests import toy
from tests.oracles import layers

MODEL = {
  "encoder": {"block_sizes": (1, 1, 1, 1), "growth_rate": 4, "stem_features": 4, "bottleneck": 1},
  "decoder": {"pyramid_features": 6, "segmentation_features": 4},
  "fusion": {"levels": ("c2", "decoder"), "cbam_reduction": 2, "refinement_steps": 1},
}
BANDS = 3
SIZES = ((40, 56), (1, 1), (2, 33), (100, 7))


class UnpaddedSegmenter(Segmenter):
  """The three parts one after another, and nothing else."""

  def __call__(self, image, *, train=False):
    features = self.encoder(image, train=train)
    x = self.decoder(features, train=train)
    return {"features": features, "decoder": x, "logits": self.head(x)}


class Pyramid(nn.Module):
  """An encoder in shape alone."""

  def __call__(self, image, *, train):
    return {f"c{n}": nn.avg_pool(image, (2**n, 2**n), strides=(2**n, 2**n)) for n in range(1, 6)}


class Finest(nn.Module):
  """A decoder in shape alone."""

  def __call__(self, features, *, train):
    return features["c1"]


class Doubled(nn.Module):
  """A head in shape alone."""

  def __call__(self, x):
    return upsample_nearest(x[..., :1], 2)


def _image(height, width, *, seed=0):
  return np.random.default_rng(seed).normal(size=(2, height, width, BANDS)).astype(np.float32)


def _pad(image):
  """By NumPy; mirrored, and so without a constant border, wherever there is something to mirror."""
  height, width = image.shape[1:3]
  return np.pad(image, ((0, 0), (0, -height % 32), (0, -width % 32), (0, 0)), mode="reflect")


@functools.cache
def _segmenter():
  return make_segmenter(MODEL), layers.random_variables(make_segmenter(MODEL), _image(32, 32))


def _teacher(image):
  outputs = layers.apply(*_segmenter(), image)
  return {**outputs["features"], "decoder": outputs["decoder"]}


@functools.cache
def _student():
  net, image = make_minec2fnet(MODEL), _image(32, 32)
  return net, layers.random_variables(net, image, _teacher(image))


class PaddingTest(parameterized.TestCase):
  def test_rows_and_columns_are_mirrored_without_repeating_the_edge(self):
    image = np.arange(30.0).reshape(1, 30, 1, 1) + 100 * np.arange(31.0).reshape(1, 1, 31, 1)
    padded = padding.pad_image(image)
    self.assertEqual(padded.shape, (1, 32, 32, 1))
    np.testing.assert_array_equal(padded[0, :, 0, 0], [*range(30), 28, 27])  # by hand
    np.testing.assert_array_equal(padded[0, 0, :, 0], [*range(0, 3100, 100), 2900])
    np.testing.assert_array_equal(padded[:, :30, :31], image)

  def test_a_small_image_is_mirrored_back_and_forth_and_a_single_pixel_repeated(self):
    rows = np.array([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
    padded = padding.pad_image(rows)[0, :, :, 0]
    np.testing.assert_array_equal(padded[:8, 0], [1, 2, 3, 2, 1, 2, 3, 2])
    np.testing.assert_array_equal(padded, np.broadcast_to(padded[:, :1], (32, 32)))

  @parameterized.parameters(*SIZES)
  def test_equals_numpy(self, height, width):
    image = _image(height, width)
    np.testing.assert_array_equal(padding.pad_image(image), _pad(image))

  @parameterized.parameters((0, 32), (32, 0))
  def test_an_image_without_pixels_is_refused(self, height, width):
    with self.assertRaisesRegex(ValueError, "at least one pixel"):
      padding.pad_image(np.zeros((1, height, width, 3)))


class SizesTest(parameterized.TestCase):
  def test_every_size_from_1_to_70_gives_logits_of_that_size(self):
    # Networks without weights: what follows the padding sees three sizes only, and the tests below run it.
    segmenter = Segmenter(Pyramid(), Finest(), Doubled())
    injection = AttentiveInjection(cbam=False, refinement_steps=0)
    student = MineC2FNet(Pyramid(), Finest(), Doubled(), injection=injection, fusion_levels=("c4", "decoder"))

    def both(image):
      teacher = segmenter.apply({}, image)
      features = {**teacher["features"], "decoder": teacher["decoder"]}
      return teacher, student.init_with_output(jax.random.key(0), image, features)[0]

    for size in range(1, 71):
      whole = -(-size // 32) * 32
      for outputs in jax.eval_shape(both, jax.ShapeDtypeStruct((2, size, size, BANDS), jnp.float32)):
        self.assertEqual(outputs["logits"].shape, (2, size, size, 1))
        self.assertEqual(outputs["decoder"].shape[1:3], (whole // 2, whole // 2))
        for n in range(1, 6):
          self.assertEqual(outputs["features"][f"c{n}"].shape[1:3], (whole // 2**n, whole // 2**n))

  @parameterized.parameters(*SIZES)
  def test_logits_are_those_of_the_image_padded_outside_and_cropped(self, height, width):
    image = _image(height, width)
    for (net, variables), *teachers in (
      (_segmenter(),),
      (_student(), _teacher(image), _teacher(_pad(image))),
    ):
      outputs = layers.apply(net, variables, image, *teachers[:1])
      whole = layers.apply(net, variables, _pad(image), *teachers[1:])
      np.testing.assert_allclose(
        outputs["logits"], whole["logits"][:, :height, :width], rtol=1e-5, atol=1e-5 * np.abs(whole["logits"]).max()
      )
      jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), outputs["features"], whole["features"]
      )
      self.assertEqual((outputs["logits"].shape, outputs["logits"].dtype), ((2, height, width, 1), jnp.float32))
      self.assertGreater(np.ptp(whole["logits"]), 0)

  def test_the_halves_know_the_size_only_if_told(self):
    net, variables = _segmenter()
    image = _image(40, 56)
    features = layers.apply(net, variables, image, method="encode")
    whole = layers.apply(net, variables, features, method="decode")["logits"]
    part = layers.apply(net, variables, features, method="decode", size=(40, 56))["logits"]
    self.assertEqual(whole.shape, (2, 64, 64, 1))
    np.testing.assert_allclose(part, layers.apply(net, variables, image)["logits"], rtol=1e-5, atol=1e-5)

  @parameterized.product(size=[(32, 32), (64, 96)], train=[False, True])
  def test_a_multiple_of_32_adds_no_operation(self, size, train):
    image = _image(*size)
    net, variables = _segmenter()
    plain = UnpaddedSegmenter(net.encoder, net.decoder, net.head)
    program = lambda net: str(
      jax.make_jaxpr(functools.partial(net.apply, train=train, mutable=["batch_stats"]))(variables, image)
    )
    self.assertEqual(program(net), program(plain))
    self.assertNotEqual(program(net), str(jax.make_jaxpr(net.apply)(variables, image[:, 1:])))
    # The student without injection is the same program again.
    student = MineC2FNet(net.encoder, net.decoder, net.head, fusion_levels=())
    apply = lambda variables, image: student.apply(variables, image, {}, train=train, mutable=["batch_stats"])
    self.assertEqual(str(jax.make_jaxpr(apply)(variables, image)), program(plain))

  def test_the_image_is_not_shifted_against_its_larger_self(self):
    # A plain segmenter in inference sees no further than about 120 pixels: 145 from the seam nothing may change.
    net, variables = _segmenter()
    image = _image(192, 192)
    whole = layers.apply(net, variables, image)["logits"]
    part = layers.apply(net, variables, image[:, :177, :183])["logits"]
    np.testing.assert_allclose(part[:, :32, :32], whole[:, :32, :32], rtol=1e-4, atol=1e-4 * np.abs(whole).max())

  @parameterized.parameters(*SIZES[:2])
  def test_gradients_are_finite(self, height, width):
    image = _image(height, width)
    teacher, (net, variables) = _teacher(image), _student()
    value = lambda params: jnp.mean(
      net.apply({**variables, "params": params}, image, teacher, train=True, mutable=["batch_stats"])[0]["logits"] ** 2
    )
    for grad in jax.tree.leaves(jax.jit(jax.grad(value))(variables["params"])):
      self.assertTrue(np.all(np.isfinite(grad)))

  def test_an_export_with_symbolic_multiples_of_32_still_works(self):
    net, variables = _segmenter()
    predict = jax.jit(lambda image: net.apply(variables, image)["logits"])
    shape = export.symbolic_shape(f"b, 32*h, 32*w, {BANDS}")
    exported = export.export(predict)(jax.ShapeDtypeStruct(shape, jnp.float32))
    image = _image(64, 96)
    np.testing.assert_allclose(exported.call(image), predict(image), rtol=1e-5, atol=1e-5)

  def test_a_run_of_both_tasks_trains_at_100_pixels(self):
    config, source, prior = toy.shrink(fine_hybrid.get_config()), toy.ArraySource(4, size=100), None
    config.data.image_size = 100
    config.model.fusion.update(dict(levels=("c5",), cbam=False, refinement_steps=0))
    experiment.check_config(config)
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    for name, wired in experiment.wire(config).items():
      stage = experiment.make_stage(config, name, wired, source, source)
      prior = trainer.run_stage(stage, jax.random.key(0), prior, folder / name)
      logits = wired.predict(prior, {"image": source.image, "valid": source.valid})
      self.assertEqual(logits.shape, (4, 100, 100))
      self.assertTrue(np.all(np.isfinite(logits)))


if __name__ == "__main__":
  absltest.main()
