import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax.models import DenseNet, count_parameters
from tests.oracles import layers

TINY = dict(block_sizes=(2, 1, 1, 1), growth_rate=4, stem_features=6, bottleneck=2)


def _image(*, size=64, bands=6, seed=1):
  return np.random.default_rng(seed).normal(size=(2, size, size, bands)).astype(np.float32)


def _reference(image, variables, *, sizes, tap, dilated=False, train=False, epsilon=1.001e-5):
  """A DenseNet in NumPy, from the description in Huang et al. 2017, Sec. 3."""
  params, stats = variables["params"], variables["batch_stats"]

  def norm_relu(x, name):
    if train:
      return layers.relu(layers.batch_norm_in_training(x, params[name], epsilon))
    return layers.relu(layers.batch_norm(x, params[name], stats[name], epsilon))

  x = norm_relu(layers.conv(image, params["stem_conv"]["kernel"], stride=2), "stem_norm")
  features = {"c1": x}
  x = layers.windows(layers.pad(x, 1), 3, stride=2).max((-2, -1))
  for b, size in enumerate(sizes, start=1):
    for l in range(1, size + 1):
      name = f"block{b}_layer{l}_"
      y = norm_relu(x, name + "norm1") @ params[name + "conv1"]["kernel"]
      kernel = params[name + "conv2"]["kernel"]
      kernel = layers.spread(kernel, 2) if dilated and b == len(sizes) else kernel
      inner = norm_relu(y, name + "norm2")
      y = layers.conv(inner, kernel)
      if adapter := params.get(name + "adapter"):
        y = y + inner @ adapter["kernel"] + adapter["bias"]
      x = np.concatenate([x, y], -1)
    if b == len(sizes):
      return {**features, f"c{b + 1}": norm_relu(x, "final_norm")}
    normed = norm_relu(x, f"transition{b}_norm")
    x = normed @ params[f"transition{b}_conv"]["kernel"]
    features[f"c{b + 1}"] = x if tap == "conv" else normed
    if not dilated or b < len(sizes) - 1:
      x = layers.windows(x, 2, stride=2).mean((-2, -1))


