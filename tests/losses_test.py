import functools
import itertools
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from scipy import ndimage, special
from skimage import metrics as skimage_metrics

from minec2f_jax import losses

RNG = np.random.default_rng(0)
SHAPE = (2, 16, 18)
LOGITS = (2.0 * RNG.normal(size=SHAPE)).astype(np.float32)
LABEL = (ndimage.gaussian_filter(RNG.normal(size=SHAPE), (0, 2, 2)) > 0).astype(np.uint8)
VALID = np.ones(SHAPE, bool)
VALID[0, :3] = VALID[1, :, 15:] = VALID[1, 15, 0] = False
PROBS = special.expit(LOGITS.astype(np.float64))

LOSSES = {
  "bce": losses.bce_loss,
  "dice_batch": losses.dice_loss,
  "dice_image": functools.partial(losses.dice_loss, reduce="image"),
  "generalized_dice_batch": losses.generalized_dice_loss,
  "generalized_dice_image": functools.partial(losses.generalized_dice_loss, reduce="image"),
  "ssim": losses.ssim_loss,
  "ssl": losses.structural_similarity_weighted_bce_loss,
  "boundary": losses.boundary_loss,
  "boundary_offset": functools.partial(losses.boundary_loss, offset=1.0, normalize=True),
  "total": lambda *args: losses.segmentation_loss(*args)[0],
}


# Compiled once a loss: labels are float32 wherever these are called.
COMPILED = {name: jax.jit(jax.value_and_grad(loss)) for name, loss in LOSSES.items()}
FLOAT_LABEL = LABEL.astype(np.float32)
EVERYWHERE = np.ones(SHAPE, bool)


def value_and_grad(loss, *args):
  return jax.jit(jax.value_and_grad(loss))(*args)


def numpy_bce(logits, label):
  logits = logits.astype(np.float64)
  return np.where(label > 0.5, np.logaddexp(0, -logits), np.logaddexp(0, logits))


def edge(height=16, width=16, column=8):
  """A mask that is 1 from `column` on."""
  label = np.zeros((1, height, width), np.uint8)
  label[:, :, column:] = 1
  return label


class EveryLossTest(parameterized.TestCase):
  @parameterized.named_parameters(COMPILED.items())
  def test_what_lies_under_the_mask_reaches_neither_value_nor_gradient(self, loss):
    nan = np.float32(np.nan)
    value, grad = loss(np.where(VALID, LOGITS, nan), np.where(VALID, FLOAT_LABEL, nan), VALID)
    expected, _ = loss(np.where(VALID, LOGITS, 7), np.where(VALID, FLOAT_LABEL, np.float32(1)), VALID)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    self.assertTrue(np.isfinite(grad).all())
    np.testing.assert_array_equal(grad[~VALID], 0.0)
    self.assertGreater(np.abs(grad[VALID]).max(), 0.0)

  @parameterized.named_parameters(COMPILED.items())
  def test_nothing_valid_gives_zero_and_zero_gradient(self, loss):
    value, grad = loss(np.full(SHAPE, np.nan, np.float32), np.full(SHAPE, 255, np.float32), ~EVERYWHERE)
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(grad, 0.0)

  @parameterized.named_parameters((n, n) for n in LOSSES)
  def test_everything_valid_is_the_same_as_no_mask(self, name):
    value, _ = COMPILED[name](LOGITS, FLOAT_LABEL, EVERYWHERE)
    np.testing.assert_allclose(value, jax.jit(LOSSES[name])(LOGITS, FLOAT_LABEL, None), rtol=1e-6)

  @parameterized.named_parameters(COMPILED.items())
  def test_saturated_logits_give_finite_values_and_gradients(self, loss):
    labels = (FLOAT_LABEL, np.zeros_like(FLOAT_LABEL), np.ones_like(FLOAT_LABEL))
    for logit, label in itertools.product((-50.0, 50.0), labels):
      value, grad = loss(np.full(SHAPE, logit, np.float32), label, EVERYWHERE)
      self.assertTrue(np.isfinite(value))
      self.assertTrue(np.isfinite(grad).all())

  @parameterized.named_parameters((n, f) for n, f in COMPILED.items() if n != "ssl")
  def test_gradient_equals_finite_differences(self, loss):
    # ssl's weights are constants for the gradient, so there the two differ by intention.
    direction = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    step = np.float32(0.02)
    _, grad = loss(LOGITS, FLOAT_LABEL, VALID)
    ahead, behind = [float(loss(LOGITS + s * direction, FLOAT_LABEL, VALID)[0]) for s in (step, -step)]
    np.testing.assert_allclose(np.vdot(grad, direction), (ahead - behind) / (2 * step), rtol=5e-3, atol=2e-5)

  @parameterized.named_parameters(COMPILED.items())
  def test_a_perfect_prediction_costs_nothing(self, loss):
    value, _ = loss(100 * FLOAT_LABEL - 50, FLOAT_LABEL, EVERYWHERE)
    np.testing.assert_allclose(value, 0.0, atol=1e-6)

  @parameterized.named_parameters((n, n) for n in LOSSES)
  def test_bfloat16_logits_are_reduced_in_float32(self, name):
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    value = jax.jit(LOSSES[name])(logits, LABEL, VALID)
    self.assertEqual(value.dtype, jnp.float32)
    expected, _ = COMPILED[name](logits.astype(jnp.float32), FLOAT_LABEL, VALID)
    np.testing.assert_allclose(value, expected, rtol=1e-6)

  @parameterized.named_parameters(LOSSES.items())
  def test_shapes_that_differ_are_refused(self, loss):
    with self.assertRaises(AssertionError):
      loss(LOGITS[..., None], LABEL, VALID)
    with self.assertRaises(AssertionError):
      loss(LOGITS, LABEL, VALID[:1])


