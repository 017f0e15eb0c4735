import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from minec2f_jax.training import optimizers


def _adamw_in_numpy(param, grads, rates, *, decay, b1=0.9, b2=0.999, eps=1e-7):
  """Loshchilov & Hutter 2019, Alg. 2, with Keras' epsilon."""
  first, second = np.zeros_like(param), np.zeros_like(param)
  for t, (grad, rate) in enumerate(zip(grads, rates), start=1):
    first = b1 * first + (1 - b1) * grad
    second = b2 * second + (1 - b2) * grad**2
    step = (first / (1 - b1**t)) / (np.sqrt(second / (1 - b2**t)) + eps)
    param = param - rate * step - rate * decay * param
  return param


class OptimizerTest(parameterized.TestCase):
  def test_adamw_with_warmup_equals_the_published_algorithm(self):
    rng = np.random.default_rng(0)
    param, grads = rng.normal(size=5), rng.normal(size=(6, 5))
    optimizer = optimizers.make_optimizer(learning_rate=0.1, weight_decay=0.01, warmup_steps=4)
    moved = jnp.array(param, jnp.float32)
    state = optimizer.init(moved)
    for grad in grads:
      updates, state = optimizer.update(jnp.array(grad, jnp.float32), state, moved)
      moved = optax.apply_updates(moved, updates)
    rates = 0.1 * np.minimum(np.arange(1, 7) / 4, 1)
    np.testing.assert_allclose(moved, _adamw_in_numpy(param, grads, rates, decay=0.01), rtol=2e-5)

  @parameterized.parameters(0, 1)
  def test_without_warmup_the_first_step_has_the_full_rate(self, warmup_steps):
    optimizer = optimizers.make_optimizer(learning_rate=0.1, weight_decay=0.0, warmup_steps=warmup_steps)
    param = jnp.zeros(1)
    updates, _ = optimizer.update(jnp.ones(1), optimizer.init(param), param)
    np.testing.assert_allclose(updates, [-0.1], rtol=1e-5)

  def test_clipping_bounds_the_global_norm(self):
    optimizer = optimizers.make_optimizer(learning_rate=1.0, weight_decay=0.0, warmup_steps=0, clip_norm=1.0)
    state = optimizer.init(jnp.zeros(2))
    _, state = optimizer.update(jnp.array([30.0, 40.0]), state, jnp.zeros(2))
    np.testing.assert_allclose(optax.tree_utils.tree_get(state, "mu"), [0.06, 0.08], rtol=1e-5)  # 0.1 * [.6, .8].


class RatesTest(parameterized.TestCase):
  RATES = {"frozen": 0.0, "slow": 0.01, "usual": 1.0}

  def _run(self, *, clip_norm=0.0):
    """(start, gradients, parameters after them), with decay, warm-up and rates."""
    rng = np.random.default_rng(0)
    start = {name: rng.normal(size=5).astype(np.float32) for name in self.RATES}
    grads = [{name: rng.normal(size=5).astype(np.float32) for name in self.RATES} for _ in range(6)]
    optimizer = optimizers.make_optimizer(
      learning_rate=0.1, weight_decay=0.01, warmup_steps=4, clip_norm=clip_norm, rates=lambda _: self.RATES
    )
    params, state = jax.tree.map(jnp.array, start), optimizer.init(start)
    for grad in grads:
      updates, state = optimizer.update(grad, state, params)
      params = optax.apply_updates(params, updates)
    return start, grads, params

  @parameterized.parameters(0.01, 1.0)
  def test_a_parameter_learns_and_decays_at_its_share_of_the_rate(self, rate):
    name = {share: name for name, share in self.RATES.items()}[rate]
    start, grads, end = self._run()
    rates = rate * 0.1 * np.minimum(np.arange(1, 7) / 4, 1)
    expected = _adamw_in_numpy(start[name].astype(float), [grad[name] for grad in grads], rates, decay=0.01)
    np.testing.assert_allclose(end[name] - start[name], expected - start[name], rtol=2e-3)  # Of small differences.

  @parameterized.parameters(0.0, 0.5)
  def test_a_rate_of_0_freezes_bit_for_bit_decay_included(self, clip_norm):
    start, _, end = self._run(clip_norm=clip_norm)
    self.assertEqual(start["frozen"].tobytes(), np.asarray(end["frozen"]).tobytes())
    self.assertTrue(np.all(start["slow"] != end["slow"]))

  def test_rates_of_other_parameters_are_refused(self):
    optimizer = optimizers.make_optimizer(
      learning_rate=0.1, weight_decay=0.0, warmup_steps=0, rates=lambda _: {"kernel": 1.0}
    )
    params = {"kernel": jnp.zeros(1), "bias": jnp.zeros(1)}
    with self.assertRaisesRegex(ValueError, "bias"):
      optimizer.update(params, optimizer.init(params), params)


def _follow(scores, rules):
  progress, history = optimizers.Progress(), []
  for score in scores:
    progress = optimizers.after_epoch(progress, score, rules)
    history.append(progress)
  return history


class ScoreRulesTest(parameterized.TestCase):
  def test_rate_halves_after_three_epochs_without_gain_and_again_after_three_more(self):
    rules = optimizers.ScoreRules(warmup_epochs=0)
    scales = [p.lr_scale for p in _follow([0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.6], rules)]
    self.assertEqual(scales, [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25])

  def test_a_gain_below_min_delta_is_no_gain_for_the_rate_but_moves_the_best(self):
    history = _follow([0.5, 0.50005, 0.50008, 0.50009], optimizers.ScoreRules(warmup_epochs=0))
    self.assertEqual(history[-1].lr_scale, 0.5)
    self.assertEqual(history[-1].best_epoch, 4)

  def test_rate_rests_during_warmup(self):
    scales = [p.lr_scale for p in _follow([0.5] + [0.4] * 7, optimizers.ScoreRules(warmup_epochs=5))]
    self.assertEqual(scales, [1] * 7 + [0.5])  # Epochs 6, 7 and 8 are the three that count.

  def test_stops_ten_epochs_after_the_best(self):
    rules = optimizers.ScoreRules()
    history = _follow([0.1, 0.5] + [0.4] * 10, rules)
    self.assertEqual([p.stalled(rules) for p in history], [False] * 11 + [True])

  def test_undefined_scores_never_become_the_best(self):
    history = _follow([math.nan, 0.1, math.nan], optimizers.ScoreRules())
    self.assertEqual((history[-1].best_score, history[-1].best_epoch), (0.1, 2))


if __name__ == "__main__":
  absltest.main()
