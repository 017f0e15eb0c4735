"""Weights, masks and losses of self-training against NumPy, SciPy and values by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from scipy import ndimage, special

from minec2f_jax import adaptation

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
LABEL = RNG.integers(0, 2, (3, 8, 9)).astype(np.uint8)
VALID = RNG.random(LABEL.shape) < 0.8
GARBAGE = np.where(VALID, LABEL, 255)


class AverageTest(parameterized.TestCase):
  @parameterized.parameters((0, 0.9, 0.0), (1, 0.9, 0.5), (3, 0.9, 0.75), (9, 0.9, 0.9), (500, 0.9, 0.9), (2, 0.1, 0.1))
  def test_decay_rises_from_none_to_its_limit(self, step, decay, expected):
    np.testing.assert_allclose(adaptation.ema_decay(jnp.int32(step), decay=decay), expected, rtol=1e-6)

  def test_at_the_first_step_the_average_is_a_copy_and_later_between_both(self):
    old, new = {"a": jnp.array([np.nan, 4.0])}, {"a": jnp.array([1.0, 0.3])}
    copied = adaptation.moving_average(old, new, adaptation.ema_decay(0, decay=0.9))
    np.testing.assert_array_equal(copied["a"], new["a"])
    np.testing.assert_allclose(adaptation.moving_average(old, new, 0.75)["a"][1], 0.75 * 4 + 0.25 * 0.3, rtol=1e-6)

  def test_no_gradient_passes_an_average(self):
    grad = jax.grad(lambda x: adaptation.moving_average(jnp.zeros(3), x, 0.5).sum())(jnp.ones(3))
    np.testing.assert_array_equal(grad, 0.0)


class PseudoLabelTest(parameterized.TestCase):
  def test_two_classes_of_one_logit_are_its_sigmoid(self):
    z = np.float32([-2.0, 0.5, 30.0])
    label, confidence = adaptation.pseudo_label(adaptation.two_class_logits(z))
    np.testing.assert_array_equal(label, [0, 1, 1])
    p = special.expit(z.astype(np.float64))
    np.testing.assert_allclose(confidence, np.maximum(p, 1 - p), rtol=1e-6)

  def test_it_is_the_argmax_and_its_softmax(self):
    logits = RNG.normal(size=(4, 5, 3)).astype(np.float32)
    label, confidence = adaptation.pseudo_label(logits)
    np.testing.assert_array_equal(label, logits.argmax(-1))
    np.testing.assert_allclose(confidence, special.softmax(logits.astype(np.float64), -1).max(-1), rtol=1e-5)


class ClassWeightsTest(parameterized.TestCase):
  @parameterized.parameters(0.1, 1.0)
  def test_they_are_the_papers_closed_form(self, temperature):
    previous = np.float32([0.6, 1.4])
    weights, new = adaptation.gradual_class_weights(previous, GARBAGE, VALID, temperature=temperature)
    for image in range(3):
      mine = LABEL[image][VALID[image]].mean(dtype=np.float64)
      power = np.exp((1 - np.array([1 - mine, mine]) + 1e-6) / temperature)
      np.testing.assert_allclose(weights[image], 0.9 * previous + 0.1 * 2 * power / power.sum(), rtol=1e-5)
    np.testing.assert_allclose(new, np.mean(weights, axis=0), rtol=1e-6)
    # Weights sum to the number of classes if they did before.
    np.testing.assert_allclose(np.sum(weights, axis=1), 2.0, rtol=1e-5)

  def test_by_hand_a_mine_on_a_tenth_of_the_image_weighs_all_but_everything(self):
    label = np.arange(10).reshape(1, 2, 5) == 0
    weights, _ = adaptation.gradual_class_weights(np.ones(2, np.float32), label, np.ones((1, 2, 5), bool), momentum=0.0)
    np.testing.assert_allclose(weights[0, 1], 2 / (1 + np.exp(-8)), rtol=1e-5)  # exp((0.9 - 0.1) / 0.1)

  def test_an_image_of_which_nothing_counts_weighs_one(self):
    weights, new = adaptation.gradual_class_weights(np.ones(2, np.float32), GARBAGE, np.zeros_like(VALID))
    np.testing.assert_allclose(weights, 1.0, rtol=1e-6)
    np.testing.assert_allclose(new, 1.0, rtol=1e-6)

  def test_each_pixel_has_the_weight_of_its_class_in_its_image(self):
    weights = np.float32([[1, 2], [3, 4], [5, 6]])
    found = adaptation.weight_map(weights, GARBAGE, VALID)
    expected = np.where(LABEL == 1, weights[:, 1, None, None], weights[:, 0, None, None])
    np.testing.assert_array_equal(np.where(VALID, found, 0), np.where(VALID, expected, 0))


class LocalQualityTest(parameterized.TestCase):
  @parameterized.parameters(3, 7)
  def test_it_is_scipys_uniform_filter_with_zeros_outside(self, size):
    confident = RNG.random((2, 12, 15)) < 0.6
    found = jax.jit(functools.partial(adaptation.local_quality, size=size))(confident)
    expected = [ndimage.uniform_filter(image.astype(np.float64), size=size, mode="constant") for image in confident]
    np.testing.assert_allclose(found, expected, atol=1e-6)

  def test_amid_sure_pixels_it_is_exactly_one(self):
    self.assertEqual(float(adaptation.local_quality(jnp.ones((1, 7, 7), bool))[0, 3, 3]), 1.0)


class ClassMixTest(parameterized.TestCase):
  def test_one_of_two_classes_is_cut_out_each_about_half_the_time(self):
    draw = jax.jit(jax.vmap(lambda key: adaptation.class_mask(key, GARBAGE, VALID, classes=2)))
    masks, chosen = draw(jax.random.split(KEY, 100))
    np.testing.assert_array_equal(chosen.sum(-1), 1)
    self.assertBetween(chosen[..., 1].mean(), 0.4, 0.6)
    for image in range(3):
      for mask, which in zip(masks[:, image], chosen[:, image]):
        np.testing.assert_array_equal(mask, VALID[image] & (LABEL[image] == int(which[1])))

  def test_mask_and_rest_make_a_partition_of_what_is_mixed(self):
    mask, _ = adaptation.class_mask(KEY, GARBAGE, VALID, classes=2)
    source, target = {"label": np.ones_like(LABEL)}, {"label": np.zeros_like(LABEL)}
    there, back = (adaptation.paste(m, source, target)["label"] for m in (mask, ~mask))
    np.testing.assert_array_equal(there + back, 1)
    np.testing.assert_array_equal(there, mask)
    image = RNG.normal(size=(*LABEL.shape, 2)).astype(np.float32)
    np.testing.assert_array_equal(adaptation.paste(mask, image, 0 * image), np.where(mask[..., None], image, 0))

  def test_a_batch_of_one_class_is_taken_whole_and_three_classes_give_two(self):
    mask, _ = adaptation.class_mask(KEY, np.zeros_like(LABEL), VALID, classes=2)
    np.testing.assert_array_equal(mask, VALID)
    three = RNG.integers(0, 3, LABEL.shape, np.int32)
    _, chosen = adaptation.class_mask(KEY, three, VALID, classes=3)
    np.testing.assert_array_equal(chosen.sum(-1), 2)

  def test_the_classes_are_those_of_the_batch_so_an_image_may_give_nothing(self):
    label = np.stack([np.zeros((4, 4)), np.ones((4, 4))]).astype(np.int32)
    masks, chosen = jax.vmap(lambda key: adaptation.class_mask(key, label, label >= 0, classes=2))(
      jax.random.split(KEY, 20)
    )
    np.testing.assert_array_equal(masks[:, 0].all((1, 2)), chosen[:, 0, 0])
    np.testing.assert_array_equal(masks[:, 0].any((1, 2)), chosen[:, 0, 0])


class WeightedCrossEntropyTest(parameterized.TestCase):
  LOGITS = RNG.normal(size=(*LABEL.shape, 3)).astype(np.float32)
  WEIGHT = RNG.random(LABEL.shape).astype(np.float32)

  def test_it_is_the_mean_over_valid_pixels_and_nan_beyond_reaches_nothing(self):
    logits = np.where(VALID[..., None], self.LOGITS, np.nan)
    value, grad = jax.jit(jax.value_and_grad(adaptation.weighted_cross_entropy_loss))(
      logits, GARBAGE, np.where(VALID, self.WEIGHT, 0), VALID
    )
    log_probs = special.log_softmax(self.LOGITS.astype(np.float64), -1)
    cost = -np.take_along_axis(log_probs, LABEL[..., None].astype(int), -1)[..., 0] * self.WEIGHT
    np.testing.assert_allclose(value, cost[VALID].sum() / VALID.sum(), rtol=1e-5)
    np.testing.assert_array_equal(grad[~VALID], 0.0)
    self.assertTrue(np.all(np.isfinite(grad)))

  def test_it_is_zero_where_nothing_counts_and_finite_for_certain_logits(self):
    loss = functools.partial(adaptation.weighted_cross_entropy_loss, label=GARBAGE, weight=self.WEIGHT)
    self.assertEqual(float(loss(self.LOGITS, valid=np.zeros_like(VALID))), 0.0)
    value, grad = jax.value_and_grad(loss)(1e4 * self.LOGITS, valid=VALID)
    self.assertTrue(np.isfinite(value) and np.all(np.isfinite(grad)))

  def test_no_gradient_reaches_the_weights(self):
    grad = jax.grad(adaptation.weighted_cross_entropy_loss, argnums=2)(self.LOGITS, LABEL, self.WEIGHT, VALID)
    np.testing.assert_array_equal(grad, 0.0)


class MaximumSquaresTest(parameterized.TestCase):
  LOGITS = (3 * RNG.normal(size=(*LABEL.shape, 3))).astype(np.float32)

  @parameterized.parameters(0.0, 0.2, 1.0)
  def test_it_is_the_published_form_on_the_valid_pixels(self, exponent):
    logits = np.where(VALID[..., None], self.LOGITS, np.nan)
    loss = functools.partial(adaptation.maximum_squares_loss, exponent=exponent)
    value, grad = jax.jit(jax.value_and_grad(loss))(logits, VALID)
    p = special.softmax(self.LOGITS[VALID].astype(np.float64), -1)
    best = p.argmax(-1)
    count = np.bincount(best, minlength=3)
    weight = 1 / np.maximum(count**exponent * len(p) ** (1 - exponent), 1)
    np.testing.assert_allclose(value, -np.sum(p**2 * weight[best][:, None]) / (3 * 3), rtol=1e-5)
    # By hand: d sum(p^2) / dz_k = 2 p_k (p_k - sum(p^2)).
    expected = -weight[best][:, None] * 2 * p * (p - np.sum(p**2, -1, keepdims=True)) / 9
    np.testing.assert_allclose(grad[VALID], expected, rtol=1e-4, atol=1e-8)
    np.testing.assert_array_equal(grad[~VALID], 0.0)

  def test_certain_answers_are_its_minimum_and_undecided_ones_are_pushed_nowhere(self):
    valid = np.ones(LABEL.shape, bool)
    loss = jax.jit(jax.value_and_grad(functools.partial(adaptation.maximum_squares_loss, exponent=0.0)))
    for scale in (1e2, 1e4):
      value, grad = loss(scale * np.eye(3, dtype=np.float32)[LABEL], valid)
      np.testing.assert_allclose(value, -1 / 9, rtol=1e-5)  # Of N = 3 images and 3 classes.
      np.testing.assert_allclose(grad, 0.0, atol=1e-9)
    value, grad = loss(np.zeros((*LABEL.shape, 3), np.float32), valid)
    np.testing.assert_allclose(value, -1 / 27, rtol=1e-5)
    np.testing.assert_allclose(grad, 0.0, atol=1e-9)

  def test_without_a_valid_pixel_it_is_zero(self):
    value, grad = jax.value_and_grad(adaptation.maximum_squares_loss)(self.LOGITS, np.zeros_like(VALID))
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(grad, 0.0)


class ParentDivergenceTest(parameterized.TestCase):
  STUDENT = (3 * RNG.normal(size=(*LABEL.shape, 3))).astype(np.float32)
  TEACHER = (3 * RNG.normal(size=(*LABEL.shape, 2))).astype(np.float32)
  SPLIT = ((0,), (1, 2))

  def test_it_is_scipys_kl_of_sums_over_children(self):
    hide = lambda x: np.where(VALID[..., None], x, np.nan)
    loss = functools.partial(adaptation.parent_divergence_loss, children=self.SPLIT)
    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(hide(self.STUDENT), hide(self.TEACHER), VALID)
    p = special.softmax(self.STUDENT[VALID].astype(np.float64), -1)
    sums = np.stack([p[:, 0], p[:, 1] + p[:, 2]], -1)
    target = special.softmax(self.TEACHER[VALID].astype(np.float64), -1)
    np.testing.assert_allclose(value, special.rel_entr(target, sums).sum(-1).mean(), rtol=1e-5)
    # By hand: each child takes part in its parent's error by its share of it.
    expected = p - p * (target / sums)[:, [0, 1, 1]]
    np.testing.assert_allclose(grads[0][VALID], expected / VALID.sum(), rtol=1e-3, atol=1e-7)
    np.testing.assert_array_equal(grads[0][~VALID], 0.0)
    np.testing.assert_array_equal(grads[1], 0.0)

  def test_children_that_share_their_parents_probability_in_any_way_cost_nothing(self):
    share = special.log_softmax(self.STUDENT[..., 1:], -1)  # Of the second class.
    student = np.concatenate([self.TEACHER[..., :1], self.TEACHER[..., 1:] + share], -1)
    value, grad = jax.value_and_grad(adaptation.parent_divergence_loss)(
      student, self.TEACHER, VALID, children=self.SPLIT
    )
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    np.testing.assert_allclose(grad, 0.0, atol=1e-6)

  def test_certain_networks_that_contradict_each_other_give_a_finite_loss_and_gradient(self):
    teacher = 1e4 * np.sign(self.TEACHER)
    student = np.concatenate([-teacher, -teacher[..., 1:]], -1)
    loss = functools.partial(adaptation.parent_divergence_loss, children=self.SPLIT)
    for valid in (VALID, np.zeros_like(VALID)):
      value, grad = jax.jit(jax.value_and_grad(loss))(student, teacher, valid)
      self.assertTrue(np.isfinite(value) and np.all(np.isfinite(grad)))
      self.assertEqual(bool(value > 0), bool(valid.any()))

  @parameterized.parameters([((0,), (1,))], [((0, 1), (1, 2))], [((0,), (1,), (2,))])
  def test_children_must_be_all_of_the_students_classes_once_and_of_the_teachers_classes(self, *children):
    with self.assertRaises(AssertionError):
      adaptation.parent_divergence_loss(self.STUDENT, self.TEACHER, VALID, children=children)


class ContrastTest(parameterized.TestCase):
  @parameterized.parameters((adaptation.erode, ndimage.grey_erosion), (adaptation.dilate, ndimage.grey_dilation))
  def test_erosion_and_dilation_are_scipys(self, ours, theirs):
    mask = ndimage.uniform_filter(RNG.normal(size=(2, 20, 17)), (1, 3, 3)) > -0.1
    expected = [theirs(image.astype(np.uint8), size=(3, 3)) > 0 for image in mask]
    np.testing.assert_array_equal(jax.jit(ours)(mask), expected)

  def _toy(self):
    """One anchor (the centre of a 3x3 region) among negatives of two kinds, in a 5x5 image."""
    features = np.zeros((1, 5, 5, 3), np.float32)
    features[:] = [0, 2, 0]
    features[0, 0] = [0, 0, 3]
    features[0, 2, 2] = [1, 1, 0]
    mask = np.zeros((1, 5, 5), bool)
    mask[0, 1:4, 1:4] = True
    return features, mask, np.ones_like(mask)

  def test_by_hand_on_vectors_of_three(self):
    # The anchor is its own mean: cosine 1. The rim has 5 negatives (0, 0, 1), cosine 0, and 11 of (0, 1, 0): 1/sqrt 2.
    value = jax.jit(adaptation.contrast_loss)(KEY, *self._toy())
    expected = np.log(np.e + 5 + 11 * np.exp(np.sqrt(0.5))) - 1
    np.testing.assert_allclose(value, expected, rtol=1e-6)

  def test_what_is_not_valid_is_no_negative_and_images_divide(self):
    features, mask, valid = self._toy()
    valid[0, 0] = False
    features[0, 0] = np.nan
    value = adaptation.contrast_loss(KEY, features, mask, valid)
    np.testing.assert_allclose(value, np.log(np.e + 11 * np.exp(np.sqrt(0.5))) - 1, rtol=1e-6)
    nothing = np.zeros_like(mask)
    both = [np.concatenate(pair) for pair in ((features, features), (mask, nothing), (valid, valid))]
    np.testing.assert_allclose(adaptation.contrast_loss(KEY, *both), value / 2, rtol=1e-6)

  def test_of_many_some_are_drawn_each_once(self):
    features, mask, valid = self._toy()
    value = adaptation.contrast_loss(KEY, features, mask, valid, samples=3)
    negatives = [np.log(np.e + n + (3 - n) * np.exp(np.sqrt(0.5))) - 1 for n in range(4)]
    self.assertLess(np.abs(np.array(negatives) - value).min(), 1e-5)

  @parameterized.parameters("no region", "no eroded region", "no rim", "nothing valid")
  def test_without_anchors_or_negatives_it_is_exactly_zero_without_nan(self, case):
    features, mask, valid = self._toy()
    features[0, 2, 2] = 0.0  # As ReLU leaves it: a vector without a direction.
    mask = {"no region": mask & False, "no eroded region": mask & (np.arange(5) < 2), "no rim": mask | True}.get(
      case, mask
    )
    valid = valid & (case != "nothing valid")
    value, grad = jax.jit(jax.value_and_grad(adaptation.contrast_loss, argnums=1))(KEY, features, mask, valid)
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(grad, 0.0)

  def test_its_gradient_is_finite_for_features_without_a_direction(self):
    features, mask, valid = self._toy()
    grad = jax.grad(adaptation.contrast_loss, argnums=1)(KEY, 0 * features, mask, valid)
    self.assertTrue(np.all(np.isfinite(grad)))


if __name__ == "__main__":
  absltest.main()
