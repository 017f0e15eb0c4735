import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import linen as nn

from minec2f_jax import experiment
from minec2f_jax.models import (
  AttentiveInjection,
  Head,
  MineC2FNet,
  Segmenter,
  count_parameters,
  make_minec2fnet,
  make_segmenter,
)
from tests import toy
from tests.oracles import layers, short_run

ENCODER_LEVELS = ("c1", "c2", "c3", "c4", "c5")
ALL_LEVELS = (*ENCODER_LEVELS, "decoder")
WIDTHS = {"c1": 64, "c2": 128, "c3": 256, "c4": 512, "c5": 1024, "decoder": 128}
CBAM_SIZES = {64: 680, 128: 2284, 256: 8564, 512: 33412, 1024: 132260}
TINY = {
  "encoder": {"block_sizes": (1, 1, 1, 1), "growth_rate": 4, "stem_features": 4, "bottleneck": 1},
  "decoder": {"pyramid_features": 6, "segmentation_features": 4},
  "fusion": {"levels": ("c2", "decoder"), "cbam_reduction": 2, "refinement_steps": 1},
}


class PoolEncoder(nn.Module):
  """What the injection needs of an encoder, in little: five levels with a BN each."""

  @nn.compact
  def __call__(self, image, *, train):
    features = {}
    for n in range(1, 6):
      x = nn.avg_pool(image, (2**n, 2**n), strides=(2**n, 2**n))
      features[f"c{n}"] = nn.BatchNorm(use_running_average=not train)(nn.Dense(n + 2)(x))
    return features


class MeanDecoder(nn.Module):
  """What the injection needs of a decoder, in little: every level counts."""

  @nn.compact
  def __call__(self, features, *, train):
    del train
    context = [nn.Dense(4)(x).mean((1, 2), keepdims=True) for x in features.values()]
    return nn.Dense(4)(features["c1"]) + sum(context)


PARTS = {"encoder": PoolEncoder(), "decoder": MeanDecoder(), "head": Head()}


def _toy(levels, **injection):
  injection = AttentiveInjection(**{"cbam_reduction": 1, "refinement_steps": 1, **injection})
  return MineC2FNet(**PARTS, injection=injection, fusion_levels=levels)


def _image(seed=1):
  return np.random.default_rng(seed).normal(size=(2, 32, 32, 6)).astype(np.float32)


def _teacher_features(image, teacher=None):
  teacher = teacher or Segmenter(**PARTS)
  outputs = layers.apply(teacher, layers.random_variables(teacher, image, seed=7), image)
  return {**outputs["features"], "decoder": outputs["decoder"]}


class SegmenterTest(parameterized.TestCase):
  @parameterized.parameters(
    ({}, 6, 9_835_201, 9_921_153),
    ({"decoder": {"merge": "sum"}}, 6, 9_392_833, 9_478_785),
    ({}, 3, 9_825_793, 9_911_745),
  )
  def test_fpn_densenet121_has_the_parameters_of_segmentation_models(self, config, bands, trainable, total):
    image = jax.ShapeDtypeStruct((1, 256, 256, bands), jnp.float32)
    shapes = layers.init_shapes(make_segmenter(config), image)
    self.assertEqual(count_parameters(shapes), {"trainable": trainable, "total": total})

  def test_encode_and_decode_are_the_two_halves(self):
    net, image = make_segmenter(TINY), _image()
    variables = layers.random_variables(net, image)
    whole = layers.apply(net, variables, image)
    features = layers.apply(net, variables, image, method="encode")
    halves = layers.apply(net, variables, features, method="decode")
    self.assertEqual(whole["logits"].shape, (2, 32, 32, 1))
    for name in ("decoder", "logits"):
      np.testing.assert_allclose(halves[name], whole[name], rtol=1e-5, atol=1e-5)
    self.assertEqual(set(variables["params"]), {"encoder", "decoder", "head"})

  def test_bfloat16_logits_are_float32_and_near(self):
    image = _image()
    variables = layers.random_variables(make_segmenter(TINY), image)
    exact = layers.apply(make_segmenter(TINY), variables, image)["logits"]
    logits = layers.apply(make_segmenter({**TINY, "dtype": "bfloat16"}), variables, image)["logits"]
    self.assertEqual(logits.dtype, jnp.float32)
    # A dozen layers of 8 significant bits; the mean error is well below the largest.
    np.testing.assert_allclose(logits, exact, atol=0.05 * np.abs(exact).max())


