"""Steps that must not poison a run: batches without a valid pixel or of one class, and losses that are not finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from configs import fine_hybrid
from minec2f_jax import distillation, experiment, losses
from minec2f_jax.training import state as state_lib
from minec2f_jax.training import step as step_lib
from minec2f_jax.training import trainer
from tests import toy
from tests.faults import tiny

KEY = jax.random.key(11)
SIZE = 32


def _batches():
  """name -> (label, valid) of hostile batches."""
  rng, shape = np.random.default_rng(0), (2, SIZE, SIZE)
  some = rng.random(shape) < 0.5
  return {
    "no valid pixel": (some.astype(np.uint8), np.zeros(shape, bool)),
    "one image without a valid pixel": (some.astype(np.uint8), np.stack([np.zeros_like(some[0]), some[1]])),
    "one valid pixel": (some.astype(np.uint8), np.arange(some.size).reshape(shape) == 7),
    "background alone": (np.zeros(shape, np.uint8), np.ones(shape, bool)),
    "mine alone": (np.ones(shape, np.uint8), np.ones(shape, bool)),
  }


def _finite(tree) -> bool:
  return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


class HostileBatchTest(parameterized.TestCase):
  @parameterized.parameters(
    *({part: 1.0} for part in ("bce", "dice", "ssim", "boundary")),
    *(
      dict(dice=1.0, dice_kind=kind, dice_reduce=over)
      for kind in ("soft", "generalized")
      for over in ("batch", "image")
    ),
    dict(ssim=1.0, ssim_kind="ssl"),
  )
  def test_every_loss_and_its_gradient_are_finite(self, **weights):
    weights = dict(bce=0.0, dice=0.0, ssim=0.0, boundary=0.0) | weights
    loss = lambda logits, label, valid: losses.segmentation_loss(logits, label, valid, **weights)[0]
    self._check(jax.jit(jax.value_and_grad(loss)))

  @parameterized.parameters("standard", "image", "pixel", "hybrid")
  def test_every_distillation_and_its_gradient_are_finite(self, selection):
    transfer = dict(fine_hybrid.get_config().distillation, selection=selection)
    transfer.pop("weight")

    def loss(logits, label, valid):
      return distillation.distillation_loss(logits, -logits, label, valid, **transfer)

    self._check(jax.jit(jax.value_and_grad(loss)))

  def _check(self, value_and_grad):
    rng = np.random.default_rng(1)
    for scale in (1.0, 1e4):  # Logits of a network that is too sure of itself, too.
      logits = (scale * rng.normal(size=(2, SIZE, SIZE))).astype(np.float32)
      for name, (label, valid) in _batches().items():
        value, grad = value_and_grad(np.where(valid, logits, np.nan).astype(np.float32), label, valid)
        self.assertTrue(_finite((value, grad)), (name, scale, value))
        np.testing.assert_array_equal(np.asarray(grad)[~valid], 0.0)

  def test_a_step_of_either_method_is_finite_and_moves_on(self):
    config, prior = toy.shrink(fine_hybrid.get_config()), None
    source = toy.ArraySource(2, size=SIZE)
    for name, wired in experiment.wire(config).items():
      stage = experiment.make_stage(config, name, wired, source, source)
      prior = variables = trainer.start(stage, KEY, prior)
      steps = step_lib.make_train_steps(stage.method.loss, stage.optimizer, stage.prepare, stage.feed.take)
      for kind, (label, valid) in _batches().items():
        state = state_lib.init_state(jax.tree.map(jnp.copy, variables), stage.optimizer)
        inputs = {name: {"image": source.image[None], "label": label[None], "valid": valid[None]}}
        state, metrics = steps(state, variables.frozen, (), inputs, KEY)
        self.assertEqual(metrics["skipped"].tolist(), [0.0], (name, kind))
        self.assertTrue(_finite((state, metrics)), (name, kind))


class SkippedStepTest(parameterized.TestCase):
  """On NaN images, on gradients that overflow, and on both within one call of the device."""

  def _steps(self, loss=None):
    stage = tiny.make_stage()
    steps = step_lib.make_train_steps(loss or stage.method.loss, stage.optimizer, stage.prepare, stage.feed.take)
    state = state_lib.init_state(trainer.start(stage, KEY, None), stage.optimizer)
    return state, functools.partial(steps, frozen={}, held=(), key=KEY)

  def _inputs(self, *good: bool):
    source = toy.ArraySource(2, size=8)
    images = np.stack([source.image if fine else np.full_like(source.image, np.nan) for fine in good])
    repeat = lambda array: np.stack([array] * len(good))
    return {"coarse": {"image": images, "label": repeat(source.label), "valid": repeat(source.valid)}}

  def _assert_same_weights(self, state, other):
    for field in ("trainable", "extra", "opt_state", "lr_scale"):
      jax.tree.map(np.testing.assert_array_equal, getattr(state, field), getattr(other, field))

  @parameterized.parameters(1, 3)
  def test_it_moves_nothing_but_the_counters(self, count):
    before, run = self._steps()
    state, metrics = run(jax.tree.map(jnp.copy, before), inputs=self._inputs(*[False] * count))
    self._assert_same_weights(before, state)
    self.assertEqual((int(state.step), int(state.skipped), int(state.skipped_in_a_row)), (count, count, count))
    self.assertEqual(metrics["skipped"].tolist(), [1.0] * count)

  def test_a_finite_loss_with_a_gradient_that_is_none_is_skipped_too(self):
    def loss(trainable, frozen, extra, batch, key):
      return jnp.sqrt(0.0 * jnp.sum(trainable["kernel"] ** 2)), (extra, {})  # 0 with the gradient 0 * inf.

    before, run = self._steps(loss)
    state, metrics = run(jax.tree.map(jnp.copy, before), inputs=self._inputs(True))
    self._assert_same_weights(before, state)
    self.assertEqual((metrics["loss"].tolist(), metrics["skipped"].tolist()), ([0.0], [1.0]))

  def test_the_count_in_a_row_ends_with_a_good_step_and_the_total_stays(self):
    state, run = self._steps()
    state, metrics = run(state, inputs=self._inputs(True, False, False, True, False))
    self.assertEqual(metrics["skipped"].tolist(), [0, 1, 1, 0, 1])
    self.assertEqual((int(state.skipped), int(state.skipped_in_a_row)), (3, 1))
    self.assertEqual(
      int(optax.tree_utils.tree_get(state.opt_state, "count", filtering=lambda path, _: "Adam" in str(path[-1]))), 2
    )
    self.assertTrue(_finite(state))

  def test_the_state_is_still_donated(self):
    state, run = self._steps()
    run(state, inputs=self._inputs(True))
    self.assertTrue(all(leaf.is_deleted() for leaf in jax.tree.leaves(state.trainable)))


if __name__ == "__main__":
  absltest.main()
