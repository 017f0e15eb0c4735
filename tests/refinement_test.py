import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax.models import Refinement, count_parameters
from tests.oracles import layers


def _features(channels=8, seed=1):
  return np.random.default_rng(seed).normal(size=(2, 6, 5, channels)).astype(np.float32)


class RefinementTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 3)
  def test_output_equals_equations_6_to_8_in_numpy(self, steps):
    net, x = Refinement(steps=steps, reduction=4), _features()
    variables = layers.random_variables(net, x, train=False)
    params, stats = variables["params"], variables["batch_stats"]
    expected = x
    for t in range(1, steps + 1):
      update = layers.conv(expected, params[f"step{t}_conv"]["kernel"])
      update = layers.relu(layers.batch_norm(update, params[f"step{t}_norm"], stats[f"step{t}_norm"], 1e-5))
      expected = expected + layers.cbam(update, params[f"step{t}_cbam"], stats[f"step{t}_cbam"])
    np.testing.assert_allclose(layers.apply(net, variables, x, train=False), expected, rtol=1e-4, atol=1e-5)

  def test_zero_convolutions_and_zero_bn_biases_make_it_the_identity(self):
    net, x = Refinement(reduction=4), _features()
    variables = layers.random_variables(net, x, train=False)
    for step in (1, 2):
      variables["params"][f"step{step}_conv"]["kernel"][:] = 0
      variables["params"][f"step{step}_norm"]["bias"][:] = 0
    output, _ = layers.apply(net, variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(output, x)

  def test_zero_init_starts_as_the_identity_and_can_learn(self):
    net, x = Refinement(reduction=4, zero_init=True), _features()

    @jax.jit
    def start(x):
      output, variables = net.init_with_output(jax.random.key(0), x, train=False)
      loss = lambda params: net.apply({**variables, "params": params}, x, train=False).sum()
      return output, jax.grad(loss)(variables["params"])

    output, grads = start(x)
    np.testing.assert_array_equal(output, x)
    for step in (1, 2):
      self.assertGreater(np.abs(grads[f"step{step}_gain"]).min(), 0)

  def test_without_steps_it_is_the_identity_and_has_no_parameters(self):
    x = _features()
    output, variables = Refinement(steps=0).init_with_output(jax.random.key(0), x, train=False)
    np.testing.assert_array_equal(output, x)
    self.assertEqual(variables, {})

  def test_every_step_has_weights_of_its_own(self):
    x = jax.ShapeDtypeStruct((1, 4, 4, 64), jnp.float32)
    shapes = layers.init_shapes(Refinement(steps=3), x, train=False)
    # Each: a 3x3 convolution, the BN's affine, and a CBAM of 64 channels (680).
    self.assertEqual(count_parameters(shapes)["trainable"], 3 * (9 * 64 * 64 + 2 * 64 + 680))

  def test_training_moves_the_statistics_towards_the_batch(self):
    net, x = Refinement(steps=1, reduction=4), _features()
    variables = layers.random_variables(net, x, train=False)
    _, updates = layers.apply(net, variables, x, train=True, mutable=["batch_stats"])
    batch = layers.conv(x, variables["params"]["step1_conv"]["kernel"]).mean((0, 1, 2))
    np.testing.assert_allclose(
      updates["batch_stats"]["step1_norm"]["mean"],
      0.99 * variables["batch_stats"]["step1_norm"]["mean"] + 0.01 * batch,
      rtol=1e-4,
      atol=1e-6,
    )


if __name__ == "__main__":
  absltest.main()
