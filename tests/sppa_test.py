"""SPPA and the projector that it needs as methods, at toy size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from flax import linen as nn
from ml_collections import ConfigDict

from configs.baselines import sppa
from minec2f_jax import experiment, incremental, methods
from minec2f_jax.errors import UserError
from minec2f_jax.methods import margin
from minec2f_jax.methods import projector as projector_method
from minec2f_jax.methods import sppa as sppa_method
from minec2f_jax.models import Projector, Reconstruction, count_parameters, factory
from tests import overfit, toy

KEY = jax.random.key(0)
SOURCE = toy.ArraySource(4)
IMAGE = SOURCE.image[:1]
BATCH = {"fine": {name: getattr(SOURCE, name)[:2] for name in ("image", "label", "valid")}}
TWO_CLASSES = {"sppa": {"new_class": False}}


def _config(overrides=None) -> ConfigDict:
  config = toy.shrink(sppa.get_config())
  config.sppa.features = 6
  config.update(overrides or {})
  return config


def _moved(tree, *, by=0.1, seed=1):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: leaf + by * rng.normal(size=leaf.shape).astype(np.float32), tree)


def _assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


@functools.cache
def _before():
  """What the two stages before the last one leave; random scales make the old network say something."""
  config = _config()
  init = lambda name: jax.jit(methods.make_method(config, config[name]).init)
  old = init("coarse")(KEY, IMAGE, None)
  old = old._replace(trainable=_moved(old.trainable))
  return old, init("projector")(KEY, IMAGE, old)


@functools.cache
def _method(new_class=True):
  config = _config({"sppa": {"new_class": new_class}})
  return methods.make_method(config, config.fine)


@functools.cache
def _started(new_class=True) -> methods.Variables:
  return jax.jit(_method(new_class).init)(jax.random.key(1), IMAGE, _before()[1])


@functools.cache
def _run(new_class=True):
  """`(variables, batch) -> ((loss, (extra, parts)), (gradients of what is trained, of what is frozen))`."""

  def loss(trainable, frozen, extra, batch):
    return _method(new_class).loss(trainable, frozen, extra, batch, KEY)

  compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
  return lambda variables, batch=BATCH: compiled(*variables, batch)


class NetworkTest(parameterized.TestCase):
  def test_of_densenets_deepest_map_it_has_the_parameters_of_its_layers(self):
    features = jax.ShapeDtypeStruct((1, 8, 8, 1024), np.float32)
    narrow = jax.eval_shape(Projector().init, KEY, features)
    self.assertEqual(count_parameters(narrow)["trainable"], (1024 + 1) * 256 + 2 * (9 * 256 + 1) * 256)
    wide = Reconstruction(features=512, channels=1024)
    variables = jax.eval_shape(wide.init, KEY, jax.ShapeDtypeStruct((1, 8, 8, 256), np.float32))
    self.assertEqual(count_parameters(variables)["trainable"], (9 * 256 + 1) * 512 + (9 * 512 + 1) * 1024)

  def test_it_is_numpys(self):
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 5)).astype(np.float32)
    for net, steps in ((Projector(3), ((1, 1), (1, 2), (1, 2))), (Reconstruction(4, 5), ((1, 1), (0, 1)))):
      variables = jax.jit(net.init)(KEY, x)
      variables = _moved(variables)  # Biases start at zero.
      expected = x.astype(np.float64)
      for n, (leaks, dilation) in enumerate(steps, start=1):
        expected = _convolve(expected, variables["params"][f"conv{n}"], dilation)
        expected = np.where(leaks & (expected < 0), 0.1 * expected, expected)
      np.testing.assert_allclose(jax.jit(net.apply)(variables, x), expected, rtol=1e-4, atol=1e-5)


def _convolve(x, parameters, dilation):
  """A convolution of [B, H, W, C] with zeros around, tap by tap."""
  kernel, reach = np.asarray(parameters["kernel"], np.float64), dilation * (parameters["kernel"].shape[0] // 2)
  height, width = x.shape[1:3]
  padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
  result = np.zeros((*x.shape[:3], kernel.shape[-1])) + parameters["bias"]
  for row, column in np.ndindex(kernel.shape[:2]):
    part = padded[:, row * dilation :, column * dilation :][:, :height, :width]
    result += part @ kernel[row, column]
  return result


class ProjectorTest(parameterized.TestCase):
  def test_it_learns_to_restore_the_frozen_networks_features_without_labels(self):
    config = _config()
    method, (old, start) = methods.make_method(config, config.projector), _before()
    _assert_equal(start.frozen, {"params": old.trainable, "batch_stats": old.extra["batch_stats"]})
    self.assertEqual((set(start.trainable), start.extra), ({"projector", "reconstruction"}, {}))

    @jax.jit
    def run(trainable, frozen, batch):
      loss = lambda trainable, frozen: method.loss(trainable, frozen, {}, batch, KEY)
      return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(trainable, frozen)

    (value, (_, parts)), (grads, of_frozen) = run(start.trainable, start.frozen, BATCH)
    features = factory.make_segmenter(config.model).apply(start.frozen, BATCH["fine"]["image"])["features"]["c5"]
    narrow = Projector(6).apply({"params": start.trainable["projector"]}, features)
    wide = Reconstruction(12, features.shape[-1]).apply({"params": start.trainable["reconstruction"]}, narrow)
    np.testing.assert_allclose(value, np.mean((wide - features) ** 2), rtol=1e-4)
    self.assertEqual(list(parts), ["reconstruction"])
    self.assertTrue(all(np.any(leaf) for leaf in jax.tree.leaves(grads)))
    self.assertFalse(any(np.any(leaf) for leaf in jax.tree.leaves(of_frozen)))
    garbage = {"fine": {**BATCH["fine"], "label": 255 - BATCH["fine"]["label"]}}
    _assert_equal(run(start.trainable, start.frozen, garbage), run(start.trainable, start.frozen, BATCH))

  def test_it_is_scored_by_what_the_old_network_makes_of_restored_features(self):
    config = _config()
    method, (old, start) = methods.make_method(config, config.projector), _before()
    old_method = methods.make_method(config, config.coarse)
    exact = jax.jit(old_method.logits)(old.trainable, {}, old.extra, IMAGE)
    found = jax.jit(method.logits)(*start, IMAGE)
    self.assertEqual(found.shape, exact.shape)
    self.assertTrue(np.any(found != exact))
    perfect = {"projector": {}, "reconstruction": {}}
    with _restoring_all():
      np.testing.assert_array_equal(jax.jit(method.logits)(perfect, start.frozen, {}, IMAGE), exact)


def _restoring_all():
  """Projectors that leave features as they are."""
  keep = lambda self, x: x
  return nn.intercept_methods(
    lambda call, args, kwargs, context: (
      keep(None, *args) if isinstance(context.module, Projector | Reconstruction) else call(*args, **kwargs)
    )
  )


class StartTest(parameterized.TestCase):
  @parameterized.parameters(True, False)
  def test_the_new_network_is_the_old_one_and_both_have_a_copy_of_the_projector(self, new_class):
    old, prior = _before()
    start = _started(new_class)
    for name in ("encoder", "decoder"):
      _assert_equal(start.trainable[name], old.trainable[name])
      _assert_equal(start.frozen["params"][name], old.trainable[name])
    for projector in (start.trainable["projector"], start.frozen["params"]["projector"]):
      _assert_equal(projector, prior.trainable["projector"])
    _assert_equal(start.extra["batch_stats"], old.extra["batch_stats"])
    bias = start.trainable["head"]["bias"]
    old_bias = float(old.trainable["head"]["bias"][0])
    np.testing.assert_array_equal(bias, np.float32([0, old_bias, old_bias] if new_class else [old_bias]))
    self.assertEqual(set(start.extra) - {"batch_stats"}, {"counts", "prototype", "seen"} if new_class else set())

  def test_without_a_projector_it_says_how_to_get_one(self):
    config = _config()
    config.fine.method, config.projector.method, config.projector.loss.bce = "sppa", "supervised", 1.0
    with self.assertRaisesRegex(UserError, "'sppa' needs the projector.*a stage with the method 'projector' between"):
      experiment.check_config(config)


class StepTest(parameterized.TestCase):
  WEIGHTS = {"bce": 1.0, "alignment": 30.0, "intra": 0.1, "inter": 10.0}

  @parameterized.parameters(True, False)
  def test_a_network_that_is_the_old_one_pays_for_its_labels_alone_but_for_the_batchs_statistics(self, new_class):
    start = _started(new_class)
    (value, (extra, parts)), (grads, of_frozen) = _run(new_class)(start)
    weights = {**self.WEIGHTS, **({"compact": 0.01} if new_class else {})}
    self.assertEqual(set(parts), set(weights))
    np.testing.assert_allclose(value, sum(weights[name] * parts[name] for name in weights), rtol=1e-5)
    for leaf in jax.tree.leaves(of_frozen):
      np.testing.assert_array_equal(leaf, 0.0)
    moved = {name: any(np.any(leaf) for leaf in jax.tree.leaves(tree)) for name, tree in grads.items()}
    self.assertEqual(moved, dict.fromkeys(("encoder", "decoder", "head", "projector"), True))
    self.assertTrue(all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads)))
    self.assertEqual(jax.tree.structure(extra), jax.tree.structure(start.extra))

  def test_features_that_agree_cost_nothing(self):
    start, network = _started(), projector_method.make_network(_config())
    outputs = factory.make_segmenter(_config().model).apply(start.frozen, BATCH["fine"]["image"])
    same = (start.trainable, start.frozen["params"], outputs, outputs)
    valid = BATCH["fine"]["valid"]
    self.assertEqual(float(sppa_method.alignment(network, *same, valid)), 0.0)
    region = sppa_method.at_map(valid, outputs["decoder"])
    for loss in (incremental.intra_class_loss, incremental.inter_class_loss):
      self.assertEqual(float(loss(outputs["decoder"], outputs["decoder"], region)), 0.0)

  def test_invalid_pixels_count_nowhere_whatever_they_are_labelled(self):
    valid = BATCH["fine"]["valid"] & (np.arange(32) < 20)
    batch = lambda fill: {"fine": {**BATCH["fine"], "valid": valid, "label": np.where(valid, SOURCE.label[:2], fill)}}
    _assert_equal(*(_run()(_started(), batch(np.uint8(fill))) for fill in (0, 255)))

  def test_old_answers_fill_the_background_where_they_are_sure(self):
    logits = np.float32([[[-9, -9, -0.1, -9], [9, 9, 0.1, 9], [9, -9, 0.1, 9]]])
    mine = np.zeros(logits.shape, bool)
    mine[0, 2] = [True, True, True, False]
    valid = np.ones(logits.shape, bool)
    counts = np.zeros((2, len(incremental.DOUBTS) + 1), np.float32)
    label, counted, counts = sppa_method.pseudo_label(logits, mine, valid, counts, keep=0.7)
    np.testing.assert_array_equal(label, [[[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 1]]])
    np.testing.assert_array_equal(counted, [[[1, 1, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1]]])
    np.testing.assert_allclose(counts[:, -1] * logits.size, [4, 5], rtol=1e-6)
    # Where a whole class is doubted, the highest threshold stands.
    label, counted, _ = sppa_method.pseudo_label(0 * logits + 0.1, mine, valid, 0 * counts, keep=0.7)
    np.testing.assert_array_equal(counted, mine)

  def test_two_classes_take_the_labels_for_answers(self):
    start = _started(False)
    (_, (_, parts)), _ = _run(False)(start)
    (_, (_, other)), _ = _run(False)(start, {"fine": {**BATCH["fine"], "label": 1 - BATCH["fine"]["label"]}})
    self.assertEqual(float(parts["alignment"]), float(other["alignment"]))
    for name in ("bce", "intra", "inter"):
      self.assertNotEqual(float(parts[name]), float(other[name]))

  def test_the_mine_scored_is_the_new_class(self):
    start = _started()
    head = {"kernel": 0 * start.trainable["head"]["kernel"], "bias": jnp.array([1.0, 4.0, 2.5])}
    logits = jax.jit(_method().logits)({**start.trainable, "head": head}, start.frozen, start.extra, IMAGE)
    np.testing.assert_allclose(logits, -1.5, rtol=1e-6)
    self.assertEqual(logits.shape, (1, 32, 32, 1))
    self.assertEqual(margin.CHILDREN, ((0,), (1, 2)))


@pytest.mark.slow
class OverfitTest(parameterized.TestCase):
  def test_four_images_are_learned_by_heart_and_what_is_frozen_stays_bit_for_bit(self):
    # Pixels that the coarse network doubts would not count, and features like its own do not tell outlines apart.
    config = overfit.alone(_config({"sppa": {"keep": 1.0, "align_weight": 1.0}}))
    _, prior, _ = overfit.fit(config, "coarse", SOURCE, SOURCE, steps=60)
    prior = jax.jit(methods.make_method(config, config.projector).init)(KEY, IMAGE, prior)
    start, end, iou = overfit.fit(config, "fine", SOURCE, SOURCE, prior, steps=100)
    _assert_equal(end.frozen, start.frozen)
    self.assertGreater(iou, 0.95)


if __name__ == "__main__":
  absltest.main()
