import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax.models import CBAM, count_parameters
from tests.oracles import layers


def _features(channels=8, seed=1):
  return np.random.default_rng(seed).normal(size=(2, 6, 5, channels)).astype(np.float32)


class CBAMTest(parameterized.TestCase):
  @parameterized.product(spatial_bn=[True, False], spatial_kernel=[7, 3])
  def test_output_equals_a_numpy_cbam(self, spatial_bn, spatial_kernel):
    net = CBAM(reduction=4, spatial_bn=spatial_bn, spatial_kernel=spatial_kernel)
    x = _features()
    variables = layers.random_variables(net, x, train=False)
    expected = layers.cbam(x, variables["params"], variables.get("batch_stats"))
    output = layers.apply(net, variables, x, train=False)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)

  @parameterized.parameters((64, 680), (128, 2284), (256, 8564), (512, 33412), (1024, 132260))
  def test_parameters_are_those_of_the_published_module(self, channels, count):
    x = jax.ShapeDtypeStruct((1, 8, 8, channels), jnp.float32)
    shapes = layers.init_shapes(CBAM(), x, train=False)
    self.assertEqual(count_parameters(shapes), {"trainable": count, "total": count + 2})

  def test_weights_of_zero_leave_a_quarter(self):
    x = _features()
    net = CBAM(reduction=4)
    variables = jax.tree.map(np.zeros_like, layers.random_variables(net, x, train=False))
    np.testing.assert_allclose(  # Both gates are sigmoid(0).
      layers.apply(net, variables, x, train=False), x / 4, rtol=1e-6
    )

  def test_fewer_channels_than_the_reduction_keep_one_hidden_unit(self):
    variables = layers.init_shapes(CBAM(reduction=16), _features(), train=False)
    self.assertEqual(variables["params"]["reduce"]["kernel"].shape, (8, 1))

  def test_training_normalises_the_spatial_attention_with_the_batch(self):
    net, x = CBAM(reduction=4), _features()
    variables = layers.random_variables(net, x, train=False)
    output, updates = layers.apply(net, variables, x, train=True, mutable=["batch_stats"])
    params = variables["params"]
    neutral = {"spatial_norm": {"mean": np.zeros(1), "var": np.ones(1)}}
    attended = layers.cbam(x, {**params, "spatial_norm": {"scale": 1, "bias": 0}}, neutral, 0)
    # The spatial convolution's output, recovered from the attended map of an identity BN.
    channel = layers.cbam(x, {**params, "spatial_conv": {"kernel": np.zeros((7, 7, 2, 1))}}, None) * 2
    raw = np.log(1 / (channel / attended - 1))[..., :1]
    batch = {"spatial_norm": {"mean": raw.mean(), "var": raw.var()}}
    np.testing.assert_allclose(output, layers.cbam(x, params, batch), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
      updates["batch_stats"]["spatial_norm"]["mean"],
      0.99 * variables["batch_stats"]["spatial_norm"]["mean"] + 0.01 * raw.mean(),
      rtol=1e-4,
    )


if __name__ == "__main__":
  absltest.main()
