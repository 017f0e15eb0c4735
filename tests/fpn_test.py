import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax.models import FPN, Head, fpn
from tests.oracles import layers

CHANNELS = (3, 4, 5, 6, 7)
SMALL = dict(pyramid_features=6, segmentation_features=4)


def _features(*, size=32, seed=1):
  rng = np.random.default_rng(seed)
  return {
    f"c{n}": rng.normal(size=(2, size // 2**n, size // 2**n, c)).astype(np.float32)
    for n, c in enumerate(CHANNELS, start=1)
  }


def _reference(features, variables, merge):
  """Inference of the decoder in NumPy, literally: upsample, merge, convolve."""
  params, stats = variables["params"], variables["batch_stats"]

  def dense(x, name):
    return x @ params[name]["kernel"] + params[name]["bias"]

  def norm_relu(x, name):
    return layers.relu(layers.batch_norm(x, params[name], stats[name], 1e-3))

  x, maps = dense(features["c5"], "top"), []
  for n in (4, 3, 2, 1):
    x = layers.nearest(x, 2) + dense(features[f"c{n}"], f"lateral_c{n}")
    y = x
    for k in "12":
      y = layers.conv(y, params[f"segment_c{n}_conv{k}"]["kernel"])
      y = norm_relu(y, f"segment_c{n}_norm{k}")
    maps.append(layers.nearest(y, 2 ** (n - 1)))
  merged = sum(maps) if merge == "sum" else np.concatenate(maps[::-1], -1)
  return norm_relu(layers.conv(merged, params["final_conv"]["kernel"]), "final_norm")


class FPNTest(parameterized.TestCase):
  @parameterized.parameters("concat", "sum")
  def test_map_equals_a_numpy_decoder(self, merge):
    net, features = FPN(**SMALL, merge=merge), _features()
    variables = layers.random_variables(net, features, train=False)
    output = layers.apply(net, variables, features, train=False)
    np.testing.assert_allclose(output, _reference(features, variables, merge), rtol=1e-4, atol=1e-5)

  def test_training_normalises_the_final_map_with_the_batch(self):
    net, features = FPN(**SMALL), _features()
    variables = layers.random_variables(net, features, train=False)
    variables["params"]["final_norm"] = {"scale": np.ones(4), "bias": np.full(4, 10.0)}  # Far from the ReLU's corner.
    output, updates = layers.apply(net, variables, features, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(output.mean((0, 1, 2)), 10.0, atol=1e-3)
    np.testing.assert_allclose(output.std((0, 1, 2)), 1.0, atol=0.05)  # Not exact: epsilon 1e-3.
    moved = jax.tree.map(lambda old, new: np.any(old != new), variables["batch_stats"], dict(updates)["batch_stats"])
    self.assertTrue(all(jax.tree.leaves(moved)))

  def test_dropout_drops_whole_channels_in_training_only(self):
    net, features = FPN(**SMALL, dropout=0.5), _features()
    variables = layers.random_variables(net, features, train=False)

    @jax.jit
    def run(key):
      return net.apply(
        variables,
        features,
        train=True,
        rngs={"dropout": key},
        capture_intermediates=True,
        mutable=["batch_stats", "intermediates"],
      )[1]["intermediates"]

    seen, other = run(jax.random.key(0)), run(jax.random.key(1))
    before = np.maximum(seen["segment_c1_norm2"]["__call__"][0], 0)
    after = np.asarray(seen["dropout0"]["__call__"][0])
    kept = np.any(after != 0, axis=(1, 2), keepdims=True)  # [B, 1, 1, C]
    np.testing.assert_allclose(after, 2 * before * kept, rtol=1e-6)  # 2 = 1 / (1 - rate)
    self.assertFalse(kept.all())
    self.assertTrue(np.any(after != other["dropout0"]["__call__"][0]))
    np.testing.assert_allclose(  # Without a key, because nothing is dropped.
      layers.apply(net, variables, features, train=False),
      _reference(features, variables, "concat"),
      rtol=1e-4,
      atol=1e-5,
    )

  def test_a_size_that_is_no_multiple_of_32_is_refused(self):
    features = {**_features(), "c4": np.zeros((2, 3, 3, 6), np.float32)}
    with self.assertRaisesRegex(ValueError, "multiple of 32"):
      layers.init_shapes(FPN(**SMALL), features, train=False)

  def test_missing_features_and_unknown_merges_are_refused(self):
    features = _features()
    with self.assertRaisesRegex(ValueError, "merge is 'max'"):
      layers.init_shapes(FPN(**SMALL, merge="max"), features, train=False)
    del features["c2"]
    with self.assertRaisesRegex(ValueError, r"missing: \[\'c2\'\]"):
      layers.init_shapes(FPN(**SMALL), features, train=False)


class ConvOfUpsampledTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 3, 4, 5, 8)
  def test_equals_upsampling_then_convolving(self, factor):
    rng = np.random.default_rng(factor)
    x = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 4, 2)).astype(np.float32)
    output = jax.jit(fpn.conv_of_upsampled, static_argnames="factor")(x, kernel, factor=factor)
    np.testing.assert_allclose(output, layers.conv(layers.nearest(x, factor), kernel), rtol=1e-5, atol=1e-5)

  def test_gradients_equal_those_of_upsampling_then_convolving(self):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 4, 2)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 2, 3)).astype(np.float32)
    weight = rng.normal(size=(1, 12, 16, 3)).astype(np.float32)
    ours = jax.grad(lambda *a: (weight * fpn.conv_of_upsampled(*a, factor=4)).sum(), (0, 1))
    # Linear in the kernel: its gradient is the correlation of windows and weights. Likewise in x.
    by_x, by_kernel = jax.jit(ours)(x, kernel)
    windows = layers.windows(layers.pad(layers.nearest(x, 4), 1), 3)
    np.testing.assert_allclose(by_kernel, np.einsum("bhwcij,bhwf->ijcf", windows, weight), rtol=1e-4, atol=1e-4)
    back = layers.conv(weight, kernel[::-1, ::-1].transpose(0, 1, 3, 2))
    np.testing.assert_allclose(by_x, back.reshape(1, 3, 4, 4, 4, 2).sum((2, 4)), rtol=1e-4, atol=1e-4)

  def test_nearest_repeats_pixels_into_blocks(self):
    x = np.array([[1.0, 2.0]])[None, ..., None]
    np.testing.assert_array_equal(fpn.upsample_nearest(x, 2)[0, ..., 0], [[1, 1, 2, 2], [1, 1, 2, 2]])


class HeadTest(parameterized.TestCase):
  @parameterized.parameters(1, 3)
  def test_equals_bilinear_upsampling_then_convolving(self, classes):
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 4)).astype(np.float32)
    head = Head(classes=classes)
    variables = layers.random_variables(head, x)
    expected = layers.conv(layers.bilinear_x2(x), variables["params"]["kernel"])
    expected += variables["params"]["bias"]
    np.testing.assert_allclose(layers.apply(head, variables, x), expected, rtol=1e-5, atol=1e-5)

  def test_logits_are_float32_when_the_network_is_not(self):
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 8)).astype(np.float32)
    variables = layers.random_variables(Head(), x)
    logits = layers.apply(Head(dtype=jnp.bfloat16), variables, x)
    self.assertEqual(logits.dtype, jnp.float32)
    np.testing.assert_allclose(  # bfloat16 has 8 significant bits.
      logits, layers.apply(Head(), variables, x), atol=5e-2
    )


if __name__ == "__main__":
  absltest.main()
