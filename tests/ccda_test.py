"""The two steps of CCDA as methods, at toy size."""

import functools

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from ml_collections import ConfigDict
from scipy import special

from configs.baselines import ccda, ccda_sup
from minec2f_jax import experiment, methods
from minec2f_jax.errors import UserError
from minec2f_jax.methods import margin
from tests import overfit, toy

KEY = jax.random.key(0)
SOURCE, OTHER = toy.ArraySource(4), toy.ArraySource(4, seed=1)
IMAGE = SOURCE.image[:1]
UNLABELLED = {"image": OTHER.image[:2], "valid": OTHER.valid[:2]}
LABELLED = {name: getattr(SOURCE, name)[:2] for name in ("image", "label", "valid")}


def _config(module, overrides=None) -> ConfigDict:
  config = toy.shrink(module.get_config())
  config.update(overrides or {})
  return config


def _batch(streams):
  return dict(zip(streams, (LABELLED, UNLABELLED), strict=True))


def _assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


@functools.cache
def _old(module) -> methods.Variables:
  """What the first stage leaves; random scales make it say something."""
  config, rng = _config(module), np.random.default_rng(1)
  variables = jax.jit(methods.make_method(config, config.coarse).init)(KEY, IMAGE, None)
  noise = lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32)
  return variables._replace(trainable=jax.tree.map(noise, variables.trainable))


@functools.cache
def _run(module):
  """(what the second step starts from, its loss there, gradients of what is trained and of what is frozen)."""
  config = _config(module)
  method = methods.make_method(config, config.fine)
  start = jax.jit(method.init)(jax.random.key(1), IMAGE, _old(module))
  batch = _batch(config.fine.streams)
  loss = lambda trainable, frozen: method.loss(trainable, frozen, start.extra, batch, KEY)
  return start, *jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(start.trainable, start.frozen)


class HeadTest(parameterized.TestCase):
  def test_both_children_share_their_parents_probability_exactly(self):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
      head = {"kernel": rng.normal(size=(3, 3, 5, 1)), "bias": rng.normal(size=1)}
      split = margin.split_head(head, share=True)
      features = rng.normal(size=(200, 3, 3, 5))
      answer = lambda head: np.einsum("nijc,ijck->nk", features, head["kernel"]) + head["bias"]
      old, new = special.expit(answer(head)[:, 0]), special.softmax(answer(split), -1)
    np.testing.assert_allclose(new[:, margin.MARGIN] + new[:, margin.MINE], old, rtol=1e-14)
    np.testing.assert_array_equal(new[:, margin.MARGIN], new[:, margin.MINE])

  def test_without_sharing_each_has_the_old_logit(self):
    head = {"kernel": np.ones((1, 1, 2, 1), np.float32), "bias": np.float32([3])}
    split = margin.split_head(head, share=False)
    np.testing.assert_array_equal(split["bias"], [0, 3, 3])
    np.testing.assert_array_equal(split["kernel"][0, 0], [[0, 1, 1]] * 2)

  def test_labels_beside_old_answers_make_three_classes_and_the_best_one_is_mine_where_its_logit_is_positive(self):
    mine, old = np.array([True, True, False, False]), np.array([True, False, True, False])
    np.testing.assert_array_equal(margin.fine_label(mine, old), [margin.MINE, margin.MINE, margin.MARGIN, 0])
    logits = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    np.testing.assert_array_equal(margin.mine_logit(logits)[:, 0] > 0, logits.argmax(-1) == margin.MINE)


class FirstStepTest(parameterized.TestCase):
  @parameterized.parameters((0, False), (99, False), (100, True))
  def test_certainty_counts_from_its_step_on(self, step, counts):
    config = _config(ccda, {"ccda": {"squares_weight": 0.5}})
    method = methods.make_method(config, config.coarse)
    start = _old(ccda)
    value, (extra, parts) = _first_loss(method)(start.trainable, {}, {**start.extra, "step": np.int32(step)})
    np.testing.assert_allclose(value, parts["bce"] + 0.5 * counts * parts["squares"], rtol=1e-6)
    self.assertLess(float(parts["squares"]), 0.0)
    self.assertEqual(int(extra["step"]), step + 1)
    self.assertEqual(jax.tree.structure(extra), jax.tree.structure(start.extra))


