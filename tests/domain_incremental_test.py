"""MDIL-SS and the two stages of GSMF-RS-DIL as methods, at toy size."""

import functools
import pathlib
import tempfile

import jax
import numpy as np
import optax
import pytest
import scipy.ndimage
from absl.testing import absltest, parameterized
from ml_collections import ConfigDict

from configs import fine_hybrid
from configs.baselines import gsmf_rs_dil, mdil_ss
from minec2f_jax import experiment, methods
from minec2f_jax.errors import UserError
from minec2f_jax.methods import base, deep_supervision, supervised
from minec2f_jax.methods import gsmf_rs_dil as gsmf_method
from minec2f_jax.methods import mdil_ss as mdil_method
from minec2f_jax.models import count_parameters, factory, pretrained
from minec2f_jax.training import optimizers
from tests import overfit, toy, weights

KEY = jax.random.key(0)
SOURCE = toy.ArraySource(4)
BATCH = {name: {key: getattr(SOURCE, key)[:2] for key in ("image", "label", "valid")} for name in ("coarse", "fine")}
IMAGE = SOURCE.image[:1]
GS_AUFPN = dict(features=8, nodes=3, node_features=4, reduction=4, dropout=0.0, bn_momentum=0.9)


def _config(module, overrides=None) -> ConfigDict:
  config, model = toy.shrink(fine_hybrid.get_config()), module.get_config().model
  config.update(module.OVERRIDES)
  if module is gsmf_rs_dil:
    config.model = ConfigDict(
      dict(architecture=model.architecture, encoder=config.model.encoder, decoder=GS_AUFPN, dtype=model.dtype)
    )
    config.deep_supervision.update(dict(features=4, dropout=0.0))
  config.update(overrides or {})
  return config


def _method(config, name="fine"):
  return methods.make_method(config, config[name])


@functools.cache
def _old(module) -> methods.Variables:
  """What the first stage leaves."""
  variables = jax.jit(_method(_config(module), "coarse").init)(KEY, IMAGE, None)
  # A fresh head answers about 0 everywhere: random scales make the old network say something.
  return variables._replace(trainable=_moved(variables.trainable, by=0.1, seed=1))


@functools.cache
def _started(module, as_coded=False) -> methods.Variables:
  method = _method(_config(module, {module.__name__.rpartition(".")[2]: {"as_coded": as_coded}}))
  return jax.jit(method.init)(jax.random.key(1), IMAGE, _old(module))


def _grads(method, *, of=None):
  """`variables -> ((value, extra, parts), (gradients of what is trained, what is frozen))` of the loss, or a part."""

  def loss(trainable, frozen, extra):
    value, (extra, parts) = method.loss(trainable, frozen, extra, BATCH, KEY)
    return parts[of] if of else value, (value, extra, parts)

  def run(variables):
    (_, outputs), grads = compiled(variables.trainable, variables.frozen, variables.extra)
    return outputs, grads

  compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
  return run


def _paths(tree, where=lambda leaf: True) -> set[tuple[str, ...]]:
  leaves = jax.tree.leaves_with_path(tree)
  return {tuple(part.key for part in path) for path, leaf in leaves if where(leaf)}


