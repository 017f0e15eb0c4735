import importlib.util
import unittest

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax import lax

from minec2f_jax.models import ASPP, DeepLabV3Plus, PointwiseHead, count_parameters, deeplabv3plus, factory
from tests import overfit, toy
from tests.oracles import carry, layers, network_parity

needs_torch = unittest.skipUnless(importlib.util.find_spec("torch"), "torch is not installed: pip install torch")
RATES = (1, 2, 5)
SMALL = dict(aspp_features=5, rates=RATES, low_level_features=3, features=4)


def _features(coarse):
  rng = np.random.default_rng(1)
  return {
    "c2": rng.normal(size=(2, 16, 16, 4)).astype(np.float32),
    "c5": rng.normal(size=(2, coarse, coarse, 6)).astype(np.float32),
  }


def _norm_relu(x, variables, name):
  """In training if there are no statistics."""
  params, stats = variables["params"][name], variables.get("batch_stats")
  if stats is None:
    return layers.relu(layers.batch_norm_in_training(x, params, 1e-3))
  return layers.relu(layers.batch_norm(x, params, stats[name], 1e-3))


def _aspp(x, variables):
  """Inference in NumPy; dilated convolutions with zeros between the taps of their kernels."""
  kernel = lambda name: variables["params"][f"{name}_conv"]["kernel"]
  branches = {"point": x @ kernel("point")}
  for n, rate in enumerate(RATES, start=1):
    branches[f"dilated{n}"] = layers.conv(x, layers.spread(kernel(f"dilated{n}"), rate))
  branches["pool"] = x.mean((1, 2), keepdims=True) @ kernel("pool")
  maps = [_norm_relu(y, variables, f"{name}_norm") for name, y in branches.items()]
  maps[-1] = np.broadcast_to(maps[-1], maps[0].shape)
  return _norm_relu(np.concatenate(maps, -1) @ kernel("project"), variables, "project_norm")


def _reference(features, variables):
  params = variables["params"]
  x = _aspp(features["c5"], {kind: tree["aspp"] for kind, tree in variables.items()})
  x = layers.bilinear(x, features["c2"].shape[1] // x.shape[1])
  low = _norm_relu(features["c2"] @ params["low_level_conv"]["kernel"], variables, "low_level_norm")
  x = np.concatenate([x, low], -1)
  for n in "12":
    x = _norm_relu(layers.conv(x, params[f"conv{n}"]["kernel"]), variables, f"norm{n}")
  return x


class DilatedConvTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 5, 6, 7, 18)
  def test_equals_a_convolution_with_zeros_between_the_taps(self, rate):
    rng = np.random.default_rng(rate)
    x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 6, 7, 3), (3, 3, 3, 4)))
    output = jax.jit(deeplabv3plus.dilated_conv, static_argnames="rate")(x, kernel, rate=rate)
    np.testing.assert_allclose(output, layers.conv(x, layers.spread(kernel, rate)), rtol=1e-5, atol=1e-5)

  def test_gradients_are_those_of_xlas_dilated_convolution(self):
    rng = np.random.default_rng(0)
    shapes = ((2, 6, 7, 3), (3, 3, 3, 4), (2, 6, 7, 4))
    x, kernel, weight = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    theirs = lambda x, kernel: lax.conv_general_dilated(
      x, kernel, (1, 1), ((2, 2), (2, 2)), rhs_dilation=(2, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    ours = lambda x, kernel: deeplabv3plus.dilated_conv(x, kernel, rate=2)
    gradient = lambda run: jax.jit(jax.grad(lambda *args: jnp.sum(weight * run(*args)), (0, 1)))(x, kernel)
    for got, expected in zip(gradient(ours), gradient(theirs)):
      np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


class DeepLabV3PlusTest(parameterized.TestCase):
  def test_pyramid_equals_a_numpy_one(self):
    net, x = ASPP(5, RATES), _features(8)["c5"]
    variables = carry.random_variables(net, x, train=False)
    output = layers.apply(net, variables, x, train=False)
    np.testing.assert_allclose(output, _aspp(x, variables), rtol=1e-4, atol=1e-5)

  @parameterized.parameters(4, 2)
  def test_map_equals_a_numpy_decoder(self, coarse):
    net, features = DeepLabV3Plus(**SMALL), _features(coarse)
    variables = carry.random_variables(net, features, train=False)
    output = layers.apply(net, variables, features, train=False)
    self.assertEqual(output.shape, (2, 16, 16, 4))
    expected = _reference(features, variables)
    self.assertGreater((expected > 0).mean(), 0.1)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)

  def test_bfloat16_stays_near_float32(self):
    features = _features(4)
    variables = carry.random_variables(DeepLabV3Plus(**SMALL), features, train=False)
    output = layers.apply(DeepLabV3Plus(**SMALL, dtype=jnp.bfloat16), variables, features, train=False)
    self.assertEqual(output.dtype, jnp.bfloat16)
    expected = _reference(features, variables)
    error = np.sqrt(np.mean((np.asarray(output, np.float32) - expected) ** 2) / np.mean(expected**2))
    self.assertLess(error, 2e-2)  # 8 significant bits, five layers.

  def test_training_normalises_with_the_batch_and_moves_every_statistic(self):
    net, features = DeepLabV3Plus(**SMALL), _features(4)
    variables = carry.random_variables(net, features, train=False)
    output, updates = layers.apply(net, variables, features, train=True, mutable=["batch_stats"])
    expected = _reference(features, {"params": variables["params"]})
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)
    moved = jax.tree.map(lambda old, new: np.any(old != new), variables["batch_stats"], dict(updates)["batch_stats"])
    self.assertTrue(all(jax.tree.leaves(moved)))

  def test_dropout_is_active_in_training_alone(self):
    features = _features(4)
    variables = carry.random_variables(DeepLabV3Plus(**SMALL), features, train=False)
    net = DeepLabV3Plus(**SMALL, dropout=0.5)
    run = jax.jit(
      lambda key: net.apply(variables, features, train=True, rngs={"dropout": key}, mutable=["batch_stats"])[0]
    )
    self.assertTrue(np.any(run(jax.random.key(0)) != run(jax.random.key(1))))
    output = layers.apply(net, variables, features, train=False)  # Without a key.
    np.testing.assert_allclose(output, _reference(features, variables), rtol=1e-4, atol=1e-5)

  @parameterized.parameters(
    (dict(c2=None), r"DeepLabV3\+ needs the features c2 and c5; missing: \['c2'\]"),
    (dict(c5=np.zeros((2, 3, 3, 6), np.float32)), "c2 .* is not 4 or 8 times .* multiple of 32"),
  )
  def test_features_that_do_not_fit_are_refused(self, change, pattern):
    features = {level: x for level, x in {**_features(4), **change}.items() if x is not None}
    with self.assertRaisesRegex(ValueError, pattern):
      layers.init_shapes(DeepLabV3Plus(**SMALL), features, train=False)


