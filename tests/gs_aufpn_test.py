"""GS-AUFPN and the auxiliary head against NumPy, and against values by hand."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax.models import GSAUFPN, DenseNet, FCNHead, Segmenter, count_parameters, factory, gs_aufpn
from tests import toy
from tests.oracles import layers

CHANNELS = (3, 4, 5, 6, 7)
SMALL = dict(features=8, nodes=3, node_features=5, reduction=4, dropout=0.0)


def _features(*, size=32, seed=1):
  rng = np.random.default_rng(seed)
  return {
    f"c{n}": rng.normal(size=(2, size // 2**n, size // 2**n, c)).astype(np.float32)
    for n, c in enumerate(CHANNELS, start=1)
  }


def _norm(x, variables, name, *, train, epsilon=1e-5):
  params, stats = variables["params"][name], variables["batch_stats"][name]
  axes = tuple(range(x.ndim - 1))
  if train:
    stats = {"mean": x.mean(axes), "var": x.var(axes)}
  return layers.batch_norm(x, params, stats, epsilon)


def _part(variables, name):
  return {collection: tree[name] for collection, tree in variables.items() if name in tree}


def _graph(x, variables, *, train):
  """Pixel by pixel and node by node."""
  params = variables["params"]
  flat = x.reshape(len(x), -1, x.shape[-1])
  joined = lambda name: layers.relu(_norm(flat @ params[name]["kernel"], variables, f"{name}_norm", train=train))
  shares, described = joined("assign"), joined("describe")
  back = []
  for share, features in zip(shares, described):
    nodes = sum(np.outer(share[p], features[p]) for p in range(len(share)))
    between = params["between_nodes"]
    moved = between["kernel"].T @ nodes + between["bias"][:, None] + nodes
    channels = params["between_features"]
    back.append(share @ (layers.relu(moved) @ channels["kernel"] + channels["bias"]))
  y = np.stack(back) @ params["expand"]["kernel"]
  y = layers.relu(_norm(y, variables, "expand_norm", train=train))
  return x + _norm(y, variables, "out_norm", train=train, epsilon=1e-4).reshape(x.shape)


def _join(coarse, fine, variables, *, train):
  params = variables["params"]
  u = layers.bilinear_x2(coarse)
  l = layers.relu(_norm(fine @ params["lateral"]["kernel"], variables, "lateral_norm", train=train))
  c = layers.sigmoid(layers.relu(u.mean((1, 2)) @ params["squeeze"]["kernel"]) @ params["excite"]["kernel"])
  s = layers.sigmoid(layers.conv(np.stack([l.max(-1), l.mean(-1)], -1), params["spatial_conv"]["kernel"]))
  return u * s + l * c[:, None, None] + u + l


def _reference(features, variables, *, train):
  x = layers.conv(features["c5"], variables["params"]["top_conv"]["kernel"])
  x = layers.relu(_norm(x, variables, "top_norm", train=train))
  x = _graph(x, _part(variables, "graph"), train=train)
  for level in ("c4", "c3", "c2"):
    x = _join(x, features[level], _part(variables, f"join_{level}"), train=train)
  return x


class DecoderTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.net, cls.features = GSAUFPN(**SMALL), _features()
    cls.variables = layers.random_variables(cls.net, cls.features, train=False)

  def test_map_equals_a_numpy_decoder(self):
    output = layers.apply(self.net, self.variables, self.features, train=False)
    self.assertEqual(output.shape, (2, 8, 8, 8))
    np.testing.assert_allclose(output, _reference(self.features, self.variables, train=False), rtol=1e-4, atol=1e-5)

  def test_training_normalises_with_the_batch_and_moves_every_statistic(self):
    features = _features(size=64)  # At 32 the statistics of "c5" would be those of two numbers.
    output, updates = layers.apply(self.net, self.variables, features, train=True, mutable=["batch_stats"])
    expected = _reference(features, self.variables, train=True)
    np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-3)
    moved = jax.tree.map(lambda new, old: np.any(new != old), updates["batch_stats"], self.variables["batch_stats"])
    self.assertTrue(all(jax.tree.leaves(moved)))

  def test_on_densenet121_it_has_the_parameters_of_the_original(self):
    net = factory.make_segmenter({"architecture": "gs_aufpn_densenet"})
    self.assertIsInstance(net, Segmenter)
    shapes = layers.init_shapes(net, jax.ShapeDtypeStruct((1, 256, 256, 6), jnp.float32))
    self.assertEqual(count_parameters(shapes)["total"], 9_769_975)
    parts = {name: {key: tree.get(name, {}) for key, tree in shapes.items()} for name in shapes["params"]}
    self.assertEqual(count_parameters(parts["encoder"])["total"], 7_046_912)
    self.assertEqual(sum(count_parameters(parts[name])["total"] for name in ("decoder", "head")), 2_723_063)

  def test_dropout_takes_whole_channels_and_in_training_alone(self):
    net = GSAUFPN(**(SMALL | dict(dropout=0.5)))
    still = layers.apply(net, self.variables, self.features, train=False)
    np.testing.assert_allclose(still, _reference(self.features, self.variables, train=False), rtol=1e-4, atol=1e-5)
    training = dict(train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})
    output, _ = layers.apply(net, self.variables, self.features, **training)
    zero = np.asarray(output) == 0
    dropped = zero.all(axis=(1, 2))
    self.assertTrue(dropped.any() and not dropped.all())
    np.testing.assert_array_equal(zero.any(axis=(1, 2)), dropped)

  def test_a_missing_level_is_named(self):
    features = _features()
    del features["c4"]
    with self.assertRaisesRegex(ValueError, r"GS-AUFPN needs the features c1 to c5; missing: \['c4'\]"):
      layers.init_shapes(GSAUFPN(**SMALL), features, train=False)


class PartsTest(parameterized.TestCase):
  def test_without_a_message_between_nodes_a_node_keeps_what_it_is(self):
    net = gs_aufpn.GraphReasoning(nodes=2, node_features=2)
    x = np.abs(np.random.default_rng(0).normal(size=(1, 2, 2, 2))).astype(np.float32)
    variables = jax.tree.map(np.zeros_like, layers.random_variables(net, x, train=False))
    eye = np.eye(2, dtype=np.float32)
    for name in ("assign", "describe", "between_features", "expand"):
      variables["params"][name]["kernel"] = eye
    for name in ("assign_norm", "describe_norm", "expand_norm", "out_norm"):
      variables["params"][name]["scale"] = variables["batch_stats"][name]["var"] = np.ones(2, np.float32)
    output = layers.apply(net, variables, x, train=False)
    pixels = x.reshape(4, 2).astype(np.float64)
    expected = pixels + pixels @ (pixels.T @ pixels)  # By hand: V = X'X, and with W_N = 0, W_C = 1 it stays.
    np.testing.assert_allclose(np.reshape(output, (4, 2)), expected, rtol=2e-4)  # BN's epsilons.

  def test_gates_without_weights_stand_half_open(self):
    net = gs_aufpn.AttentiveUpsampling(reduction=2)
    rng = np.random.default_rng(0)
    coarse, fine = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 2, 3, 4), (2, 4, 6, 5)))
    variables = layers.random_variables(net, coarse, fine, train=False)
    for name in ("squeeze", "excite", "spatial_conv"):
      variables["params"][name]["kernel"] *= 0
    output = layers.apply(net, variables, coarse, fine, train=False)
    lateral = layers.relu(
      _norm(fine @ variables["params"]["lateral"]["kernel"], variables, "lateral_norm", train=False)
    )
    np.testing.assert_allclose(output, 1.5 * (layers.bilinear_x2(coarse) + lateral), rtol=1e-4, atol=1e-5)

  def test_the_head_equals_a_numpy_head(self):
    net, x = gs_aufpn.GSAUFPNHead(), _features()["c2"]
    variables = layers.random_variables(net, x)
    kernel, bias = (variables["params"][name] for name in ("kernel", "bias"))
    expected = layers.bilinear(x @ kernel + bias, 4)
    np.testing.assert_allclose(layers.apply(net, variables, x), expected, rtol=1e-4, atol=1e-5)

  def test_a_new_network_is_not_sure_of_anything(self):
    net = factory.make_segmenter({"architecture": "gs_aufpn_densenet", "encoder": toy.ENCODER, "decoder": SMALL})
    image = np.random.default_rng(0).normal(size=(2, 64, 64, 6)).astype(np.float32)
    run = lambda key: net.init_with_output(key, image, train=True)[0]["logits"]
    self.assertLess(np.abs(jax.jit(run)(jax.random.key(0))).mean(), 0.5)

  def test_the_auxiliary_head_equals_a_numpy_head(self):
    net, x = FCNHead(features=4, dropout=0.0), _features()["c3"]
    variables = layers.random_variables(net, x, train=False)
    params = variables["params"]
    hidden = layers.relu(_norm(layers.conv(x, params["conv"]["kernel"]), variables, "norm", train=False))
    expected = hidden @ params["classify"]["kernel"] + params["classify"]["bias"]
    np.testing.assert_allclose(layers.apply(net, variables, x, train=False), expected, rtol=1e-4, atol=1e-5)

  def test_the_auxiliary_head_at_full_size_has_the_parameters_of_the_original(self):
    shapes = layers.init_shapes(FCNHead(), jax.ShapeDtypeStruct((1, 16, 16, 512), jnp.float32), train=False)
    self.assertEqual(count_parameters(shapes)["trainable"], 9 * 512 * 256 + 2 * 256 + 257)

  def test_bf16_gates_and_graph_stay_finite_and_logits_are_float32(self):
    model = dict(architecture="gs_aufpn_densenet", encoder=dict(block_sizes=(1, 1, 1, 1)), dtype="bfloat16")
    shapes = jax.eval_shape(
      lambda x: factory.make_segmenter(model).init_with_output(jax.random.key(0), x)[0],
      np.zeros((1, 32, 32, 6), np.float32),
    )
    self.assertEqual(shapes["decoder"].dtype, jnp.bfloat16)
    self.assertEqual(shapes["logits"].dtype, jnp.float32)
    self.assertIsInstance(factory.make_segmenter(model).encoder, DenseNet)


if __name__ == "__main__":
  absltest.main()