def _moved(tree, *, by=0.05, seed=2):
  """`tree` a little further on, all of it."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: leaf + by * rng.normal(size=leaf.shape).astype(np.float32), tree)


def _assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


class BothTest(parameterized.TestCase):
  @parameterized.parameters(mdil_ss, gsmf_rs_dil)
  def test_a_copy_of_the_old_network_is_frozen(self, module):
    frozen = {"params": _old(module).trainable, "batch_stats": _old(module).extra["batch_stats"]}
    _assert_equal(_started(module).frozen, frozen)

  @parameterized.parameters(mdil_ss, gsmf_rs_dil)
  def test_without_a_teacher_it_says_how_to_get_one(self, module):
    with self.assertRaisesRegex(ValueError, "needs a teacher.*config.teacher"):
      _method(_config(module)).init(KEY, IMAGE, None)

  @parameterized.parameters(
    (mdil_ss, lambda path: 0.01 if mdil_method.is_shared(path) else 1.0, {0.01, 1.0}),
    (gsmf_rs_dil, lambda path: 0.0 if gsmf_method.is_early(path, 1) else 0.1, {0.0, 0.1}),
  )
  def test_a_stage_learns_as_optaxs_transformations_by_label(self, module, rate, rates):
    config = _config(module, {"optimizer": {"weight_decay": 0.1}})
    wired = experiment.wire(config)["fine"]
    params = _started(module).trainable
    grads = _moved(jax.tree.map(np.zeros_like, params))
    labels = base.rates_by_path(params, rate)
    self.assertEqual(set(jax.tree.leaves(labels)), rates)
    adamw = optimizers.make_optimizer(learning_rate=1e-2, weight_decay=0.1, warmup_steps=2)
    scaled = {share: optax.chain(adamw, optax.scale(share)) for share in rates}
    theirs = optax.multi_transform(scaled, labels)
    ours = experiment.make_stage(config, "fine", wired, SOURCE, SOURCE).optimizer
    update = lambda params: [one.update(grads, one.init(params), params)[0] for one in (ours, theirs)]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), *jax.jit(update)(params))

  def test_sections_are_needed_and_something_must_be_learned(self):
    for module, own, missing in ((mdil_ss, "mdil_ss", "weight"), (gsmf_rs_dil, "gsmf_rs_dil", "prediction_weight")):
      plain = fine_hybrid.get_config()
      plain.fine.method = own
      with self.assertRaisesRegex(UserError, rf"config\.{own} is missing: give a section with {missing}"):
        experiment.check_config(plain)
      config = _config(module, {"fine": {"loss": {"bce": 0.0}}})
      config[own].update({name: 0.0 for name in config[own] if name.endswith("weight")})
      with self.assertRaisesRegex(UserError, rf"{own}\.\w*weight=0\.0 leave nothing to learn"):
        experiment.check_config(config)


class MdilTest(parameterized.TestCase):
  def test_the_second_domain_starts_from_the_first_but_for_the_output_and_the_encoders_statistics(self):
    old, new = _old(mdil_ss), _started(mdil_ss)
    for name in ("encoder", "decoder"):
      _assert_equal(new.trainable[name], old.trainable[name])
    self.assertTrue(np.any(new.trainable["head"]["kernel"] != old.trainable["head"]["kernel"]))
    _assert_equal(new.extra["batch_stats"]["decoder"], old.extra["batch_stats"]["decoder"])
    for statistics in new.extra["batch_stats"]["encoder"].values():
      np.testing.assert_array_equal(statistics["mean"], 0.0)
      np.testing.assert_array_equal(statistics["var"], 1.0)

  def test_adapters_batch_norm_and_decoder_are_a_domains_own_and_counted_as_published(self):
    model = {"encoder": {"adapters": True}}
    image = jax.ShapeDtypeStruct((1, 256, 256, 6), np.float32)
    shapes = jax.eval_shape(factory.make_segmenter(model).init, KEY, image)
    encoder = shapes["params"]["encoder"]
    own = {name: tree for name, tree in encoder.items() if not mdil_method.is_shared(("encoder", name))}
    adapters = {name: tree for name, tree in own.items() if name.endswith("_adapter")}
    norms = {name: tree for name, tree in own.items() if "norm" in name}
    self.assertEqual((len(adapters), len(norms)), (58, 121))
    self.assertEqual(set(own), set(adapters) | set(norms))
    size = lambda tree: count_parameters({"params": tree})["trainable"]
    self.assertEqual((size(adapters), size(norms)), (239_424, 83_648))
    self.assertEqual(size(encoder) - size(own), 6_963_264 - 83_648)  # DenseNet-121's convolutions.
    decoder = {name: [shapes["params"][name], shapes["batch_stats"].get(name, {})] for name in ("decoder", "head")}
    self.assertEqual(size(decoder), 2_874_241)

  def test_with_the_first_domains_statistics_the_second_one_sees_what_it_sees(self):
    model, old, new = factory.make_segmenter(_config(mdil_ss).model), _old(mdil_ss), _started(mdil_ss)
    encode = jax.jit(lambda params: model.apply({"params": params, **old.extra}, IMAGE, method=model.encode))
    _assert_equal(encode(new.trainable), encode(old.trainable))

  def test_the_first_domains_network_is_its_own_but_for_what_is_shared(self):
    old, new = _old(mdil_ss).trainable, _moved(_started(mdil_ss).trainable)
    first = mdil_method.first_domain(new, old)
    for path in _paths(first):
      leaf = lambda tree, path=path: functools.reduce(lambda part, name: part[name], path, tree)
      np.testing.assert_array_equal(leaf(first), leaf(new if mdil_method.is_shared(path) else old))

  def test_distillation_moves_what_is_shared_alone_and_nothing_while_that_stays(self):
    run = _grads(_method(_config(mdil_ss, {"mdil_ss": {"weight": 0.5}})), of="distillation")
    start = _started(mdil_ss)
    (value, extra, parts), (grads, of_frozen) = run(start._replace(trainable=_moved(start.trainable)))
    self.assertEqual(set(parts), {"bce", "distillation"})
    self.assertGreater(float(parts["distillation"]), 0.0)
    np.testing.assert_allclose(value, parts["bce"] + 0.5 * parts["distillation"], rtol=1e-6)
    self.assertEqual(_paths(grads, np.any), {path for path in _paths(grads) if mdil_method.is_shared(path)})
    self.assertEmpty(_paths(of_frozen, np.any))
    self.assertEqual(jax.tree.structure(extra), jax.tree.structure(start.extra))
    (_, _, parts), _ = run(start)
    self.assertEqual(float(parts["distillation"]), 0.0)

  def test_as_coded_the_fine_images_move_the_first_domains_statistics(self):
    start = _started(mdil_ss, as_coded=True)
    _assert_equal(start.extra["old_batch_stats"], _old(mdil_ss).extra["batch_stats"])
    method = _method(_config(mdil_ss, {"mdil_ss": {"as_coded": True}}))
    value, (extra, parts) = jax.jit(method.loss)(*start, BATCH, KEY)
    np.testing.assert_allclose(value, parts["bce"] + 0.1 * parts["distillation"], rtol=1e-6)
    self.assertLess(float(parts["distillation"]), 0.0)
    self.assertEqual(jax.tree.structure(extra), jax.tree.structure(start.extra))
    means = [
      tree["encoder"]["stem_norm"]["mean"] for tree in (extra["old_batch_stats"], start.extra["old_batch_stats"])
    ]
    self.assertTrue(np.all(means[0] != means[1]))

  @parameterized.parameters(
    ({"model": {"encoder": {"adapters": False}}}, r"'mdil_ss' needs an encoder with adapters.*adapters=True"),
    ({"fine": {"init_from_prior": False}}, r"init_from_prior=False: the method 'mdil_ss' goes on"),
  )
  def test_what_it_needs_is_named(self, overrides, pattern):
    with self.assertRaisesRegex(UserError, pattern):
      experiment.check_config(_config(mdil_ss, overrides))


class PretrainedTest(parameterized.TestCase):
  def test_weights_of_a_densenet_leave_its_adapters_at_zero(self):
    config = _config(mdil_ss)
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / "densenet.safetensors"
      weights.write_safetensors(path, weights.random_encoder())
      net = factory.make_segmenter(config.model).encoder
      loaded = pretrained.load(path, bands=pretrained.BANDS, encoder=net).variables
    method = base.with_encoder(_method(config, "coarse"), loaded)
    encoder = jax.jit(lambda key: method.init(key, IMAGE, None))(KEY).trainable["encoder"]
    _assert_equal({name: encoder[name] for name in loaded["params"]}, loaded["params"])
    adapters = {name: encoder[name] for name in set(encoder) - set(loaded["params"])}
    self.assertEqual(set(adapters), {f"block{n}_layer1_adapter" for n in range(1, 5)})
    self.assertEmpty(_paths(adapters, np.any))


class DeepSupervisionTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    config = _config(gsmf_rs_dil)
    self.deep, self.plain = _method(config, "coarse"), supervised.make_method(config, config.coarse)

  def test_it_starts_as_the_supervised_method_with_a_head_more(self):
    deep, plain = (jax.jit(one.init)(KEY, IMAGE, None) for one in (self.deep, self.plain))
    self.assertEqual(set(deep.trainable) - set(plain.trainable), {"auxiliary"})
    _assert_equal({name: deep.trainable[name] for name in plain.trainable}, plain.trainable)
    self.assertEqual(jax.eval_shape(self.deep.logits, *deep, IMAGE).shape, (1, 32, 32, 1))

  def test_the_loss_is_that_of_the_supervised_method_and_a_share_of_the_auxiliary_one(self):
    old = _old(gsmf_rs_dil)
    shared = {"batch_stats": {name: old.extra["batch_stats"][name] for name in ("encoder", "decoder")}}
    both = jax.jit(
      lambda old, shared: (self.deep.loss(*old, BATCH, KEY), self.plain.loss(*old[:2], shared, BATCH, KEY))
    )
    (value, (extra, parts)), (expected, (moved, _)) = both(old, shared)
    np.testing.assert_allclose(parts["bce"], expected, rtol=1e-5)
    np.testing.assert_allclose(value, parts["bce"] + 0.4 * parts["auxiliary"], rtol=1e-6)
    self.assertEqual(jax.tree.structure(extra), jax.tree.structure(old.extra))
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
      {name: extra["batch_stats"][name] for name in moved["batch_stats"]},
      moved["batch_stats"],
    )

  def test_coarse_logits_are_enlarged_bilinearly_and_cropped(self):
    logits = np.arange(8, dtype=np.float32).reshape(1, 2, 4, 1)
    found = deep_supervision._enlarge(logits, (1, 20, 64))
    ramp = lambda size: np.clip((np.arange(16 * size) + 0.5) / 16 - 0.5, 0, size - 1)
    expected = 4 * ramp(2)[:20, None] + ramp(4)[None]
    np.testing.assert_allclose(found[0], expected, atol=1e-5)

  def test_a_level_that_the_encoder_lacks_is_named(self):
    model = dict(architecture="prithvi", encoder=dict(width=16, depth=1, heads=2), decoder=dict(features=4))
    config = {**_config(gsmf_rs_dil).to_dict(), "model": model}
    config["deep_supervision"]["level"] = "c2"
    with self.assertRaisesRegex(ValueError, r"deep_supervision\.level='c2': the encoder has \["):
      jax.eval_shape(methods.make_method(config, config["coarse"]).init, KEY, IMAGE, None)


class GsmfTest(parameterized.TestCase):
  def test_the_new_network_starts_as_the_old_one_without_the_auxiliary_head(self):
    old, new = _old(gsmf_rs_dil), _started(gsmf_rs_dil)
    self.assertEqual(set(new.trainable), {"encoder", "decoder", "head"})
    _assert_equal(new.trainable, {name: old.trainable[name] for name in new.trainable})
    _assert_equal(new.extra["batch_stats"], {name: old.extra["batch_stats"][name] for name in ("encoder", "decoder")})

  def test_the_loss_is_its_parts_and_moves_nothing_that_is_frozen(self):
    own = {"prediction_weight": 0.25, "feature_weight": 3.0}
    start = _started(gsmf_rs_dil)
    start = start._replace(trainable=_moved(start.trainable))
    run = _grads(_method(_config(gsmf_rs_dil, {"gsmf_rs_dil": own})))
    (value, extra, parts), (grads, of_frozen) = run(start)
    self.assertEqual(set(parts), {"bce", "distillation", "features"})
    for part in parts.values():
      self.assertGreater(float(part), 0.0)
    np.testing.assert_allclose(value, parts["bce"] + 0.25 * parts["distillation"] + 3 * parts["features"], rtol=1e-6)
    self.assertEqual(_paths(grads, np.any), {path for path in _paths(grads) if not gsmf_method.is_early(path, 1)})
    self.assertEmpty(_paths(of_frozen, np.any))
    # As in the original, running statistics move even where the parameters are frozen.
    stem = lambda tree: tree["batch_stats"]["encoder"]["stem_norm"]["mean"]
    self.assertTrue(np.all(stem(extra) != stem(start.extra)))

  def test_networks_that_are_the_same_and_both_see_the_batch_as_coded_pay_for_their_labels_alone(self):
    method = _method(_config(gsmf_rs_dil, {"gsmf_rs_dil": {"as_coded": True}}))
    value, (_, parts) = jax.jit(method.loss)(*_started(gsmf_rs_dil), BATCH, KEY)
    np.testing.assert_allclose([parts["distillation"], parts["features"]], 0.0, atol=1e-8)
    np.testing.assert_allclose(value, parts["bce"], rtol=1e-6)

  def test_frozen_are_the_first_blocks_with_all_before_and_their_transitions(self):
    image = jax.ShapeDtypeStruct((1, 32, 32, 6), np.float32)
    model = factory.make_segmenter({"encoder": {"block_sizes": (1, 10, 1, 1), "input_adapter": True}})
    params = jax.eval_shape(model.init, KEY, image)["params"]
    early = lambda blocks: {path[1] for path in _paths(params) if gsmf_method.is_early(path, blocks)}
    layer = lambda block, n: {f"block{block}_layer{n}_{part}" for part in ("norm1", "conv1", "norm2", "conv2")}
    first = {"input_adapter", "stem_conv", "stem_norm", "transition1_norm", "transition1_conv"} | layer(1, 1)
    self.assertEqual(early(0), set())
    self.assertEqual(early(1), first)
    second = {"transition2_norm", "transition2_conv"}.union(*(layer(2, n) for n in range(1, 11)))
    self.assertEqual(early(2), first | second)

  def test_its_losses_serve_the_fpn_of_the_other_systems_and_no_vit(self):
    config = toy.shrink(fine_hybrid.get_config())
    config.update(gsmf_rs_dil.OVERRIDES)
    method, prior = _method(config), None
    for name in ("coarse", "fine"):
      prior = jax.eval_shape(_method(config, name).init, KEY, IMAGE, prior)
    jax.eval_shape(method.loss, *prior, BATCH, KEY)
    model = dict(architecture="prithvi", encoder=dict(width=16, depth=1, heads=2), decoder=dict(features=4))
    config.model = ConfigDict({**model, "dtype": "float32"})
    with self.assertRaisesRegex(UserError, "'gsmf_rs_dil' freezes blocks of a DenseNet.*'gs_aufpn_densenet'"):
      experiment.check_config(config)


def _quick(module, size: int) -> ConfigDict:
  config = overfit.alone(_config(module), size=size)
  if module is gsmf_rs_dil:
    config.model.decoder.features = 32
  return config


@pytest.mark.slow
class OverfitTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("mdil_ss", mdil_ss, {}, 32, 40),
    # Logits at a quarter of the resolution, and a tenth of the learning rate.
    ("gsmf_rs_dil", gsmf_rs_dil, {"optimizer": {"learning_rate": 3e-2}}, 64, 80),
  )
  def test_four_images_are_learned_by_heart_and_what_is_frozen_stays_bit_for_bit(self, module, overrides, size, steps):
    narrow, wide = toy.ArraySource(4, size=size), toy.ArraySource(4, size=size)
    wide.label = scipy.ndimage.binary_dilation(wide.label, np.ones((1, 3, 3))).astype(np.uint8)
    _, prior, iou = overfit.fit(_quick(module, size), "coarse", wide, wide, steps=50)
    self.assertGreater(iou, 0.9)
    config = _quick(module, size)
    config.update(overrides)
    start, end, iou = overfit.fit(config, "fine", narrow, narrow, prior, steps=steps)
    self.assertGreater(iou, 0.95)
    _assert_equal(end.frozen, start.frozen)
    same = _paths(jax.tree.map(np.array_equal, start.trainable, end.trainable), np.any)
    frozen = gsmf_method.is_early if module is gsmf_rs_dil else lambda path, blocks: False
    self.assertEqual(same, {path for path in _paths(start.trainable) if frozen(path, 1)})


if __name__ == "__main__":
  absltest.main()
