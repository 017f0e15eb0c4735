import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized
from scipy import ndimage

from minec2f_jax import ops

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(2, 14, 17)).astype(np.float32)
WINDOW = ops.gaussian_window(11, 1.5)


class MaskedReductionsTest(parameterized.TestCase):
  VALUES = np.array([[1.0, np.nan], [3.0, 5.0]], np.float32)
  VALID = np.array([[True, False], [True, True]])

  @parameterized.parameters((ops.masked_sum, 9.0), (ops.masked_mean, 3.0))
  def test_nan_under_the_mask_does_not_count(self, reduce, expected):
    self.assertEqual(float(jax.jit(reduce)(self.VALUES, self.VALID)), expected)

  @parameterized.parameters((ops.masked_sum, (4.0, 5.0)), (ops.masked_mean, (2.0, 5.0)))
  def test_axis(self, reduce, expected):
    np.testing.assert_array_equal(reduce(self.VALUES, self.VALID, axis=0), expected)

  @parameterized.parameters(ops.masked_sum, ops.masked_mean)
  def test_nothing_valid_is_zero_with_zero_gradient(self, reduce):
    value, grad = jax.value_and_grad(reduce)(self.VALUES, np.zeros((2, 2), bool))
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(grad, 0.0)

  def test_without_a_mask_it_is_the_plain_mean(self):
    self.assertEqual(float(ops.masked_mean(jnp.array([1.0, 2.0, 6.0]))), 3.0)

  def test_replacement_keeps_the_dtype(self):
    out = ops.replace_invalid(jnp.array([255, 1], jnp.uint8), jnp.array([False, True]))
    self.assertEqual(out.dtype, jnp.uint8)
    np.testing.assert_array_equal(out, [0, 1])


class WindowTest(parameterized.TestCase):
  def test_gaussian_window_is_symmetric_and_sums_to_one(self):
    np.testing.assert_allclose(sum(WINDOW), 1.0, rtol=1e-15)
    self.assertEqual(WINDOW, WINDOW[::-1])
    np.testing.assert_allclose(WINDOW[5] / WINDOW[8], np.exp(9 / 4.5), rtol=1e-12)

  def test_an_even_window_is_refused(self):
    with self.assertRaisesRegex(ValueError, "size=10 must be odd"):
      ops.gaussian_window(10, 1.5)

  @parameterized.parameters(1, 3, 11)
  def test_filter_equals_scipy_where_the_window_is_whole(self, size):
    window, border = ops.gaussian_window(size, 1.5), size // 2
    expected = ndimage.correlate1d(IMAGE.astype(np.float64), window, axis=1)
    expected = ndimage.correlate1d(expected, window, axis=2)
    expected = expected[:, border : 14 - border, border : 17 - border]
    out = jax.jit(ops.filter_symmetric, static_argnums=1)(IMAGE, window)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)

  def test_filter_derivative_is_the_adjoint(self):
    # <F x, g> = <x, F^T g> with F built column by column from unit images.
    x = IMAGE[:1]
    units = np.eye(x.size, dtype=np.float32).reshape(x.size, *x.shape[1:])
    matrix = np.asarray(ops.filter_symmetric(units, WINDOW)).reshape(x.size, -1)
    g = RNG.normal(size=(1, 4, 7)).astype(np.float32)
    out, vjp = jax.vjp(lambda image: ops.filter_symmetric(image, WINDOW), x)
    np.testing.assert_allclose(out.ravel(), x.ravel() @ matrix, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(vjp(g)[0].ravel(), matrix @ g.ravel(), rtol=1e-4, atol=1e-6)


class SobelTest(parameterized.TestCase):
  def test_equals_scipy_with_mirrored_border(self):
    dy, dx = jax.jit(ops.sobel)(IMAGE)
    image = IMAGE.astype(np.float64)
    for b in range(2):
      expected_dy = ndimage.sobel(image[b], axis=0, mode="mirror")
      expected_dx = ndimage.sobel(image[b], axis=1, mode="mirror")
      np.testing.assert_allclose(dy[b], expected_dy, rtol=1e-5, atol=1e-5)
      np.testing.assert_allclose(dx[b], expected_dx, rtol=1e-5, atol=1e-5)


class MinPoolTest(parameterized.TestCase):
  @parameterized.parameters(3, 5)
  def test_same_equals_scipy_erosion_with_true_outside(self, size):
    mask = RNG.uniform(size=(2, 12, 13)) > 0.1
    out = jax.jit(ops.min_pool, static_argnums=1, static_argnames="padding")(mask, size, padding="SAME")
    expected = [ndimage.binary_erosion(m, np.ones((size, size)), border_value=1) for m in mask]
    np.testing.assert_array_equal(out, expected)
    self.assertEqual(out.dtype, bool)

  def test_valid_keeps_whole_windows_only(self):
    mask = np.ones((1, 5, 5), bool)
    mask[0, 0, 0] = False
    expected = np.ones((1, 3, 3), bool)
    expected[0, 0, 0] = False
    np.testing.assert_array_equal(ops.min_pool(mask, 3), expected)
