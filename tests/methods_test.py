import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import linen as nn
from ml_collections import ConfigDict

from configs import fine_hybrid
from minec2f_jax import methods
from minec2f_jax.models import densenet
from tests import toy

KEY = jax.random.key(0)


def _config(**overrides) -> ConfigDict:
  config = toy.shrink(fine_hybrid.get_config())
  config.update(overrides)
  return config


def _batch(stream: str, *, seed: int = 0):
  source = toy.ArraySource(2, seed=seed)
  return {stream: {"image": source.image, "label": source.label, "valid": source.valid}}


IMAGE = _batch("fine")["fine"]["image"]


@functools.cache
def _teacher():
  config = _config()
  variables = jax.jit(methods.make_method(config, config.coarse).init)(KEY, IMAGE[:1], None)
  # A fresh head answers about 0 everywhere: random statistics and scales make the teacher say something.
  noise = lambda leaf: leaf + 0.1 * jax.random.normal(KEY, leaf.shape)
  return variables._replace(trainable=jax.tree.map(noise, variables.trainable))


class SupervisedTest(parameterized.TestCase):
  def test_loss_is_the_bce_of_its_stream(self):
    config = _config()
    method = methods.make_method(config, config.coarse)
    variables = _teacher()
    batch = _batch("coarse")
    value, (extra, parts) = jax.jit(method.loss)(*variables, batch, KEY)
    self.assertEqual(set(parts), {"bce"})
    np.testing.assert_allclose(value, parts["bce"], rtol=1e-6)
    # Training moved the statistics; inference uses them as they are.
    moved = jax.tree.map(lambda a, b: np.any(a != b), extra, variables.extra)
    self.assertTrue(any(jax.tree.leaves(moved)))

  def test_starting_from_the_earlier_stage_copies_every_parameter(self):
    config = _config(fine={"method": "supervised", "init_from_prior": True})
    prior = _teacher()
    method = methods.make_method(config, config.fine)
    variables = jax.jit(method.init)(jax.random.key(1), IMAGE[:1], prior)
    jax.tree.map(np.testing.assert_array_equal, variables.trainable, prior.trainable)

  def test_starting_from_nothing_is_refused(self):
    config = _config(fine={"method": "supervised", "init_from_prior": True})
    with self.assertRaisesRegex(ValueError, "no earlier stage"):
      methods.make_method(config, config.fine).init(KEY, IMAGE[:1], None)


class AttentiveDistillationTest(parameterized.TestCase):
  def _init(self, config):
    prior = _teacher()
    method = methods.make_method(config, config.fine)
    return method, jax.jit(method.init)(jax.random.key(1), IMAGE[:1], prior), prior

  def test_without_a_teacher_it_says_how_to_get_one(self):
    config = _config()
    with self.assertRaisesRegex(ValueError, "config.teacher"):
      methods.make_method(config, config.fine).init(KEY, IMAGE[:1], None)

  def test_the_frozen_teacher_answers_as_task_1_left_it(self):
    config = _config()
    _, variables, prior = self._init(config)
    logits = jax.jit(methods.make_method(config, config.coarse).logits)
    frozen = methods.Variables(variables.frozen["params"], {}, {"batch_stats": variables.frozen["batch_stats"]})
    np.testing.assert_array_equal(logits(*frozen, IMAGE), logits(*prior, IMAGE))

  def test_each_encoder_runs_once_a_step(self):
    config = _config()
    method, variables, _ = self._init(config)
    calls = []

    def count(call, args, kwargs, context):
      if isinstance(context.module, densenet.DenseNet) and context.method_name == "__call__":
        calls.append(kwargs)
      return call(*args, **kwargs)

    with nn.intercept_methods(count):
      jax.eval_shape(method.loss, *variables, _batch("fine"), KEY)
    self.assertEqual(calls, [{"train": False}, {"train": True}])  # The teacher's, then the student's.

  def test_no_gradient_reaches_the_teacher(self):
    config = _config()
    method, variables, _ = self._init(config)
    value = lambda frozen: method.loss(variables.trainable, frozen, variables.extra, _batch("fine"), KEY)[0]
    for leaf in jax.tree.leaves(jax.jit(jax.grad(value))(variables.frozen)):
      np.testing.assert_array_equal(leaf, 0.0)

  def test_every_parameter_of_the_student_gets_a_gradient(self):
    config = _config()
    method, variables, _ = self._init(config)
    value = lambda trainable: method.loss(trainable, variables.frozen, variables.extra, _batch("fine"), KEY)[0]
    grads = jax.jit(jax.grad(value))(variables.trainable)
    still = [
      jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(grads) if not np.any(leaf)
    ]
    self.assertEqual(still, [])

  @parameterized.parameters("standard", "image", "pixel", "hybrid")
  def test_the_loss_is_its_parts_under_every_selection(self, selection):
    config = _config(distillation={"selection": selection, "weight": 0.5})
    method, variables, _ = self._init(config)
    value, (_, parts) = jax.jit(method.loss)(*variables, _batch("fine"), KEY)
    expected = sum(float(parts[name]) for name in ("bce", "dice", "ssim", "boundary")) + 0.5 * parts["distillation"]
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    self.assertBetween(float(parts["distilled_share"]), 0, 1)
    if selection == "standard":
      np.testing.assert_allclose(parts["distilled_share"], 1.0)

  def test_without_distillation_nothing_is_transferred(self):
    config = _config(distillation={"selection": "none"})
    method, variables, _ = self._init(config)
    _, (_, parts) = jax.jit(method.loss)(*variables, _batch("fine"), KEY)
    self.assertNotIn("distillation", parts)

  def test_a_student_can_start_from_the_teacher(self):
    config = _config(fine={"init_from_prior": True})
    _, variables, prior = self._init(config)
    jax.tree.map(np.testing.assert_array_equal, variables.trainable["encoder"], prior.trainable["encoder"])
    self.assertGreater(len(variables.trainable), len(prior.trainable))  # The fusion is new.

  def test_without_injection_student_and_plain_network_are_the_same_function(self):
    config = _config(model={"fusion": {"levels": ()}}, fine={"init_from_prior": True})
    method, variables, prior = self._init(config)
    plain = methods.make_method(config, config.coarse)
    np.testing.assert_allclose(
      jax.jit(method.logits)(*variables, IMAGE), jax.jit(plain.logits)(*prior, IMAGE), rtol=1e-5, atol=1e-6
    )

  def test_what_fills_invalid_pixels_changes_no_loss_and_no_gradient(self):
    config = _config()
    method, variables, _ = self._init(config)
    batch = _batch("fine")
    batch["fine"]["valid"] = batch["fine"]["valid"].copy()
    batch["fine"]["valid"][:, :8] = False
    other = jax.tree.map(jnp.array, batch)
    other["fine"]["label"] = jnp.where(other["fine"]["valid"], other["fine"]["label"], 255)
    grad = jax.jit(jax.value_and_grad(lambda t, b: method.loss(t, variables.frozen, variables.extra, b, KEY)[0]))
    jax.tree.map(np.testing.assert_array_equal, grad(variables.trainable, batch), grad(variables.trainable, other))


if __name__ == "__main__":
  absltest.main()
