import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import linen as nn

from minec2f_jax.models import convolution

CASES = (  # kernel, padding, channels in and out: both may be the fewer
  ((3, 3), ((1, 1), (1, 1)), 4, 6),
  ((3, 3), ((1, 1), (1, 1)), 6, 4),
  ((2, 2), ((1, 1), (1, 1)), 3, 5),
  ((2, 1), ((1, 0), (0, 0)), 5, 2),
  ((5, 3), ((0, 3), (2, 1)), 2, 2),
)


def _arrays(size, padding, channels, features, dtype=np.float32):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 9, 7, channels)).astype(dtype)
  kernel = rng.normal(size=(*size, channels, features)).astype(dtype)
  height, width = (n + sum(edge) - k + 1 for n, edge, k in zip((9, 7), padding, size))
  return x, kernel, rng.normal(size=(2, height, width, features)).astype(dtype)


def _in_numpy(x, kernel, cotangent, padding):
  """The convolution and its two gradients, tap by tap in float64."""
  (h, w), (_, height, width, _) = kernel.shape[:2], cotangent.shape
  x, kernel, cotangent = (np.asarray(a, np.float64) for a in (x, kernel, cotangent))
  padded = np.pad(x, ((0, 0), *padding, (0, 0)))
  value, of_padded, of_kernel = np.zeros(cotangent.shape), np.zeros(padded.shape), np.zeros(kernel.shape)
  for i in range(h):
    for j in range(w):
      seen = np.s_[:, i : i + height, j : j + width]
      value += padded[seen] @ kernel[i, j]
      of_padded[seen] += cotangent @ kernel[i, j].T
      of_kernel[i, j] = np.einsum("bhwc,bhwf->cf", padded[seen], cotangent)
  (top, bottom), (left, right) = padding
  return value, of_padded[:, top : top + x.shape[1], left : left + x.shape[2]], of_kernel


class ConvTest(parameterized.TestCase):
  @parameterized.product(case=CASES, pixels=[1, 45, 4096], small=[0, 1024])  # one row at a time, three rows, all
  def test_value_and_gradients_equal_numpys(self, case, pixels, small):
    size, padding, *channels = case
    x, kernel, cotangent = _arrays(size, padding, *channels)
    with mock.patch.multiple(convolution, _PIXELS=pixels, _SMALL=small):
      value, pull = jax.vjp(lambda x, kernel: convolution.conv(x, kernel, padding), x, kernel)
      found = value, *jax.jit(pull)(cotangent)
    for ours, exact in zip(found, _in_numpy(x, kernel, cotangent, padding)):
      np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-5)

  @parameterized.parameters((12, 20), (20, 12))
  def test_bfloat16_gradients_are_summed_in_float32(self, channels, features):
    rng, padding = np.random.default_rng(0), ((0, 0), (0, 0))
    x, cotangent = (jnp.asarray(rng.normal(size=(1, 64, 64, n)), jnp.bfloat16) for n in (channels, features))
    kernel = jnp.zeros((1, 1, channels, features), jnp.bfloat16)
    with mock.patch.object(convolution, "_PIXELS", 64):  # 64 blocks
      (gradient,) = jax.vjp(lambda kernel: convolution.conv(x, kernel, padding), kernel)[1](cotangent)
    self.assertEqual(gradient.dtype, jnp.bfloat16)
    exact = _in_numpy(x, kernel, cotangent, padding)[2]
    # One rounding to 8 bits. Terms of both signs cancel: rounding any block or partial sum would cost more.
    np.testing.assert_allclose(np.asarray(gradient, np.float64), exact, rtol=2**-8, atol=1e-4)

  def test_the_second_derivative_is_that_of_the_plain_convolution(self):
    x, kernel, _ = _arrays((3, 3), ((1, 1), (1, 1)), 3, 2)
    self.enterContext(mock.patch.object(convolution, "_SMALL", 0))

    def second(conv):
      inner = jax.grad(lambda kernel: (conv(x, kernel) ** 3).sum())
      return jax.grad(lambda kernel: (inner(kernel) ** 2).sum())(kernel)

    ours = second(lambda x, kernel: convolution.conv(x, kernel, ((1, 1), (1, 1))))
    plain = functools.partial(
      jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(ours, second(plain), rtol=1e-4)

  @parameterized.parameters(("cpu", 2), ("cuda", 3))
  def test_only_cpus_take_the_kernel_gradient_from_products(self, platform, convolutions):
    x, kernel = jnp.zeros((1, 48, 48, 4)), jnp.zeros((3, 3, 4, 4))
    step = jax.jit(jax.value_and_grad(lambda x, k: (convolution.conv(x, k, ((1, 1), (1, 1))) ** 2).sum(), (0, 1)))
    program = step.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    self.assertEqual(program.count("stablehlo.convolution"), convolutions)


class LayerTest(parameterized.TestCase):
  @parameterized.parameters(
    dict(),
    dict(padding=((1, 1), (1, 1))),
    dict(strides=2, padding=((1, 1), (1, 1))),
    dict(kernel_dilation=2, padding=((2, 2), (2, 2))),
    dict(feature_group_count=2, padding=((1, 1), (1, 1))),
  )
  def test_a_layer_with_it_equals_flaxs_own(self, **options):
    x = _arrays((3, 3), ((1, 1), (1, 1)), 4, 6)[0]
    own = nn.Conv(6, (3, 3), **options)
    ours = own.clone(conv_general_dilated=convolution.conv_general_dilated)
    variables = own.init(jax.random.key(0), x)
    np.testing.assert_allclose(ours.apply(variables, x), own.apply(variables, x), rtol=1e-6)


if __name__ == "__main__":
  absltest.main()