class PointwiseHeadTest(parameterized.TestCase):
  @parameterized.parameters((1, "float32", 1e-5), (3, "float32", 1e-5), (1, "bfloat16", 5e-2))
  def test_equals_bilinear_upsampling_then_a_1x1_convolution(self, classes, dtype, tolerance):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    head = PointwiseHead(classes=classes, dtype=jnp.dtype(dtype))
    variables = layers.random_variables(head, x)
    logits = layers.apply(head, variables, x)
    self.assertEqual(logits.dtype, jnp.float32)
    expected = layers.bilinear(x, 4) @ variables["params"]["kernel"] + variables["params"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=tolerance, atol=tolerance)


class WholeTest(parameterized.TestCase):
  @parameterized.parameters(16, 32)
  def test_deeplabv3plus_densenet121_has_as_many_parameters_as_its_layers(self, stride):
    net = factory.make_segmenter({"architecture": "deeplabv3plus_densenet", "encoder": {"output_stride": stride}})
    shapes = layers.init_shapes(net, jax.ShapeDtypeStruct((1, 256, 256, 6), jnp.float32))
    aspp = 1024 * 256 + 3 * 9 * 1024 * 256 + 1024 * 256 + 5 * 256 * 256
    decoder = 128 * 48 + 9 * (256 + 48) * 256 + 9 * 256 * 256
    norms = 8 * 256 + 48  # Channels.
    trainable = 6_963_264 + aspp + decoder + 2 * norms + 257
    self.assertEqual(count_parameters(shapes), {"trainable": trainable, "total": trainable + 83_648 + 2 * norms})
    self.assertEqual(trainable + 83_648 + 2 * norms, 16_281_793)

  @needs_torch
  def test_a_small_one_at_16_is_that_of_torch(self):  # In training too: python -m benchmarks.parity
    options = dict(size=64, blocks=(1, 1, 1, 2), features=16, rates=(1, 2, 3), training=False)
    for row in network_parity.torch_deeplabv3plus(**options):
      with self.subTest(row.what, worst=row.worst):
        self.assertLessEqual(row.max_rel, 1e-4)

  def test_it_learns_four_images_by_heart(self):
    model = dict(architecture="deeplabv3plus_densenet", encoder=dict(**toy.ENCODER, output_stride=16))
    model["decoder"] = dict(aspp_features=8, rates=(1, 2, 3), low_level_features=6, features=12, bn_momentum=0.9)
    stage = dict(method="supervised", streams=("fine",), init_from_prior=False, loss=dict(bce=1.0, dice=1.0))
    self.assertGreater(overfit.iou_of_learnt_images({"model": model, "fine": stage}, steps=100), 0.95)


if __name__ == "__main__":
  absltest.main()