class DenseNetTest(parameterized.TestCase):
  @parameterized.parameters(("conv", 32), ("norm", 32), ("conv", 16), ("conv", 32, True), ("conv", 16, True))
  def test_features_equal_a_numpy_densenet(self, tap, stride, adapters=False):
    net, image = DenseNet(**TINY, tap=tap, output_stride=stride, adapters=adapters), _image()
    variables = layers.random_variables(net, image, train=False)
    features = layers.apply(net, variables, image, train=False)
    expected = _reference(image, variables, sizes=TINY["block_sizes"], tap=tap, dilated=stride == 16)
    self.assertEqual(set(features), set(expected))
    for level, value in expected.items():  # 1e-5: float32 over a dozen layers, against float64.
      np.testing.assert_allclose(features[level], value, rtol=1e-4, atol=1e-5, err_msg=level)

  @parameterized.parameters((6, 6_963_264, 7_046_912), (3, 6_953_856, 7_037_504))
  def test_densenet121_has_the_parameters_of_keras_applications(self, bands, trainable, total):
    image = jax.ShapeDtypeStruct((1, 256, 256, bands), jnp.float32)
    shapes = layers.init_shapes(DenseNet(), image, train=False)
    self.assertEqual(count_parameters(shapes), {"trainable": trainable, "total": total})
    self.assertLen([name for name in shapes["params"] if "norm" in name], 121)

  @parameterized.parameters(
    ("conv", (64, 128, 256, 512, 1024)),  # As segmentation_models' four taps and the output.
    ("norm", (64, 256, 512, 1024, 1024)),
  )  # As segmentation_models.pytorch's.
  def test_densenet121_taps_have_the_published_shapes(self, tap, channels):
    image = jax.ShapeDtypeStruct((1, 256, 256, 6), jnp.float32)
    net = DenseNet(tap=tap)
    features, _ = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x, train=False), image)
    for n, width in enumerate(channels, start=1):
      self.assertEqual(features[f"c{n}"].shape, (1, 256 // 2**n, 256 // 2**n, width))

  def test_training_uses_the_batch_and_moves_the_statistics_by_the_momentum(self):
    net, image = DenseNet(**TINY, bn_momentum=0.9), _image()
    variables = layers.random_variables(net, image, train=False)
    stem = layers.conv(image, variables["params"]["stem_conv"]["kernel"], stride=2)
    features, updates = layers.apply(net, variables, image, train=True, mutable=["batch_stats"])

    batch = {"mean": stem.mean((0, 1, 2)), "var": stem.var((0, 1, 2))}
    c1 = layers.relu(layers.batch_norm(stem, variables["params"]["stem_norm"], batch, 1.001e-5))
    np.testing.assert_allclose(features["c1"], c1, rtol=1e-4, atol=1e-5)
    for name, value in batch.items():
      old = variables["batch_stats"]["stem_norm"][name]
      np.testing.assert_allclose(
        updates["batch_stats"]["stem_norm"][name], 0.9 * old + 0.1 * value, rtol=1e-4, atol=1e-6
      )

  def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(self):
    net, image = DenseNet(**TINY, dtype=jnp.bfloat16), _image(size=32)
    features, variables = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x, train=False), image)
    self.assertEqual({x.dtype for x in features.values()}, {jnp.dtype(jnp.bfloat16)})
    self.assertEqual({x.dtype for x in jax.tree.leaves(variables)}, {jnp.dtype(jnp.float32)})

  def test_in_training_the_dilated_block_takes_the_statistics_of_the_whole_batch(self):
    net, image = DenseNet(**TINY, output_stride=16), _image()
    variables = layers.random_variables(net, image, train=False)
    features, _ = layers.apply(net, variables, image, train=True, mutable=["batch_stats"])
    expected = _reference(image, variables, sizes=TINY["block_sizes"], tap="conv", dilated=True, train=True)
    np.testing.assert_allclose(features["c5"], expected["c5"], rtol=1e-3, atol=1e-3)  # Statistics of 32 pixels.

  def test_adapters_are_added_to_densenet121_and_nothing_else_changes(self):
    image = jax.ShapeDtypeStruct((1, 256, 256, 6), jnp.float32)
    plain, adapted = (layers.init_shapes(DenseNet(adapters=flag), image, train=False) for flag in (False, True))
    added = {name: adapted["params"].pop(name) for name in set(adapted["params"]) - set(plain["params"])}
    self.assertLen(added, 58)
    self.assertEqual(count_parameters({"params": added})["trainable"], 239_424)
    self.assertEqual(adapted, plain)

  def test_a_network_with_adapters_starts_as_the_one_without(self):
    image = _image(size=32)
    start = lambda net: jax.jit(lambda x: net.init_with_output(jax.random.key(3), x, train=False)[0])(image)
    outputs = [start(DenseNet(**TINY, adapters=flag)) for flag in (False, True)]
    jax.tree.map(np.testing.assert_array_equal, *outputs)

  def test_the_output_stride_changes_the_last_map_alone(self):
    image = jax.ShapeDtypeStruct((2, 64, 96, 6), jnp.float32)
    init = lambda stride: jax.eval_shape(
      lambda x: DenseNet(**TINY, output_stride=stride).init_with_output(jax.random.key(0), x, train=True), image
    )
    (features, variables), (dilated, same) = init(32), init(16)
    self.assertEqual(same, variables)
    self.assertEqual(dilated.pop("c5").shape, (2, 4, 6, features.pop("c5").shape[-1]))
    self.assertEqual(dilated, features)

  def test_an_unknown_output_stride_is_refused(self):
    with self.assertRaisesRegex(ValueError, "output_stride is 8; it must be 16 or 32"):
      layers.init_shapes(DenseNet(**TINY, output_stride=8), _image(size=32), train=False)

  def test_an_unknown_tap_is_refused(self):
    with self.assertRaisesRegex(ValueError, "tap is 'pool'"):
      layers.init_shapes(DenseNet(**TINY, tap="pool"), _image(size=32), train=False)


if __name__ == "__main__":
  absltest.main()
