import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax.models import GatedFusion, count_parameters
from tests.oracles import layers


def _pair(seed=1):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=(2, 4, 3, 6)).astype(np.float32) for _ in range(2)]


def _dense(x, params):
  return x @ params["kernel"] + params.get("bias", 0)


class ConvexTest(parameterized.TestCase):
  @parameterized.parameters(("full", 6), ("one", 1))
  def test_output_is_the_gated_mean(self, gate_channels, width):
    teacher, student = _pair()
    net = GatedFusion(gate_channels=gate_channels)
    variables = layers.random_variables(net, teacher, student, train=False)
    self.assertEqual(variables["params"]["gate"]["kernel"].shape, (12, width))
    both = np.concatenate([teacher, student], -1)
    gate = layers.sigmoid(_dense(both, variables["params"]["gate"]))
    np.testing.assert_allclose(
      layers.apply(net, variables, teacher, student, train=False),
      gate * teacher + (1 - gate) * student,
      rtol=1e-5,
      atol=1e-6,
    )

  @parameterized.parameters((30.0, 0), (-30.0, 1))
  def test_a_saturated_gate_returns_one_source_exactly(self, bias, source):
    pair = _pair()
    params = {"gate": {"kernel": np.zeros((12, 6)), "bias": np.full(6, bias, np.float32)}}
    np.testing.assert_array_equal(layers.apply(GatedFusion(), {"params": params}, *pair, train=False), pair[source])

  def test_a_gate_in_bfloat16_is_not_shut_before_its_time(self):
    teacher, student = np.zeros((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)
    params = {"gate": {"kernel": np.zeros((2, 1)), "bias": np.full(1, 7.0, np.float32)}}
    fused = layers.apply(GatedFusion(dtype=jnp.bfloat16), {"params": params}, teacher, student, train=False)
    self.assertEqual(fused.dtype, jnp.bfloat16)
    np.testing.assert_allclose(np.float32(fused), 1 / (1 + np.exp(7.0)), rtol=2**-8)  # 9.1e-4; rounded gates give 0.

  def test_equal_sources_pass_unchanged(self):
    teacher, _ = _pair()
    variables = layers.random_variables(GatedFusion(), teacher, teacher, train=False)
    np.testing.assert_allclose(
      layers.apply(GatedFusion(), variables, teacher, teacher, train=False), teacher, rtol=1e-6
    )


class GatedSCNNTest(parameterized.TestCase):
  @parameterized.parameters(("full", 6), ("one", 1))
  def test_output_equals_the_formula(self, gate_channels, width):
    teacher, student = _pair()
    net = GatedFusion(kind="gscnn", gate_channels=gate_channels)
    variables = layers.random_variables(net, teacher, student, train=False)
    params, stats = variables["params"], variables["batch_stats"]
    norm = lambda x, name: layers.batch_norm(x, params[name], stats[name], 1e-5)
    x = np.concatenate([student, _dense(teacher, params["teacher_projection"])], -1)
    x = layers.relu(_dense(norm(x, "gate_norm1"), params["gate_hidden"]))
    gate = layers.sigmoid(norm(_dense(x, params["gate"]), "gate_norm2"))
    self.assertEqual(gate.shape[-1], width)
    np.testing.assert_allclose(
      layers.apply(net, variables, teacher, student, train=False),
      _dense(student * (1 + gate), params["output"]),
      rtol=1e-4,
      atol=1e-5,
    )

  def test_the_output_projection_has_no_bias(self):
    teacher, student = _pair()
    net = GatedFusion(kind="gscnn", gate_channels="one")
    variables = layers.random_variables(net, teacher, student, train=False)
    # By hand, C = 6: projection 6+1, BN 2*7, hidden 7*7+7, gate 7+1, BN 2*1, output 6*6.
    self.assertEqual(count_parameters(variables)["trainable"], 7 + 14 + 56 + 8 + 2 + 36)
    np.testing.assert_array_equal(layers.apply(net, variables, teacher, np.zeros_like(student), train=False), 0)

  def test_training_uses_the_batch_and_updates_both_norms(self):
    teacher, student = _pair()
    net = GatedFusion(kind="gscnn")
    variables = layers.random_variables(net, teacher, student, train=False)
    output, updates = layers.apply(net, variables, teacher, student, train=True, mutable=["batch_stats"])
    self.assertGreater(np.abs(output - layers.apply(net, variables, teacher, student, train=False)).max(), 1e-2)
    old = variables["batch_stats"]["gate_norm1"]["mean"][:6]
    np.testing.assert_allclose(  # The first six inputs of the first BN are the student's features.
      updates["batch_stats"]["gate_norm1"]["mean"][:6],
      0.99 * old + 0.01 * student.mean((0, 1, 2)),
      rtol=1e-5,
      atol=1e-6,
    )


class ErrorsTest(parameterized.TestCase):
  @parameterized.parameters(({"kind": "sum"}, "kind is 'sum'"), ({"gate_channels": "two"}, "gate_channels is 'two'"))
  def test_unknown_choices_are_refused(self, fields, message):
    with self.assertRaisesRegex(ValueError, message):
      layers.init_shapes(GatedFusion(**fields), *_pair(), train=False)

  def test_sources_of_different_shapes_are_refused(self):
    teacher, student = _pair()
    with self.assertRaises(AssertionError):
      layers.init_shapes(GatedFusion(), teacher[:, :2], student, train=False)


if __name__ == "__main__":
  absltest.main()
