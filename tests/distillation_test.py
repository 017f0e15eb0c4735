import decimal
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from scipy import special

from minec2f_jax import distillation

RNG = np.random.default_rng(0)
SHAPE = (3, 5, 4)
STUDENT = (2 * RNG.normal(size=SHAPE)).astype(np.float32)
LABEL = RNG.integers(0, 2, SHAPE).astype(np.uint8)
# A teacher that is good at image 0 and bad at image 1, with exceptions in both.
TEACHER = np.array([1, -2, 1]).reshape(3, 1, 1) * (2.0 * LABEL - 1) + RNG.normal(size=SHAPE)
TEACHER = TEACHER.astype(np.float32)
VALID = RNG.uniform(size=SHAPE) > 0.3
VALID[2] = False
SELECTIONS = ("none", "standard", "image", "pixel", "hybrid")


def value_and_grad(loss, *args, argnums=0):
  return jax.jit(jax.value_and_grad(loss, argnums=argnums))(*args)


def exact_kl(teacher, student, temperature=1):
  """KL of two Bernoulli distributions from their logits, with 200 decimal digits."""
  with decimal.localcontext(prec=200):
    a, b = (decimal.Decimal(float(z)) / temperature for z in (teacher, student))
    p, q = 1 / (1 + (-a).exp()), 1 / (1 + (-b).exp())
    return float(p * (p / q).ln() + (1 - p) * ((1 - p) / (1 - q)).ln())


def numpy_bce(logits):
  logits = logits.astype(np.float64)
  return np.where(LABEL == 1, np.logaddexp(0, -logits), np.logaddexp(0, logits))


class BinaryKlMapTest(parameterized.TestCase):
  @parameterized.parameters(1.0, 2.0, 4.0)
  def test_equals_two_class_relative_entropy(self, temperature):
    p = special.expit(TEACHER.astype(np.float64) / temperature)
    q = special.expit(STUDENT.astype(np.float64) / temperature)
    expected = temperature**2 * (special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q))
    out = jax.jit(functools.partial(distillation.binary_kl_map, temperature=temperature))(STUDENT, TEACHER)
    np.testing.assert_allclose(out, expected, rtol=1e-4)

  def test_hand_value(self):
    # Teacher 1/2, student 3/4 (logit ln 3): ln(2/3)/2 + ln(2)/2 = ln(4/3)/2.
    out = distillation.binary_kl_map(jnp.array([np.log(3.0)]), jnp.zeros(1), temperature=1.0)
    np.testing.assert_allclose(out, [0.5 * np.log(4 / 3)], rtol=1e-6)

  def test_is_right_and_not_negative_where_float32_cancels(self):
    # Agreement to the last digits, saturation on the same side, on opposite sides, and both sides
    # of the switch to the series at 0.12.
    teachers = [-80.0, -50.0, -10.0, -1.0, 0.0, 0.3, 4.0, 15.0, 50.0, 80.0]
    steps = [1e-4, 1e-3, 0.02, 0.1, 0.1199, 0.1201, 0.2, 0.5, 1.0, 3.0, 10.0, 40.0, 120.0]
    steps += [-step for step in steps]
    teacher, step = np.float32(list(itertools.product(teachers, steps))).T
    student = teacher + step
    out = jax.jit(functools.partial(distillation.binary_kl_map, temperature=1.0))(student, teacher)
    expected = [exact_kl(t, s) for t, s in zip(teacher, student)]
    # atol: float32 flushes to 0 below 1e-38.
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-37)
    self.assertGreaterEqual(float(out.min()), 0.0)

  def test_is_symmetric_in_the_two_classes(self):
    np.testing.assert_allclose(
      distillation.binary_kl_map(STUDENT, TEACHER), distillation.binary_kl_map(-STUDENT, -TEACHER), rtol=1e-6
    )

  def test_high_temperature_limit_is_the_squared_logit_difference_over_eight(self):
    out = distillation.binary_kl_map(STUDENT, TEACHER, temperature=1000.0)
    difference = STUDENT.astype(np.float64) - TEACHER
    np.testing.assert_allclose(out, difference**2 / 8, rtol=1e-4)

  def test_gradient_is_the_difference_of_the_softened_probabilities(self):
    grad = jax.grad(lambda s: distillation.binary_kl_map(s, TEACHER, temperature=2.0).sum())(STUDENT)
    expected = 2.0 * (special.expit(STUDENT.astype(np.float64) / 2) - special.expit(TEACHER.astype(np.float64) / 2))
    np.testing.assert_allclose(grad, expected, rtol=1e-3, atol=1e-6)

  @parameterized.parameters(*itertools.product((-1e4, -50.0, 0.0, 50.0, 1e4), (-1e4, -50.0, 0.0, 50.0, 1e4)))
  def test_saturated_logits_give_finite_values_and_gradients(self, student, teacher):
    loss = lambda s, t: distillation.binary_kl_map(s, t).sum()
    value, grads = value_and_grad(loss, jnp.full(2, student), jnp.full(2, teacher), argnums=(0, 1))
    self.assertTrue(np.isfinite(value))
    np.testing.assert_allclose(grads[0], 2 * (special.expit(student / 2) - special.expit(teacher / 2)), atol=1e-6)
    np.testing.assert_array_equal(grads[1], 0.0)

  def test_agreement_is_exactly_zero_with_zero_gradient(self):
    value, grad = value_and_grad(lambda s: distillation.binary_kl_map(s, TEACHER).sum(), TEACHER)
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(grad, 0.0)


