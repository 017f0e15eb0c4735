"""LwF, LwM and Replay as methods, at toy size."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from absl.testing import absltest, parameterized
from ml_collections import ConfigDict

from configs.baselines import finetune, lwf, lwm, replay
from minec2f_jax import experiment, methods
from minec2f_jax.methods import base
from minec2f_jax.methods import lwm as lwm_method
from minec2f_jax.training import state as state_lib
from minec2f_jax.training import step as step_lib
from tests import toy

KEY = jax.random.key(0)
SOURCE = toy.ArraySource(4)
BATCH = {"fine": {name: getattr(SOURCE, name)[:2] for name in ("image", "label", "valid")}}
IMAGE = SOURCE.image[:1]


def _config(module, overrides=None) -> ConfigDict:
  config = toy.shrink(module.get_config())
  config.update(overrides or {})
  return config


@functools.cache
def _teacher() -> methods.Variables:
  config = _config(finetune)
  variables = jax.jit(methods.make_method(config, config.coarse).init)(KEY, IMAGE, None)
  # A fresh head answers about 0 everywhere: random scales make the teacher say something.
  noise = lambda leaf: leaf + 0.1 * jax.random.normal(KEY, leaf.shape)
  return variables._replace(trainable=jax.tree.map(noise, variables.trainable))


def _start(config):
  """(the method, what its fine stage starts from, which is the teacher)."""
  method = methods.make_method(config, config.fine)
  return method, jax.jit(method.init)(jax.random.key(1), IMAGE, _teacher())


def _grads(method, variables):
  """((value, metrics), (gradient of what is trained, of what is frozen))."""

  def loss(trainable, frozen):
    value, (_, metrics) = method.loss(trainable, frozen, variables.extra, BATCH, KEY)
    return value, metrics

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(variables.trainable, variables.frozen)


def _without_gradient(grads) -> set[str]:
  return {
    jax.tree_util.keystr(path, simple=True, separator="/").partition("/")[0]
    for path, leaf in jax.tree.leaves_with_path(grads)
    if not np.any(leaf)
  }


class TeacherTest(parameterized.TestCase):
  @parameterized.parameters(lwf, lwm)
  def test_the_student_starts_as_the_teacher_of_which_a_copy_is_frozen(self, module):
    _, variables = _start(_config(module))
    jax.tree.map(np.testing.assert_array_equal, variables.trainable, _teacher().trainable)
    frozen = {"params": _teacher().trainable, "batch_stats": _teacher().extra["batch_stats"]}
    jax.tree.map(np.testing.assert_array_equal, variables.frozen, frozen)

  @parameterized.parameters(lwf, lwm)
  def test_without_a_teacher_it_says_how_to_get_one(self, module):
    config = _config(module, {"fine": {"init_from_prior": False}})
    with self.assertRaisesRegex(ValueError, "needs a teacher.*config.teacher"):
      methods.make_method(config, config.fine).init(KEY, IMAGE, None)

  @parameterized.parameters(
    (lwf, {"lwf": {"weight": 0.5}}, {"bce": 1.0, "distillation": 0.5}),
    (
      lwm,
      {"lwm": {"distillation_weight": 0.5, "attention_weight": 0.25}},
      {"bce": 1.0, "distillation": 0.5, "attention": 0.25},
    ),
  )
  def test_the_loss_is_its_parts_and_moves_all_of_the_student_and_nothing_of_the_teacher(self, module, own, weights):
    (value, parts), (grads, of_frozen) = _grads(*_start(_config(module, own)))
    self.assertEqual(set(parts), set(weights))
    np.testing.assert_allclose(value, sum(weight * parts[name] for name, weight in weights.items()), rtol=1e-6)
    self.assertEmpty(_without_gradient(grads))
    for leaf in jax.tree.leaves(of_frozen):
      np.testing.assert_array_equal(leaf, 0.0)

  @parameterized.parameters(lwf, lwm)
  def test_a_student_that_is_the_teacher_pays_for_its_labels_alone(self, module):
    # With the teacher's statistics; those of a batch make another network.
    still = lambda model, trainable, extra, key, *inputs: (model.apply({"params": trainable, **extra}, *inputs), extra)
    with mock.patch.object(base, "apply_in_training", still):
      method, variables = _start(_config(module, {"fine": {"loss": {"bce": 0.0}}}))
      (value, parts), (grads, _) = _grads(method, variables)
    self.assertEqual(float(parts["distillation"]), 0.0)
    self.assertLess(float(value), 1e-5)  # Of the two forward passes XLA rounds maps otherwise.
    if module is lwf:  # The gradient of LwM's absolute difference does not shrink with it.
      self.assertLess(max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads)), 1e-5)


class LwmTest(parameterized.TestCase):
  @parameterized.parameters(
    ("decoder", False, {"head"}),  # The weights, which come of the head, are constants.
    ("decoder", True, set()),
    ("encoder", False, {"decoder", "head"}),
  )
  def test_attention_moves_all_before_its_map_and_with_second_order_what_is_behind_too(self, layer, second, still):
    own = {"layer": layer, "second_order": second, "distillation_weight": 0.0}
    (value, parts), (grads, _) = _grads(*_start(_config(lwm, {"lwm": own, "fine": {"loss": {"bce": 0.0}}})))
    self.assertGreater(float(value), 0.0)
    self.assertEqual(float(value), float(parts["attention"]))
    moving = {name for name, tree in grads.items() if any(np.any(leaf) for leaf in jax.tree.leaves(tree))}
    self.assertEqual(set(grads) - moving, still)

  def test_what_a_network_sees_are_the_valid_pixels_it_calls_mine_or_all_where_it_sees_none(self):
    logits = np.float32([[[1, -1], [2, -2]], [[-1, -1], [-1, 3]]])
    valid = np.array([[[True, True], [False, True]], [[True, True], [True, False]]])
    expected = [[[True, False], [False, False]], [[True, True], [True, False]]]
    np.testing.assert_array_equal(lwm_method.seen_region(logits, valid), expected)

  def test_a_position_counts_if_one_of_its_pixels_does_and_what_padding_adds_does_not(self):
    valid = np.zeros((1, 32, 40), bool)
    valid[0, 3, 4] = valid[0, 31, 39] = True
    found = lwm_method.valid_positions(valid, (1, 16, 32))  # Padded to 32 x 64.
    self.assertEqual(np.argwhere(found).tolist(), [[0, 1, 2], [0, 15, 19]])
    np.testing.assert_array_equal(lwm_method.valid_positions(valid, (1, 32, 64))[:, :, :40], valid)


class ReplayTest(parameterized.TestCase):
  def test_several_streams_are_learned_as_one_batch(self):
    config = _config(replay)
    method, plain = (methods.make_method(config, config[name]) for name in ("fine", "selector"))
    parts = {"coarse": slice(0, 1), "fine": slice(1, 2)}
    batch = {name: jax.tree.map(lambda x, part=part: x[part], BATCH["fine"]) for name, part in parts.items()}
    ours, theirs = (jax.jit(one.loss)(*_teacher(), given, KEY) for one, given in ((method, batch), (plain, BATCH)))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def _fit(config, name, source, prior, *, steps):
  """(variables before and after so many steps of a stage, IoU of mine on the images of `source`)."""
  stage = experiment.make_stage(config, name, wired := experiment.wire(config)[name], source, source)
  variables = jax.jit(stage.method.init)(KEY, IMAGE, prior)
  state = state_lib.init_state(jax.tree.map(jnp.copy, variables), stage.optimizer)
  run = step_lib.make_train_steps(stage.method.loss, stage.optimizer, stage.prepare, stage.feed.take)
  inputs = stage.feed.inputs(0)
  for _ in range(steps):
    batch = jax.tree.map(lambda x: x[None], next(inputs))
    state, _ = run(state, variables.frozen, stage.feed.held, batch, KEY)
  result = methods.Variables(state.trainable, variables.frozen, state.extra)
  predicted = wired.predict(result, {"image": source.image, "valid": source.valid}) > 0
  return variables, result, np.sum(predicted & (source.label > 0)) / np.sum(predicted | (source.label > 0))


def _quick(module) -> ConfigDict:
  """Nothing but the four images: no augmentation, all in a batch."""
  config = _config(module)
  config.data.batch_size = 4
  config.data.augment.update(dict(hflip=0.0, vflip=0.0, rot90=0.0, shift_scale_rotate=0.0))
  config.model.encoder.update(dict(growth_rate=8, stem_features=16))
  config.model.decoder.update(dict(pyramid_features=16, segmentation_features=16))
  config.optimizer.update(dict(learning_rate=1e-2, warmup_epochs=0))
  return config


@functools.cache
def _coarse() -> methods.Variables:
  """What Task 1 leaves after learning outlines that are too wide."""
  source = toy.ArraySource(4)
  source.label = scipy.ndimage.binary_dilation(source.label, np.ones((1, 3, 3))).astype(np.uint8)
  _, variables, iou = _fit(_quick(finetune), "coarse", source, None, steps=60)
  assert iou > 0.9, iou
  return variables


@pytest.mark.slow
class OverfitTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("finetune", finetune, {}, 100),
    ("lwf", lwf, {}, 100),
    # With its weight of 1 attention holds the student to the teacher's wide outlines.
    ("lwm", lwm, {"lwm": {"attention_weight": 0.01}, "optimizer": {"learning_rate": 5e-3}}, 400),
    ("replay", replay, {}, 300),  # From random weights.
  )
  def test_four_images_are_learned_by_heart_and_the_teacher_stays_bit_for_bit(self, module, overrides, steps):
    prior, config = _coarse(), _quick(module)
    config.update(overrides)
    start, end, iou = _fit(config, "fine", SOURCE, prior, steps=steps)
    self.assertGreater(iou, 0.95)
    jax.tree.map(np.testing.assert_array_equal, end.frozen, start.frozen)
    if start.frozen:
      jax.tree.map(np.testing.assert_array_equal, end.frozen["params"], prior.trainable)


if __name__ == "__main__":
  absltest.main()
