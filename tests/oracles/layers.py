"""Network layers in NumPy (float64), from their definitions; and random weights for them."""

import functools

import jax
import numpy as np
from scipy import special

sigmoid = special.expit


def init_shapes(module, *args, **kwargs):
  """The shapes of `module.init`, without computing anything."""
  return jax.eval_shape(lambda *x: module.init(jax.random.key(0), *x, **kwargs), *args)


def random_variables(module, *args, seed=0, **kwargs):
  """Variables of `module`, all random: kernels, biases, BN scales, and BN statistics too."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    if path[-1].key == "var":
      return rng.uniform(0.5, 2.0, leaf.shape).astype(np.float32)
    if path[-1].key == "kernel":
      return (rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(np.float32)
    return rng.normal(size=leaf.shape).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, init_shapes(module, *args, **kwargs))


def apply(module, variables, *args, **kwargs):
  """`module.apply`, compiled as a whole: far quicker here than one operation after another."""
  return jax.jit(functools.partial(module.apply, **kwargs))(variables, *args)


def relu(x):
  return np.maximum(x, 0)


def pad(x, width):
  return np.pad(x, ((0, 0), (width, width), (width, width), (0, 0)))


def windows(x, size, stride=1):
  """[B, H', W', C, size, size], every window that lies within [B, H, W, C]."""
  view = np.lib.stride_tricks.sliding_window_view(np.asarray(x, np.float64), (size, size), (1, 2))
  return view[:, ::stride, ::stride]


def conv(x, kernel, stride=1):
  """The convolution with an odd square kernel [k, k, C_in, C_out], zero-padded by k // 2."""
  size = kernel.shape[0]
  return np.einsum("bhwcij,ijcf->bhwf", windows(pad(x, size // 2), size, stride), kernel)


def batch_norm(x, params, stats, epsilon):
  """Inference: the running statistics."""
  return (x - stats["mean"]) / np.sqrt(stats["var"] + epsilon) * params["scale"] + params["bias"]


def batch_norm_in_training(x, params, epsilon):
  """With the statistics of the batch."""
  return batch_norm(x, params, {"mean": x.mean((0, 1, 2)), "var": x.var((0, 1, 2))}, epsilon)


def nearest(x, factor):
  return np.kron(x, np.ones((1, factor, factor, 1)))


def bilinear(x, factor):
  """Upsampling with pixel centres at half-integers, clamped at the border."""
  for axis in (1, 2):
    size = x.shape[axis]
    at = (np.arange(factor * size) + 0.5) / factor - 0.5
    x = np.apply_along_axis(lambda line, at=at: np.interp(at, np.arange(line.size), line), axis, x)
  return x


def bilinear_x2(x):
  return bilinear(x, 2)


def spread(kernel, rate):
  """The kernel [k, k, ...] with zeros between its taps: a convolution with it is one of dilation `rate`."""
  size = rate * (kernel.shape[0] - 1) + 1
  wide = np.zeros((size, size, *kernel.shape[2:]), kernel.dtype)
  wide[::rate, ::rate] = kernel
  return wide


def cbam(x, params, stats, epsilon=1e-5):
  """Woo et al. 2018, Eq. 2 and 3; BN after the spatial convolution if there are statistics."""

  def mlp(v):
    hidden = relu(v @ params["reduce"]["kernel"] + params["reduce"]["bias"])
    return hidden @ params["expand"]["kernel"] + params["expand"]["bias"]

  x = x * sigmoid(mlp(x.max((1, 2))) + mlp(x.mean((1, 2))))[:, None, None]
  pooled = np.stack([x.max(-1), x.mean(-1)], -1)
  weight = conv(pooled, params["spatial_conv"]["kernel"])
  if stats:
    weight = batch_norm(weight, params["spatial_norm"], stats["spatial_norm"], epsilon)
  return x * sigmoid(weight)