class SelectionTest(parameterized.TestCase):
  def test_image_selection_compares_mean_bce_over_valid_pixels(self):
    expected = [
      numpy_bce(TEACHER)[b][VALID[b]].mean() < numpy_bce(STUDENT)[b][VALID[b]].mean() if VALID[b].any() else False
      for b in range(3)
    ]
    logits = [np.where(VALID, z, np.nan) for z in (STUDENT, TEACHER)]
    label = np.where(VALID, LABEL, np.nan)
    out = jax.jit(distillation.image_selection)(*logits, label, VALID)
    np.testing.assert_array_equal(out, expected)
    self.assertEqual(expected, [True, False, False])
    swapped = distillation.image_selection(*reversed(logits), label, VALID)
    np.testing.assert_array_equal(swapped, [False, True, False])

  def test_pixel_selection_compares_bce(self):
    out = jax.jit(distillation.pixel_selection)(STUDENT, TEACHER, LABEL)
    np.testing.assert_array_equal(out, numpy_bce(TEACHER) < numpy_bce(STUDENT))

  def test_pixel_selection_tells_saturated_logits_apart(self):
    # Both losses are 0 in float32; the label is uint8, where 2 y - 1 would wrap.
    student, teacher = np.float32([[[200.0, -200.0]]]), np.float32([[[201.0, -201.0]]])
    out = distillation.pixel_selection(student, teacher, np.uint8([[[1, 0]]]))
    np.testing.assert_array_equal(out, [[[True, True]]])

  @parameterized.parameters(("none", 0), ("standard", 4), ("image", 2), ("pixel", 3), ("hybrid", 2))
  def test_number_of_selected_pixels_by_hand(self, selection, expected):
    # Two images of 1x2, all mine. Image 0: the teacher is better at both pixels. Image 1: it is
    # better at one and far worse at the other, so worse as an image.
    label = np.ones((2, 1, 2), np.uint8)
    student = np.zeros((2, 1, 2), np.float32)
    teacher = np.float32([[[1, 2]], [[1, -9]]])
    mask = distillation.selection_mask(student, teacher, label, selection=selection)
    self.assertEqual(mask.dtype, bool)
    self.assertEqual(int(mask.sum()), expected)

  @parameterized.parameters(*SELECTIONS)
  def test_invalid_pixels_are_never_selected(self, selection):
    mask = distillation.selection_mask(STUDENT, TEACHER, LABEL, VALID, selection=selection)
    self.assertFalse(np.any(mask & ~VALID))

  @parameterized.parameters(*SELECTIONS)
  def test_equal_logits_select_nothing_but_under_standard(self, selection):
    mask = distillation.selection_mask(TEACHER, TEACHER, LABEL, selection=selection)
    self.assertEqual(int(mask.sum()), mask.size if selection == "standard" else 0)

  def test_a_perfect_teacher_is_followed_everywhere(self):
    teacher = np.where(LABEL, 50.0, -50.0).astype(np.float32)
    mask = distillation.selection_mask(STUDENT, teacher, LABEL, selection="hybrid")
    self.assertTrue(np.all(mask))

  def test_an_image_that_is_all_wrong_but_for_some_pixels_stays_out_of_hybrid_only(self):
    wrong = np.where(LABEL, -9.0, 9.0).astype(np.float32)
    wrong[:, 0, 0] *= -1
    student = np.zeros(SHAPE, np.float32)
    hybrid = distillation.selection_mask(student, wrong, LABEL, selection="hybrid")
    pixel = np.array(distillation.selection_mask(student, wrong, LABEL, selection="pixel"))
    self.assertFalse(np.any(hybrid))
    self.assertTrue(pixel[:, 0, 0].all())
    self.assertEqual(pixel.sum(), 3)

  def test_unknown_selection_names_value_and_choices(self):
    with self.assertRaisesRegex(ValueError, "selection='both' is unknown; choose one of none, standard, image, pixel"):
      distillation.selection_mask(STUDENT, TEACHER, LABEL, selection="both")