class MineC2FNetTest(parameterized.TestCase):
  @parameterized.parameters((ENCODER_LEVELS, 2), (("c5",), 1), (("decoder",), 3))
  def test_full_size_parameters_are_the_segmenters_and_the_injections(self, levels, steps):
    image = jax.ShapeDtypeStruct((1, 256, 256, 6), jnp.float32)
    features = {
      level: jax.ShapeDtypeStruct((1, 256 // 2**n, 256 // 2**n, width), jnp.float32)
      for n, (level, width) in zip((1, 2, 3, 4, 5, 1), WIDTHS.items())
    }
    net = make_minec2fnet({"fusion": {"levels": levels, "refinement_steps": steps}})
    shapes = layers.init_shapes(net, image, features)
    # Gate [2C -> C] with bias, CBAM, and per step a 3x3 convolution, a BN's affine and a CBAM.
    added = sum(
      2 * c * c + c + CBAM_SIZES[c] + steps * (9 * c * c + 2 * c + CBAM_SIZES[c]) for c in map(WIDTHS.get, levels)
    )
    self.assertEqual(count_parameters(shapes)["trainable"], 9_835_201 + added)

  def test_student_starts_from_a_segmenters_tree_by_key(self):
    image = _image()
    teacher = layers.init_shapes(make_segmenter(TINY), image)
    features = _teacher_features(image, make_segmenter(TINY))
    student = layers.init_shapes(make_minec2fnet(TINY), image, features)
    for collection in ("params", "batch_stats"):
      for name in teacher[collection]:
        self.assertEqual(teacher[collection][name], student[collection][name])
    self.assertEqual(set(student["params"]) - set(teacher["params"]), {"injection_c2", "injection_decoder"})

  def test_the_real_student_runs_and_gives_float32_logits(self):
    image = _image()
    features = _teacher_features(image, make_segmenter(TINY))
    net = make_minec2fnet(TINY)
    variables = layers.random_variables(net, image, features)
    logits = layers.apply(net, variables, image, features)["logits"]
    self.assertEqual((logits.shape, logits.dtype), ((2, 32, 32, 1), jnp.float32))
    self.assertGreater(np.std(logits), 0)

  @parameterized.product(levels=[ENCODER_LEVELS, ("c5",), ("c2", "decoder")], gate=["convex", "gscnn"])
  def test_the_injection_sees_the_teacher_at_its_levels_only(self, levels, gate):
    image = _image()
    features = _teacher_features(image)
    net = _toy(levels, gate=gate, cbam=False, refinement_steps=0)
    variables = layers.random_variables(net, image, features)
    run = jax.jit(lambda features: net.apply(variables, image, features)["logits"])
    logits = run(features)
    for level in ALL_LEVELS:
      moved = np.abs(run({**features, level: features[level] + 10.0}) - logits).max()
      self.assertEqual(moved > 0, level in levels, f"{level}: {moved}")

  def test_features_are_injected_level_by_level(self):
    image = _image()
    features = _teacher_features(image)
    net = _toy(("c1", "c4", "decoder"))
    variables = layers.random_variables(net, image, features)
    outputs = layers.apply(net, variables, image, features)
    plain = layers.apply(Segmenter(**PARTS), variables, image)
    for level in ("c1", "c4"):
      shared = {name: variables[name][f"injection_{level}"] for name in variables}
      expected = layers.apply(net.injection, shared, features[level], plain["features"][level], train=False)
      np.testing.assert_allclose(outputs["features"][level], expected, rtol=1e-5, atol=1e-5)
    for level in ("c2", "c3", "c5"):
      np.testing.assert_allclose(outputs["features"][level], plain["features"][level], rtol=1e-5, atol=1e-5)

  def test_decoder_and_head_receive_what_is_returned(self):
    image = _image()
    features = _teacher_features(image)
    net = _toy(("c1", "c4"))
    variables = layers.random_variables(net, image, features)
    outputs = layers.apply(net, variables, image, features)
    decoded = layers.apply(Segmenter(**PARTS), variables, outputs["features"], method="decode")
    np.testing.assert_allclose(outputs["decoder"], decoded["decoder"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs["logits"], decoded["logits"], rtol=1e-5, atol=1e-5)

  def test_without_a_gate_the_teacher_is_not_used(self):
    image = _image()
    net = _toy(ENCODER_LEVELS, gate="none")
    variables = layers.random_variables(net, image, {})
    self.assertEqual(set(variables["params"]["injection_c1"]), {"cbam", "refinement"})
    np.testing.assert_array_equal(
      layers.apply(net, variables, image, _teacher_features(image))["logits"],
      layers.apply(net, variables, image, {})["logits"],
    )

  @parameterized.parameters((_toy(()),), (_toy(ALL_LEVELS, gate="none", cbam=False, refinement_steps=0),))
  def test_everything_switched_off_is_the_plain_segmenter(self, net):
    image = _image()
    variables = layers.random_variables(Segmenter(**PARTS), image)
    jax.tree.map(
      np.testing.assert_array_equal,
      layers.apply(net, variables, image, {}),
      layers.apply(Segmenter(**PARTS), variables, image),
    )

  @parameterized.parameters((-30, False), (30, True))
  def test_saturated_gates_take_the_student_or_the_teacher(self, bias, teachers):
    image = _image()
    features = _teacher_features(image)
    net = _toy(("c3",), cbam=False, refinement_steps=0)
    variables = layers.random_variables(net, image, features)
    gate = variables["params"]["injection_c3"]["fusion"]["gate"]
    gate["kernel"][:], gate["bias"][:] = 0, bias
    student = layers.apply(Segmenter(**PARTS), variables, image)["features"]
    np.testing.assert_allclose(
      layers.apply(net, variables, image, features)["features"]["c3"],
      (features if teachers else student)["c3"],
      rtol=1e-5,
      atol=1e-6,
    )

  def test_no_gradient_reaches_the_teachers_features(self):
    image = _image()
    features = _teacher_features(image)
    net = _toy(ALL_LEVELS)
    variables = layers.random_variables(net, image, features)
    grads = jax.jit(jax.grad(lambda features: net.apply(variables, image, features)["logits"].sum()))(features)
    self.assertEqual(max(np.abs(grad).max() for grad in grads.values()), 0)

  def test_training_moves_the_statistics_of_every_norm(self):
    image = _image()
    features = _teacher_features(image)
    net = _toy(("c2", "decoder"), gate="gscnn")
    variables = layers.random_variables(net, image, features)
    _, updates = layers.apply(net, variables, image, features, train=True, mutable=["batch_stats"])
    moved = jax.tree.map(
      lambda old, new: bool(np.any(old != new)), variables["batch_stats"], dict(updates)["batch_stats"]
    )
    self.assertTrue(all(jax.tree.leaves(moved)))

  def test_missing_or_misshapen_teacher_features_are_named(self):
    image = _image()
    features = _teacher_features(image)
    net = _toy(("c2", "decoder"))
    with self.assertRaisesRegex(ValueError, "fusion at 'decoder' needs"):
      layers.init_shapes(net, image, {"c2": features["c2"]})
    with self.assertRaisesRegex(ValueError, r"at \'c2\' the teacher\'s map is \(2, 4, 8, 4\)"):
      layers.init_shapes(net, image, {**features, "c2": features["c2"][:, :4]})

  def test_unknown_levels_and_gates_are_refused(self):
    image = _image()
    with self.assertRaisesRegex(ValueError, r"fusion_levels has \[\'c9\'\]"):
      layers.init_shapes(_toy(("c9",)), image, {})
    with self.assertRaisesRegex(ValueError, "gate is 'both'"):
      layers.init_shapes(_toy(("c1",), gate="both"), image, _teacher_features(image))


class TrainingTest(parameterized.TestCase):
  def test_a_student_trained_in_bfloat16_ends_where_float32_does_with_its_state_in_float32(self):
    runs, losses, masks = short_run.by_dtype(), {}, {}
    for dtype, (state, metrics, logits) in runs.items():
      losses[dtype], masks[dtype] = float(metrics["loss"]), np.asarray(logits) > 0
      self.assertEqual(logits.dtype, jnp.float32)
      for path, leaf in jax.tree_util.tree_leaves_with_path((state, metrics)):
        self.assertIn(leaf.dtype, (jnp.float32, jnp.int32), f"{dtype} {jax.tree_util.keystr(path)}")
    self.assertNotEqual(losses["bfloat16"], losses["float32"])
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.1)
    agreement = np.mean(masks["bfloat16"] == masks["float32"])
    self.assertGreater(agreement, 0.95)
    self.assertBetween(masks["float32"].mean(), 0.1, 0.4)  # Not the agreement of two empty masks.
    loss, mask = short_run.compare(runs)
    self.assertAlmostEqual(loss.max_rel, abs(losses["bfloat16"] / losses["float32"] - 1))
    self.assertAlmostEqual(mask.max_rel, 1 - agreement)
    self.assertTrue(loss.ok and mask.ok)

  def test_losses_gradients_and_statistics_of_a_bfloat16_network_are_float32(self):
    config, source, prior = short_run.settled_config("bfloat16"), toy.ArraySource(2), None
    sample = {"image": source.image, "label": source.label, "valid": source.valid}
    for name in config.stages:
      method, key = experiment.wire(config)[name].method, jax.random.key(0)
      prior = jax.eval_shape(method.init, key, source.image[:1], prior)
      batch = {config[name].streams[0]: sample}
      result = jax.eval_shape(jax.value_and_grad(method.loss, has_aux=True), *prior, batch, key)
      for path, leaf in jax.tree_util.tree_leaves_with_path(result):
        self.assertEqual(leaf.dtype, jnp.float32, f"{name} {jax.tree_util.keystr(path)}")

  def test_a_bfloat16_networks_statistics_are_not_rounded_on_their_way(self):
    momentum = {"bn_momentum": 0.0}  # The running statistics are those of the batch alone.
    parts = {name: {**TINY[name], **momentum} for name in ("encoder", "decoder")}
    net, image = make_segmenter({**parts, "dtype": "bfloat16"}), _image()
    variables = layers.random_variables(net, image)
    _, updates = layers.apply(net, variables, image, train=True, mutable=["batch_stats"])
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(updates)])
    # A rounded mean would be one of the numbers that bfloat16 has; by chance one in 2^16 is.
    self.assertLess(np.mean((values == values.astype(jnp.bfloat16))[values != 0]), 0.1)


class FactoryTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"encoder": {"depth": 121}}, r"model.encoder has no \[\'depth\'\]; .*growth_rate"),
    ({"decoder": {"dtype": "float32"}}, r"model.decoder has no \[\'dtype\'\]"),
    ({"fusion": {"steps": 2}}, r"model.fusion has no \[\'steps\'\]; .*refinement_steps"),
    ({"neck": {}}, r"model has no \[\'neck\'\]; allowed are .*encoder"),
    ({"dtype": "int8"}, "model.dtype is 'int8'"),
  )
  def test_what_is_not_known_is_refused_by_name(self, config, message):
    for make in (make_minec2fnet, make_segmenter):
      with self.assertRaisesRegex(ValueError, message):
        make(config)

  def test_values_reach_their_modules_and_the_rest_keep_their_defaults(self):
    net = make_minec2fnet(
      {
        "encoder": {"tap": "norm", "block_sizes": [1, 2]},
        "decoder": {"dropout": 0.2},
        "head": {"classes": 3},
        "fusion": {"levels": ["c5"], "gate": "gscnn", "zero_init": True},
        "dtype": "bfloat16",
      }
    )
    self.assertEqual((net.encoder.tap, net.encoder.block_sizes), ("norm", (1, 2)))
    self.assertEqual((net.decoder.dropout, net.decoder.bn_epsilon), (0.2, 1e-3))
    self.assertEqual((net.injection.gate, net.injection.zero_init), ("gscnn", True))
    self.assertEqual((net.fusion_levels, net.head.classes), (("c5",), 3))
    for module in (net.encoder, net.decoder, net.head, net.injection):
      self.assertEqual(module.dtype, jnp.bfloat16)

  def test_equal_configs_give_equal_hashable_modules(self):
    first, second = make_minec2fnet(TINY), make_minec2fnet(TINY)
    self.assertEqual(first, second)
    self.assertEqual(hash(first), hash(second))


if __name__ == "__main__":
  absltest.main()
