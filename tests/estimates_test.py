"""Counts of work and memory against sums by hand, XLA's own plans and files on the disk."""

import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax import lax

from configs import fine_hybrid
from minec2f_jax import experiment
from minec2f_jax.experiment import estimates
from minec2f_jax.training import checkpoints, optimizers
from minec2f_jax.training.state import init_state
from tests import toy


def _jaxpr(function, *shapes):
  return jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes)).jaxpr


def _convolve(x, kernel, **options):
  return lax.conv_general_dilated(x, kernel, padding="VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


class CountWorkTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("a_matrix_product", lambda a, b: a @ b, [(3, 5), (5, 7)], 2 * 3 * 5 * 7),
    ("products_of_a_batch", lambda a, b: jnp.einsum("bij,bjk->bik", a, b), [(4, 3, 5), (4, 5, 7)], 4 * 2 * 3 * 5 * 7),
    (
      "a_convolution",
      lambda x, k: _convolve(x, k, window_strides=(1, 1)),
      [(2, 8, 8, 3), (3, 3, 3, 5)],
      2 * (2 * 6 * 6 * 5) * 27,
    ),
    (
      "a_convolution_in_two_groups",
      lambda x, k: _convolve(x, k, window_strides=(1, 1), feature_group_count=2),
      [(1, 8, 8, 4), (3, 3, 2, 6)],
      2 * (6 * 6 * 6) * 18,
    ),
    ("a_function_in_it", lambda a: jax.jit(lambda a: a @ a)(a) @ a, [(4, 4)], 2 * 2 * 64),
    ("every_turn_of_a_loop", lambda a: lax.scan(lambda c, _: (c @ a, None), a, length=9)[0], [(4, 4)], 9 * 2 * 64),
    (
      "the_longer_branch",
      lambda a: lax.cond(a[0, 0] > 0, lambda a: a, lambda a: a @ a @ a, a),
      [(4, 4)],
      2 * 2 * 64,
    ),
    ("no_product", lambda a: jnp.exp(a) + 1, [(4, 4)], 0),
  )
  def test_operations_of(self, function, shapes, by_hand):
    self.assertEqual(estimates.count_work(_jaxpr(function, *shapes)).flops, by_hand)

  def test_a_gradient_takes_twice_the_forward_pass(self):
    shapes = [(2, 16, 16, 3), (3, 3, 3, 5)]
    forward = lambda x, k: _convolve(x, k, window_strides=(1, 1))
    gradient = jax.grad(lambda x, k: jnp.sum(forward(x, k) ** 2), argnums=(0, 1))
    ratio = estimates.count_work(_jaxpr(gradient, *shapes)).flops / estimates.count_work(_jaxpr(forward, *shapes)).flops
    self.assertAlmostEqual(ratio, 1 + 1 + (16 / 14) ** 2, places=2)  # The gradient by the input has the borders too.

  def test_traffic_is_what_every_line_reads_and_writes(self):
    self.assertEqual(estimates.count_work(_jaxpr(lambda a: jnp.exp(jnp.sin(a)), (100,))).bytes, 4 * 400)


class PeakBytesTest(absltest.TestCase):
  def test_what_no_later_line_reads_is_let_go(self):
    chain = lambda a: jnp.exp(jnp.sin(jnp.cos(jnp.tan(a))))
    self.assertEqual(estimates.peak_bytes(_jaxpr(chain, (100,))), 800)

  def test_what_a_later_line_reads_is_kept(self):
    def function(a):
      one, two, three = jnp.sin(a), jnp.cos(a), jnp.tan(a)
      return jnp.sum((three * two) * one)

    self.assertEqual(estimates.peak_bytes(_jaxpr(function, (100,))), 1600)  # Three, and the first product.

  def test_a_loop_needs_what_its_body_needs(self):
    body = lambda carry, _: (jnp.sin(carry) * jnp.cos(carry), None)
    once = estimates.peak_bytes(_jaxpr(lambda a: body(a, None)[0], (100,)))
    looped = estimates.peak_bytes(_jaxpr(lambda a: lax.scan(body, a, length=50)[0], (100,)))
    self.assertBetween(looped, once, once + 800)

  def test_the_gradient_of_a_network_takes_about_what_xla_plans_for_it(self):
    def loss(kernels, x):
      for kernel in kernels:
        x = jax.nn.relu(_convolve(x, kernel, window_strides=(1, 1)))
      return jnp.sum(x**2)

    arguments = [jnp.zeros((3, 3, 8, 8))] * 4, jnp.zeros((2, 48, 48, 8))
    traced = jax.jit(jax.grad(loss)).trace(*arguments)
    planned = traced.lower().compile().memory_analysis().temp_size_in_bytes
    self.assertBetween(
      estimates.peak_bytes(traced.jaxpr.jaxpr) / planned, 0.5, 2.0
    )  # Networks as in configs: 1.0 to 1.3.


class StageCostsTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.config = toy.shrink(fine_hybrid.get_config(), epochs=3)
    cls.costs = estimates.stage_costs(cls.config, {("coarse", "train"): 11, ("coarse", "validation"): 6})

  def test_steps_and_epochs_are_the_trainers(self):
    coarse = self.costs["coarse"]
    self.assertEqual((coarse.epochs, coarse.steps_per_epoch), (3, 5))
    self.assertEqual(coarse.validation.flops, coarse.step.flops)  # Six images at a third, in batches of two.

  def test_a_split_of_unknown_size_counts_as_one_batch(self):
    self.assertEqual(self.costs["fine"].steps_per_epoch, 1)

  def test_the_state_is_parameters_two_moments_and_statistics(self):
    method = experiment.wire(self.config)["coarse"].method
    variables = jax.eval_shape(method.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 6), np.float32), None)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    expected = 4 * (3 * count(variables.trainable) + count(variables.extra))
    self.assertBetween(self.costs["coarse"].state_bytes, expected, expected + 64)  # And a few counters.
    self.assertEqual(self.costs["coarse"].frozen_bytes, 0)
    self.assertEqual(self.costs["fine"].frozen_bytes, 4 * (count(variables.trainable) + count(variables.extra)))

  def test_checkpoints_on_the_disk_take_what_was_said(self):
    optimizer = optimizers.make_optimizer(learning_rate=1e-3, weight_decay=0.0, warmup_steps=1)
    method = experiment.wire(self.config)["coarse"].method
    shapes = jax.eval_shape(method.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 6), np.float32), None)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    with tempfile.TemporaryDirectory() as folder:
      saver = checkpoints.Checkpoints(folder)
      for epoch in range(1, 6):  # The best comes first, and stays.
        state = init_state(variables, optimizer)._replace(step=jnp.int32(epoch))
        saver.save(state, optimizers.Progress(epoch=epoch), 1.0 / epoch)
      saver.close()
      numbers = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
      kept = len(list((saver.folder / "checkpoints").iterdir()))
    self.assertEqual(kept, estimates.COPIES - 1)
    self.assertBetween(self.costs["coarse"].disk_bytes / (estimates.COPIES * numbers), 0.99, 1.01)

  def test_a_teacher_of_another_run_costs_no_stage_but_its_place_in_memory(self):
    config = toy.shrink(fine_hybrid.get_config(), epochs=3)
    config.teacher = "elsewhere"
    costs = estimates.stage_costs(config, {})
    self.assertEqual(list(costs), ["fine"])
    self.assertEqual(costs["fine"].frozen_bytes, self.costs["fine"].frozen_bytes)

  def test_time_is_operations_and_traffic_over_the_rates_that_are_reached(self):
    seconds = estimates.seconds(estimates.Work(70.0, 14.0), estimates.Work(100.0, 10.0))
    self.assertAlmostEqual(seconds, (0.7 + 1.4) / 0.7)
    self.assertAlmostEqual(
      estimates.seconds(estimates.Work(70.0, 14.0), estimates.Work(100.0, 10.0), devices=2), seconds / 2
    )

  def test_the_rates_of_this_machine_are_measured_within_reason(self):
    speed = estimates.measure_speed("float32")
    self.assertBetween(speed.flops, 1e8, 1e15)
    self.assertBetween(speed.bytes, 1e8, 1e13)


if __name__ == "__main__":
  absltest.main()