class BceTest(parameterized.TestCase):
  @parameterized.parameters(
    (0.0, 0, math.log(2)),
    (0.0, 1, math.log(2)),
    (50.0, 0, 50.0),
    (-50.0, 1, 50.0),
    (50.0, 1, math.exp(-50)),
    (-20.0, 0, math.exp(-20)),
  )
  def test_hand_values(self, logit, label, expected):
    # At 50 the probability form would return ln(0) or a clipped 16.1.
    out = jax.jit(losses.bce_map)(jnp.full((1,), logit), jnp.full((1,), label, jnp.uint8))
    np.testing.assert_allclose(out, [expected], rtol=1e-6)

  def test_masked_mean_equals_numpy_on_the_subset(self):
    value, grad = value_and_grad(losses.bce_loss, LOGITS, LABEL, VALID)
    np.testing.assert_allclose(value, numpy_bce(LOGITS, LABEL)[VALID].mean(), rtol=1e-6)
    np.testing.assert_allclose(grad[VALID], (PROBS - LABEL)[VALID] / VALID.sum(), rtol=1e-4, atol=1e-9)


class DiceTest(parameterized.TestCase):
  def test_half_probability_on_a_half_mask_by_hand(self):
    # 256 pixels, 128 in the mask: overlap 64, sums 128 + 128.
    value = losses.dice_loss(np.zeros((1, 16, 16), np.float32), edge(), smooth=1.0)
    np.testing.assert_allclose(value, 1 - 129 / 257, rtol=1e-6)

  def test_missing_every_mine_by_hand(self):
    value = losses.dice_loss(np.full((1, 16, 16), -50, np.float32), edge(), smooth=1.0)
    np.testing.assert_allclose(value, 1 - 1 / 129, rtol=1e-6)

  @parameterized.parameters("batch", "image")
  def test_equals_numpy_on_the_valid_pixels(self, reduce):
    images = [np.s_[:]] if reduce == "batch" else [0, 1]
    expected = []
    for i in images:
      p, y = PROBS[i][VALID[i]], LABEL[i][VALID[i]]
      expected.append(1 - 2 * (p * y).sum() / (p.sum() + y.sum()))
    value, _ = value_and_grad(functools.partial(losses.dice_loss, reduce=reduce), LOGITS, LABEL, VALID)
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-5)

  @parameterized.parameters("batch", "image")
  def test_generalized_equals_numpy_on_the_valid_pixels(self, reduce):
    images = [np.s_[:]] if reduce == "batch" else [0, 1]
    expected = []
    for i in images:
      p, y = PROBS[i][VALID[i]], LABEL[i][VALID[i]].astype(np.float64)
      classes = [(y, p), (1 - y, 1 - p)]
      weights = [1 / r.sum() ** 2 for r, _ in classes]
      overlap = sum(w * (r * q).sum() for w, (r, q) in zip(weights, classes))
      total = sum(w * (r + q).sum() for w, (r, q) in zip(weights, classes))
      expected.append(1 - 2 * overlap / total)
    value, _ = value_and_grad(functools.partial(losses.generalized_dice_loss, reduce=reduce), LOGITS, LABEL, VALID)
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-5)

  def test_generalized_without_a_mine_is_the_background_dice(self):
    # p = 1/2 everywhere, n background pixels: 1 - 2 (n / 2) / (n + n / 2) = 1/3, and it learns.
    value, grad = value_and_grad(
      losses.generalized_dice_loss, np.zeros((1, 16, 16), np.float32), np.zeros((1, 16, 16), np.uint8)
    )
    np.testing.assert_allclose(value, 1 / 3, rtol=1e-6)
    self.assertGreater(float(grad.min()), 0.0)

  @parameterized.parameters(losses.dice_loss, losses.generalized_dice_loss)
  def test_image_mean_leaves_out_an_image_without_valid_pixels(self, loss):
    valid = np.stack([VALID[0], np.zeros_like(VALID[0])])
    np.testing.assert_allclose(
      loss(LOGITS, LABEL, valid, reduce="image"), loss(LOGITS[:1], LABEL[:1], VALID[:1]), rtol=1e-6
    )

  @parameterized.parameters(losses.dice_loss, losses.generalized_dice_loss)
  def test_unknown_reduction_names_the_choices(self, loss):
    with self.assertRaisesRegex(ValueError, "reduce='sum' is unknown; choose one of batch, image"):
      loss(LOGITS, LABEL, reduce="sum")