class DistillationLossTest(parameterized.TestCase):
  def expected(self, selection, normalizer, temperature=2.0):
    """Eq. 9-12 in NumPy, with losses instead of logits compared."""
    p = special.expit(TEACHER.astype(np.float64) / temperature)
    q = special.expit(STUDENT.astype(np.float64) / temperature)
    kl = temperature**2 * (special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q))
    mask = VALID.copy()
    if selection == "none":
      mask[:] = False
    if selection in ("image", "hybrid"):
      for b in range(2):
        mask[b] &= numpy_bce(TEACHER)[b][VALID[b]].mean() < numpy_bce(STUDENT)[b][VALID[b]].mean()
    if selection in ("pixel", "hybrid"):
      mask &= numpy_bce(TEACHER) < numpy_bce(STUDENT)
    count = mask.sum() if normalizer == "selected" else VALID.sum()
    assert selection == "none" or 0 < mask.sum() < VALID.sum() or selection == "standard"
    return (kl * mask).sum() / (count + 1e-6), mask

  @parameterized.product(selection=SELECTIONS, normalizer=("selected", "all"))
  def test_equals_numpy_with_nan_under_the_mask(self, selection, normalizer):
    expected, mask = self.expected(selection, normalizer)
    loss = functools.partial(distillation.distillation_loss, selection=selection, normalizer=normalizer)
    student, teacher, label = [np.where(VALID, x, np.nan) for x in (STUDENT, TEACHER, LABEL)]
    value, (student_grad, teacher_grad) = value_and_grad(loss, student, teacher, label, VALID, argnums=(0, 1))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_array_equal(student_grad != 0, mask)
    np.testing.assert_array_equal(teacher_grad, 0.0)

  def test_no_gradient_flows_through_the_masks(self):
    # On its mask the gradient is that of the mean KL alone: T (sigmoid(b) - sigmoid(a)) / count.
    _, mask = self.expected("hybrid", "selected")
    _, grad = value_and_grad(distillation.distillation_loss, STUDENT, TEACHER, LABEL, VALID)
    difference = special.expit(STUDENT / 2.0) - special.expit(TEACHER / 2.0)
    np.testing.assert_allclose(grad, mask * 2.0 * difference / mask.sum(), rtol=1e-3, atol=1e-7)

  def test_hybrid_pushes_every_selected_pixel_towards_its_label(self):
    _, grad = value_and_grad(distillation.distillation_loss, STUDENT, TEACHER, LABEL, VALID)
    grad, label = np.asarray(grad), LABEL.astype(int)
    self.assertTrue(np.all(grad[grad != 0] * (2 * label - 1)[grad != 0] < 0))

  @parameterized.parameters(*SELECTIONS)
  def test_identical_student_and_teacher_give_zero_and_zero_gradient(self, selection):
    value, grad = value_and_grad(
      functools.partial(distillation.distillation_loss, selection=selection), TEACHER, TEACHER, LABEL, VALID
    )
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(grad, 0.0)

  @parameterized.product(selection=SELECTIONS, normalizer=("selected", "all"))
  def test_nothing_valid_gives_zero_and_zero_gradient(self, selection, normalizer):
    value, grad = value_and_grad(
      functools.partial(distillation.distillation_loss, selection=selection, normalizer=normalizer),
      np.full(SHAPE, np.nan),
      TEACHER,
      np.full(SHAPE, 255),
      np.zeros(SHAPE, bool),
    )
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(grad, 0.0)

  @parameterized.parameters(-50.0, 50.0)
  def test_saturated_logits_give_finite_values_and_gradients(self, logit):
    value, grad = value_and_grad(distillation.distillation_loss, np.full(SHAPE, logit), np.full(SHAPE, -logit), LABEL)
    self.assertTrue(np.isfinite(value))
    self.assertTrue(np.isfinite(grad).all())

  def test_without_mask_equals_all_valid(self):
    np.testing.assert_allclose(
      distillation.distillation_loss(STUDENT, TEACHER, LABEL),
      distillation.distillation_loss(STUDENT, TEACHER, LABEL, np.ones(SHAPE, bool)),
    )

  def test_masking_an_image_equals_dropping_it(self):
    valid = np.ones(SHAPE, bool)
    valid[1] = False
    keep = [0, 2]
    np.testing.assert_allclose(
      distillation.distillation_loss(STUDENT, TEACHER, LABEL, valid),
      distillation.distillation_loss(STUDENT[keep], TEACHER[keep], LABEL[keep]),
      rtol=1e-6,
    )

  @parameterized.parameters(
    ({"selection": "both"}, "selection='both' is unknown"),
    ({"normalizer": "batch"}, "normalizer='batch' is unknown; choose one of selected, all"),
  )
  def test_unknown_options_name_the_value(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      distillation.distillation_loss(STUDENT, TEACHER, LABEL, **options)

  def test_shapes_that_differ_are_refused(self):
    with self.assertRaises(AssertionError):
      distillation.distillation_loss(STUDENT, TEACHER[..., None], LABEL)