_FIRST_LOSS = []


def _first_loss(method):
  if not _FIRST_LOSS:
    batch = _batch(("coarse", "fine"))
    _FIRST_LOSS.append(jax.jit(lambda *variables: method.loss(*variables, batch, KEY)))
  return _FIRST_LOSS[0]


class SecondStepTest(parameterized.TestCase):
  @parameterized.parameters(ccda, ccda_sup)
  def test_it_goes_on_with_the_old_network_of_which_a_copy_is_frozen(self, module):
    old, (start, *_) = _old(module), _run(module)
    _assert_equal(start.frozen, {"params": old.trainable, "batch_stats": old.extra["batch_stats"]})
    for name in ("encoder", "decoder"):
      _assert_equal(start.trainable[name], old.trainable[name])
    self.assertEqual(start.trainable["head"]["bias"].shape, (3,) if module is ccda_sup else (1,))
    self.assertEqual(set(start.extra), {"batch_stats"})

  @parameterized.parameters(ccda, ccda_sup)
  def test_the_loss_is_its_parts_and_moves_nothing_that_is_frozen(self, module):
    start, (value, (extra, parts)), (grads, of_frozen) = _run(module)
    expected = parts["bce"] + 0.1 * parts["squares"] + 10 * parts["distillation"]
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for leaf in jax.tree.leaves(grads):
      self.assertTrue(np.all(np.isfinite(leaf)) and np.any(leaf))
    for leaf in jax.tree.leaves(of_frozen):
      np.testing.assert_array_equal(leaf, 0.0)
    self.assertEqual(jax.tree.structure(extra), jax.tree.structure(start.extra))

  def test_without_a_teacher_it_says_how_to_get_one(self):
    config = _config(ccda_sup, {"stages": ("fine",)})
    with self.assertRaisesRegex(UserError, r"fine\.method='ccda' needs a teacher, but it stands first"):
      experiment.check_config(config)
    with self.assertRaisesRegex(ValueError, "needs a teacher.*config.teacher"):
      methods.make_method(config, config.fine).init(KEY, IMAGE, None)


class LabelsTest(parameterized.TestCase):
  @parameterized.parameters((ccda, "coarse"), (ccda, "fine"), (ccda_sup, "fine"))
  def test_the_second_streams_labels_reach_no_batch(self, module, name):
    config = _config(module)
    source = toy.ArraySource(4, seed=1)
    source.label = np.full_like(source.label, 77)
    labelled, bare = config[name].streams
    wired = experiment.wire(config)[name]
    stage = experiment.make_stage(config, name, wired, {labelled: SOURCE, bare: source}, SOURCE)
    batch = stage.feed.take(stage.feed.held, next(stage.feed.inputs(0)))
    self.assertEqual(set(batch[labelled]) - set(batch[bare]), {"label"})
    self.assertEqual((labelled, bare), ("fine", "coarse") if module is ccda_sup else ("coarse", "fine"))


@pytest.mark.slow
class OverfitTest(parameterized.TestCase):
  def test_four_images_are_learned_by_heart_and_the_old_network_stays_bit_for_bit(self):
    # Little of an old network that knows nothing yet.
    config = overfit.alone(_config(ccda_sup, {"ccda": {"distillation_weight": 0.1}}))
    old = jax.jit(methods.make_method(config, config.coarse).init)(KEY, IMAGE, None)
    start, end, iou = overfit.fit(config, "fine", {"fine": SOURCE, "coarse": SOURCE}, SOURCE, old, steps=120)
    self.assertGreater(iou, 0.95)
    _assert_equal(end.frozen, start.frozen)


if __name__ == "__main__":
  absltest.main()