class SsimTest(parameterized.TestCase):
  def skimage_maps(self):
    maps = [
      skimage_metrics.structural_similarity(
        y.astype(np.float64),
        p,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
        win_size=11,
        full=True,
      )[1]
      for y, p in zip(LABEL, PROBS)
    ]
    return np.stack(maps)[:, 5:-5, 5:-5]

  def test_map_and_loss_equal_skimage(self):
    expected = self.skimage_maps()
    np.testing.assert_allclose(jax.jit(losses.ssim_map)(LOGITS, LABEL), expected, atol=2e-6)
    np.testing.assert_allclose(losses.ssim_loss(LOGITS, LABEL), 1 - expected.mean(), rtol=1e-5)

  def test_windows_that_touch_an_invalid_pixel_do_not_count(self):
    whole = ndimage.minimum_filter(VALID, size=(1, 11, 11), mode="constant", cval=0)
    whole = whole[:, 5:-5, 5:-5]
    self.assertBetween(whole.sum(), 1, whole.size - 1)
    np.testing.assert_allclose(losses.ssim_loss(LOGITS, LABEL, VALID), 1 - self.skimage_maps()[whole].mean(), rtol=1e-5)

  def test_masking_all_but_a_block_equals_cropping_to_it(self):
    valid = np.zeros(SHAPE, bool)
    valid[:, 2:15, 3:17] = True
    np.testing.assert_allclose(
      losses.ssim_loss(LOGITS, LABEL, valid), losses.ssim_loss(LOGITS[:, 2:15, 3:17], LABEL[:, 2:15, 3:17]), rtol=1e-6
    )

  @parameterized.parameters(
    (losses.ssim_loss, (10, 18), "10x18 pixels is smaller than the 11x11 window"),
    (losses.structural_similarity_weighted_bce_loss, (8, 2), "8x2 pixels is smaller than"),
    (losses.segmentation_loss, (4, 4), "weight 0"),
  )
  def test_too_small_an_image_names_size_and_remedy(self, loss, size, message):
    with self.assertRaisesRegex(ValueError, message):
      loss(np.zeros((1, *size), np.float32), np.zeros((1, *size), np.uint8))


