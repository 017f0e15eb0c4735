"""Convolutional block attention module (Woo et al. 2018, arXiv:1807.06521)."""

from typing import Any

import chex
import jax.numpy as jnp
from flax import linen as nn

from minec2f_jax import ops


class CBAM(nn.Module):
  """Features weighted by a channel attention, then by a spatial attention.

  Sec. 3 of the paper; biases, the order (maximum, mean) and the BN after the spatial convolution
  follow the authors' published code. The kernels start Glorot-uniform (our choice).

  Attributes:
    reduction: hidden width of the channel MLP is C // reduction, at least 1.
    spatial_kernel: odd side of the spatial convolution, in pixels.
    spatial_bn: whether BN follows the spatial convolution; most Keras ports leave it out.
    bn_momentum: what the running statistics keep per step.
    bn_epsilon: added to the variance.
    dtype: of the computation; parameters and statistics stay float32.
  """

  reduction: int = 16
  spatial_kernel: int = 7
  spatial_bn: bool = True
  bn_momentum: float = 0.99
  bn_epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train):
    """The attended features.

    Args:
      x: [B, H, W, C] float.
      train: whether BN uses the batch's statistics.

    Returns:
      [B, H, W, C].
    """
    chex.assert_rank(x, 4)
    init, channels = nn.initializers.glorot_uniform(), x.shape[-1]
    hidden = max(channels // self.reduction, 1)
    reduce = nn.Dense(hidden, kernel_init=init, dtype=self.dtype, name="reduce")
    expand = nn.Dense(channels, kernel_init=init, dtype=self.dtype, name="expand")
    flat = x.reshape(x.shape[0], -1, channels)
    pooled = (ops.max_first(flat, 1), flat.mean(axis=1))
    weight = ops.gate(sum(expand(nn.relu(reduce(vector))) for vector in pooled))
    x = (x * weight[:, None, None, :]).astype(self.dtype)

    pooled = jnp.stack([ops.max_first(x, -1), x.mean(axis=-1)], axis=-1)
    half = self.spatial_kernel // 2
    weight = nn.Conv(
      1,
      (self.spatial_kernel, self.spatial_kernel),
      padding=((half, half), (half, half)),
      use_bias=False,
      kernel_init=init,
      dtype=self.dtype,
      name="spatial_conv",
    )(pooled)
    if self.spatial_bn:
      weight = nn.BatchNorm(
        use_running_average=not train,
        momentum=self.bn_momentum,
        epsilon=self.bn_epsilon,
        dtype=self.dtype,
        name="spatial_norm",
      )(weight)
    return (x * ops.gate(weight)).astype(self.dtype)
