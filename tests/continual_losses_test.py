"""The losses of LwF and LwM against SciPy, NumPy and values by hand."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import strategies as st
from scipy import special

from minec2f_jax import distillation

RNG = np.random.default_rng(0)
SHAPE = (3, 5, 4)
STUDENT, TEACHER = (3 * RNG.normal(size=SHAPE).astype(np.float32) for _ in range(2))
VALID = RNG.uniform(size=SHAPE) > 0.3
VALID[2] = False
NAN = np.float32(np.nan)
MAPS = [np.maximum(logits, 0) for logits in (STUDENT, TEACHER)]


def value_and_grads(loss, *args, **kwargs):
  return jax.jit(jax.value_and_grad(functools.partial(loss, **kwargs), argnums=(0, 1)))(*args)


def scipys_kl(student, teacher, temperature):
  """Mean KL of two-class softmaxes over logits (0, z) / T, in float64."""
  q, p = (
    special.softmax(np.stack([np.zeros(z.shape), z.astype(np.float64)], -1) / temperature, -1)
    for z in (student, teacher)
  )
  return special.rel_entr(p, q).sum() / student.size


class SoftTargetLossTest(parameterized.TestCase):
  @parameterized.parameters(1.0, 2.0, 5.0)
  def test_is_scipys_kl_of_softened_two_class_probabilities(self, temperature):
    (value, _) = value_and_grads(distillation.soft_target_loss, STUDENT, TEACHER, temperature=temperature)
    np.testing.assert_allclose(value, scipys_kl(STUDENT, TEACHER, temperature), rtol=1e-5)

  def test_is_the_papers_cross_entropy_less_the_teachers_entropy(self):
    soften = lambda z: 1 / (1 + np.exp(-z.astype(np.float64) / 2))
    p, q = soften(TEACHER), soften(STUDENT)
    # The paper raises probabilities to 1 / T and divides by their sum.
    raised = [share**0.5 for share in (1 / (1 + np.exp(-TEACHER.astype(np.float64))),)]
    other = (1 - 1 / (1 + np.exp(-TEACHER.astype(np.float64)))) ** 0.5
    np.testing.assert_allclose(raised[0] / (raised[0] + other), p, rtol=1e-12)
    entropy = lambda share: -np.mean(p * np.log(share) + (1 - p) * np.log(1 - share))
    value = distillation.soft_target_loss(STUDENT, TEACHER, temperature=2.0)
    np.testing.assert_allclose(value, entropy(q) - entropy(p), rtol=1e-5)

  def test_hintons_factor_is_the_temperature_squared(self):
    plain, scaled = (
      distillation.soft_target_loss(STUDENT, TEACHER, temperature=3.0, temperature_squared=flag)
      for flag in (False, True)
    )
    np.testing.assert_allclose(scaled, 9 * plain, rtol=1e-6)

  def test_a_student_that_answers_as_the_teacher_costs_nothing(self):
    value, (grad, _) = value_and_grads(distillation.soft_target_loss, TEACHER, TEACHER)
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(grad, 0.0)

  def test_nan_under_the_mask_reaches_neither_value_nor_gradient(self):
    student, teacher = (np.where(VALID, z, NAN) for z in (STUDENT, TEACHER))
    value, (grad, of_teacher) = value_and_grads(distillation.soft_target_loss, student, teacher, valid=VALID)
    np.testing.assert_allclose(value, scipys_kl(STUDENT[VALID], TEACHER[VALID], 2.0), rtol=1e-5)
    np.testing.assert_array_equal(grad[~VALID], 0.0)
    self.assertTrue(np.all(np.asarray(grad)[VALID] != 0))
    np.testing.assert_array_equal(of_teacher, 0.0)

  def test_without_a_valid_pixel_it_is_zero(self):
    value, (grad, _) = value_and_grads(distillation.soft_target_loss, STUDENT, TEACHER, valid=np.zeros(SHAPE, bool))
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(grad, 0.0)

  def test_saturated_answers_stay_finite(self):
    student, teacher = np.float32([[[50, -50, 1e4]]]), np.float32([[[-50, 50, -1e4]]])
    value, (grad, _) = value_and_grads(distillation.soft_target_loss, student, teacher)
    np.testing.assert_allclose(value, (25 + 25 + 5000) / 3, rtol=1e-6)  # d / T of sure and opposite answers.
    np.testing.assert_allclose(grad, [[[1 / 6, -1 / 6, 1 / 6]]], rtol=1e-5)


class ClassActivationMapTest(parameterized.TestCase):
  def test_weights_of_a_linear_head_are_its_kernel_over_the_number_of_positions(self):
    features, kernel = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32), np.arange(1.0, 6.0, dtype=np.float32)
    region = RNG.uniform(size=(2, 3, 4)) > 0.5
    score = lambda x: jnp.sum(jnp.where(region, x @ kernel, 0.0), (1, 2)) / region.sum(axis=(1, 2))
    weights = jax.jit(functools.partial(distillation.channel_weights, score))(features)
    np.testing.assert_allclose(weights, np.broadcast_to(kernel / 12, (2, 5)), rtol=1e-5)

  def test_weights_of_a_quadratic_head_are_those_of_each_image_by_itself(self):
    features = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    weights = distillation.channel_weights(lambda x: jnp.mean(x**2, (1, 2, 3)), features)
    np.testing.assert_allclose(weights, 2 * features.mean(axis=(1, 2)) / 60, rtol=1e-5)

  def test_the_map_is_the_positive_part_of_the_weighted_sum_of_channels(self):
    features = np.float32([[[[1, 2], [3, -1]]]])
    out = distillation.class_activation_map(features, np.float32([[2, -1.5]]))
    np.testing.assert_allclose(out, [[[0.0, 7.5]]])
    self.assertEqual(distillation.class_activation_map(jnp.bfloat16(features), np.ones((1, 2))).dtype, jnp.float32)


class AttentionLossTest(parameterized.TestCase):
  def test_hand_value(self):
    # (3, 4) and (4, 3) have length 5: |0.6 - 0.8| + |0.8 - 0.6|.
    value = distillation.attention_loss(np.float32([[[3, 4]]]), np.float32([[[4, 3]]]))
    np.testing.assert_allclose(value, 0.4, rtol=1e-6)

  def test_is_numpys_distance_of_unit_vectors_over_the_valid_positions_of_images_that_have_some(self):
    student, teacher = (np.where(VALID, one, NAN) for one in MAPS)
    value, (grad, of_teacher) = value_and_grads(distillation.attention_loss, student, teacher, valid=VALID)
    vectors = [[one[i][VALID[i]].astype(np.float64) for i in range(2)] for one in MAPS]  # The third image has none.
    unit = [[v / np.linalg.norm(v) for v in images] for images in vectors]
    np.testing.assert_allclose(value, np.mean([np.abs(s - t).sum() for s, t in zip(*unit)]), rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(grad)[~VALID], 0.0)
    self.assertGreater(np.abs(grad).max(), 0.01)
    np.testing.assert_array_equal(of_teacher, 0.0)

  def test_gradient_is_that_of_central_differences(self):
    unit = lambda one: one.reshape(3, -1) / np.linalg.norm(one.reshape(3, -1), axis=1, keepdims=True)
    student, teacher = (one.astype(np.float64) for one in MAPS)
    distance = lambda one: np.abs(unit(one) - unit(teacher)).sum(axis=1).mean()
    steps = 1e-6 * np.eye(student.size).reshape(-1, *SHAPE)
    expected = [(distance(student + step) - distance(student - step)) / 2e-6 for step in steps]
    _, (grad, _) = value_and_grads(distillation.attention_loss, *MAPS)
    np.testing.assert_allclose(np.ravel(grad), expected, rtol=1e-4, atol=1e-6)

  @hypothesis.given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
  @hypothesis.settings(max_examples=20, deadline=None)
  def test_the_scale_of_a_map_does_not_matter(self, one, other):
    value = distillation.attention_loss(np.float32(one) * MAPS[0], np.float32(other) * MAPS[1])
    np.testing.assert_allclose(value, distillation.attention_loss(*MAPS), rtol=1e-4)

  def test_maps_that_agree_cost_nothing(self):
    value, (grad, _) = value_and_grads(distillation.attention_loss, MAPS[1], MAPS[1])
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(grad, 0.0)

  @parameterized.parameters((0.0, 0.0, 0.0), (0.0, 1.0, 2.0), (1.0, 0.0, 2.0))
  def test_maps_that_are_zero_everywhere_stay_finite(self, student, teacher, expected):
    maps = (np.full((1, 2, 2), value, np.float32) for value in (student, teacher))
    value, (grad, _) = value_and_grads(distillation.attention_loss, *maps)  # Length 1 of four positions: 1/2 each.
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    self.assertTrue(np.all(np.isfinite(grad)))

  def test_maps_without_a_common_position_are_as_far_apart_as_any(self):
    maps = np.zeros((2, 1, 4, 4), np.float32)
    maps[0, :, :2], maps[1, :, 2:] = 7, 1e-3
    np.testing.assert_allclose(distillation.attention_loss(*maps), 2 * np.sqrt(8), rtol=1e-6)

  def test_without_a_valid_position_it_is_zero(self):
    value, (grad, _) = value_and_grads(distillation.attention_loss, *MAPS, valid=np.zeros(SHAPE, bool))
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(grad, 0.0)


if __name__ == "__main__":
  absltest.main()