class StructuralSimilarityWeightedBceTest(parameterized.TestCase):
  def expected(self, bce_weight=0.5, window_size=3, threshold=0.1):
    offsets = np.arange(window_size) - window_size // 2
    kernel = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))[None]
    smooth = functools.partial(ndimage.correlate, weights=kernel / kernel.sum())

    def standardise(x):
      mean = smooth(x)
      return (x - mean + 0.01) / (np.sqrt(np.maximum(smooth(x**2) - mean**2, 0)) + 0.01)

    error = np.abs(standardise(LABEL.astype(np.float64)) - standardise(PROBS))
    whole = ndimage.minimum_filter(VALID, size=(1, window_size, window_size), mode="constant", cval=0)
    error[~whole] = 0
    hard = error > threshold * error.max(axis=(1, 2), keepdims=True)
    bce = numpy_bce(LOGITS, LABEL)
    ssl = (error * bce)[hard].sum() / hard.sum()
    return bce_weight * bce[VALID].mean() + (1 - bce_weight) * ssl

  @parameterized.parameters({}, {"bce_weight": 0.0}, {"window_size": 5}, {"threshold": 0.4})
  def test_equals_numpy(self, **options):
    # rtol: the deviation of a flat window is the root of a difference of float32 squares.
    np.testing.assert_allclose(
      losses.structural_similarity_weighted_bce_loss(LOGITS, LABEL, VALID, **options),
      self.expected(**options),
      rtol=1e-4,
    )

  def test_weights_are_constants_for_the_gradient(self):
    # With constant weights w >= 0 the gradient is w (p - y) / n: it never points away from y.
    _, grad = value_and_grad(losses.structural_similarity_weighted_bce_loss, LOGITS, LABEL, VALID)
    self.assertTrue(np.all(np.sign(grad[VALID]) == np.sign(PROBS - LABEL)[VALID]))

  def test_bce_alone_at_weight_one(self):
    np.testing.assert_allclose(
      losses.structural_similarity_weighted_bce_loss(LOGITS, LABEL, VALID, bce_weight=1.0),
      numpy_bce(LOGITS, LABEL)[VALID].mean(),
      rtol=1e-6,
    )


class BoundaryTest(parameterized.TestCase):
  def test_straight_edge_by_hand(self):
    expected = np.zeros((1, 16, 16))
    expected[:, :, 7:9] = 4.0
    np.testing.assert_array_equal(jax.jit(losses.boundary_map)(edge()), expected)

  def test_map_equals_scipy(self):
    label = LABEL.astype(np.float64)
    expected = [np.hypot(ndimage.sobel(y, 0, mode="mirror"), ndimage.sobel(y, 1, mode="mirror")) for y in label]
    np.testing.assert_allclose(losses.boundary_map(LABEL), expected, rtol=1e-6)

  def test_normaliser_is_the_largest_weight_of_any_binary_mask(self):
    masks = np.array(list(itertools.product((0, 1), repeat=9)), np.uint8).reshape(-1, 3, 3)
    weights = np.asarray(losses.boundary_map(masks, normalize=True))[:, 1, 1]
    np.testing.assert_allclose(weights.max(), 1.0, rtol=1e-6)

  def test_the_border_of_the_valid_area_is_no_edge(self):
    label, valid = np.ones((1, 16, 16), np.uint8), np.ones((1, 16, 16), bool)
    valid[:, 4:6, 4:6] = False
    label[~valid] = 255
    np.testing.assert_array_equal(losses.boundary_map(label, valid), 0.0)

  def test_only_pixels_away_from_invalid_ones_keep_their_weight(self):
    valid = np.ones((1, 16, 16), bool)
    valid[:, :8] = False
    expected = np.zeros((1, 16, 16))
    expected[:, 9:, 7:9] = 4.0
    np.testing.assert_array_equal(losses.boundary_map(edge(), valid), expected)

  @parameterized.parameters((0.0, False), (1.0, False), (0.5, True))
  def test_loss_equals_numpy(self, offset, normalize):
    label = LABEL.astype(np.float64)
    weight = np.stack([np.hypot(ndimage.sobel(y, 0, mode="mirror"), ndimage.sobel(y, 1, mode="mirror")) for y in label])
    weight *= ndimage.minimum_filter(VALID, size=(1, 3, 3), mode="mirror")
    weight = offset + weight / (math.sqrt(20) if normalize else 1)
    loss = functools.partial(losses.boundary_loss, offset=offset, normalize=normalize)
    value, _ = value_and_grad(loss, LOGITS, LABEL, VALID)
    np.testing.assert_allclose(value, (weight * numpy_bce(LOGITS, LABEL))[VALID].mean(), rtol=1e-5)

  @parameterized.parameters(0, 1)
  def test_constant_label_has_no_boundary(self, label):
    value, grad = value_and_grad(losses.boundary_loss, LOGITS, np.full(SHAPE, label, np.uint8), VALID)
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(grad, 0.0)


