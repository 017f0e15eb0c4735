"""Convolution whose kernel gradient is a sum of matrix products on CPUs.

XLA takes the gradient by the kernel as a convolution with the whole map as its window. On CPUs that is up to ten times
slower than the other two passes for large maps, and for kernels of even size always (see docs/performance.md). The rest
is left to XLA.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_PIXELS = 2048  # of a block, at most: its columns should fit into the cache, and still fill a matrix product
_SMALL = 32 * 32  # pixels of a map up to which XLA's own gradient is as quick, under kernels of 3x3


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x, kernel, padding):
  """The convolution of stride 1, as `lax.conv_general_dilated` has it.

  Args:
    x: [B, H, W, C] float, differentiated (reverse mode).
    kernel: [h, w, C, F] of the same dtype, differentiated (reverse mode).
    padding: ((top, bottom), (left, right)), pixels of zeros; less than the kernel's height and width.

  Returns:
    [B, H + top + bottom - h + 1, W + left + right - w + 1, F].
  """
  return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=_LAYOUT)


def conv_general_dilated(x, kernel, strides, padding, *, lhs_dilation, rhs_dilation, **options):
  """`lax.conv_general_dilated` by way of `conv` where that serves: for the field of this name of `nn.Conv`."""
  plain = set((*strides, *lhs_dilation, *rhs_dilation)) == {1} and options["feature_group_count"] == 1
  if plain and not isinstance(padding, str):
    return conv(x, kernel, tuple(map(tuple, padding)))
  return lax.conv_general_dilated(
    x, kernel, strides, padding, lhs_dilation=lhs_dilation, rhs_dilation=rhs_dilation, **options
  )


def _forward(x, kernel, padding):
  return conv(x, kernel, padding), (x, kernel)


def _backward(padding, saved, cotangent):
  x, kernel = saved
  native = functools.partial(
    lax.conv_general_dilated, window_strides=(1, 1), padding=padding, dimension_numbers=_LAYOUT
  )
  of_input = jax.linear_transpose(lambda x: native(x, kernel), x)
  by_convolution = jax.linear_transpose(lambda kernel: native(x, kernel), kernel)
  of_kernel = lambda x, cotangent: by_convolution(cotangent)[0]
  if x.shape[1] * x.shape[2] > _SMALL or kernel.shape[:2] != (3, 3):
    by_products = functools.partial(_kernel_gradient, size=kernel.shape[:2], padding=padding)
    of_kernel = functools.partial(lax.platform_dependent, cpu=by_products, default=of_kernel)
  return (*of_input(cotangent), of_kernel(x, cotangent))


conv.defvjp(_forward, _backward)


def _kernel_gradient(x, cotangent, *, size, padding):
  """[h, w, C, F] of [B, H, W, C] and [B, H', W', F]; the one with fewer channels is the one that is shifted."""
  if x.shape[-1] < cotangent.shape[-1]:
    moved = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    return _correlate(cotangent, moved, size).swapaxes(2, 3)
  borders = tuple((edge - 1 - before, edge - 1 - after) for edge, (before, after) in zip(size, padding))
  moved = jnp.pad(cotangent, ((0, 0), *borders, (0, 0)))
  return _correlate(x, moved, size)[::-1, ::-1]


def _correlate(still, moved, size):
  """[h, w, C, D]: sums over the pixels p of still[p] times moved[p + (i, j)].

  Args:
    still: [B, H, W, C].
    moved: [B, H + h - 1, W + w - 1, D].
    size: (h, w).
  """
  (batch, height, width, channels), (h, w), features = still.shape, size, moved.shape[-1]
  rows = max((n for n in range(1, height + 1) if height % n == 0 and n * batch * width <= _PIXELS), default=1)
  dtype = jnp.promote_types(still.dtype, jnp.float32)  # of the sums, whatever the operands are

  def add(total, start):
    block = lax.dynamic_slice_in_dim(still, start, rows, axis=1).reshape(-1, channels)
    around = lax.dynamic_slice_in_dim(moved, start, rows + h - 1, axis=1)
    shifts = [around[:, i : i + rows, j : j + width] for i in range(h) for j in range(w)]
    columns = jnp.concatenate(shifts, axis=-1).reshape(-1, h * w * features)
    return total + jnp.einsum("pc,pd->cd", block, columns, preferred_element_type=dtype), None

  total, _ = lax.scan(add, jnp.zeros((channels, h * w * features), dtype), jnp.arange(0, height, rows))
  return total.reshape(channels, h, w, features).transpose(1, 2, 0, 3).astype(still.dtype)