class SegmentationLossTest(parameterized.TestCase):
  def test_is_the_weighted_sum_of_its_parts(self):
    total, parts = jax.jit(functools.partial(losses.segmentation_loss, bce=1.0, dice=2.0, ssim=3.0, boundary=0.5))(
      LOGITS, LABEL, VALID
    )
    expected = {
      "bce": losses.bce_loss(LOGITS, LABEL, VALID),
      "dice": losses.dice_loss(LOGITS, LABEL, VALID),
      "ssim": losses.ssim_loss(LOGITS, LABEL, VALID),
      "boundary": losses.boundary_loss(LOGITS, LABEL, VALID),
    }
    self.assertEqual(set(parts), set(expected))
    for name in expected:
      np.testing.assert_allclose(parts[name], expected[name], rtol=1e-6)
    weights = {"bce": 1.0, "dice": 2.0, "ssim": 3.0, "boundary": 0.5}
    np.testing.assert_allclose(total, sum(weights[n] * float(v) for n, v in expected.items()), rtol=1e-6)

  def test_a_part_of_weight_zero_is_not_computed(self):
    logits, label = LOGITS[:, :8, :8], LABEL[:, :8, :8]  # Too small for SSIM: it would raise.
    total, parts = losses.segmentation_loss(logits, label, ssim=0.0, dice=0.0, boundary=0.0)
    self.assertEqual(set(parts), {"bce"})
    np.testing.assert_allclose(total, losses.bce_loss(logits, label), rtol=1e-6)

  def test_all_weights_zero_is_a_zero_that_can_be_differentiated(self):
    loss = lambda z: losses.segmentation_loss(z, LABEL, bce=0, dice=0, ssim=0, boundary=0)[0]
    value, grad = value_and_grad(loss, LOGITS)
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(grad, 0.0)

  def test_kinds_choose_the_function(self):
    _, parts = losses.segmentation_loss(
      LOGITS, LABEL, VALID, dice_kind="generalized", dice_reduce="image", ssim_kind="ssl"
    )
    np.testing.assert_allclose(parts["dice"], losses.generalized_dice_loss(LOGITS, LABEL, VALID, reduce="image"))
    np.testing.assert_allclose(parts["ssim"], losses.structural_similarity_weighted_bce_loss(LOGITS, LABEL, VALID))

  @parameterized.parameters(
    ({"dice_kind": "hard"}, "dice_kind='hard' is unknown; choose one of soft, generalized"),
    ({"ssim_kind": "ms"}, "ssim_kind='ms' is unknown; choose one of ssim, ssl"),
  )
  def test_unknown_kinds_name_the_choices(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      losses.segmentation_loss(LOGITS, LABEL, **options)


class ImportTest(parameterized.TestCase):
  def test_the_pure_modules_load_nothing_but_jax_optax_and_chex(self):
    script = """
import sys
import chex, jax, jax.numpy, numpy, optax
before = {name.split(".")[0] for name in sys.modules}
import minec2f_jax.losses, minec2f_jax.distillation, minec2f_jax.metrics, minec2f_jax.ops
print(*sorted({name.split(".")[0] for name in sys.modules} - before))
print(*sorted({"tensorflow", "tensorflow_datasets", "rasterio", "orbax", "grain", "flax"}
              & set(sys.modules)))
print(len(jax._src.xla_bridge._backends))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    # The third line: importing started no device backend.
    self.assertEqual(run.stdout.split("\n")[:3], ["minec2f_jax", "", "0"])
