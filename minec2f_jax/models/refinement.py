"""Diffusion refinement (paper Sec. 4.3, Eq. 6-8): residual blocks of convolution and attention."""

from typing import Any

import chex
import jax.numpy as jnp
from flax import linen as nn

from minec2f_jax.models import convolution
from minec2f_jax.models.cbam import CBAM


class Refinement(nn.Module):
  """Features after T_r refinement steps, each with its own weights.

  For t = 1..T_r: U_t = phi(conv3x3(F_{t-1})) (Eq. 6), V_t = CBAM(U_t) (Eq. 7), F_t = F_{t-1} + V_t
  (Eq. 8). phi = BN and ReLU, the bias-free convolution and T_r = 2 are our choice: the paper's text
  has lost them.

  Attributes:
    steps: T_r; 0 returns the input.
    reduction: of the CBAM's channel MLP.
    spatial_bn: whether the CBAM's spatial convolution has BN.
    zero_init: multiply V_t by a per-channel gain that starts at 0, so that the module starts as the
      identity (our choice, off). Not a zero BN scale: it would put the ReLU exactly at 0, where its
      gradient is 0, and the block would never learn.
    bn_momentum: what the running statistics keep per step.
    bn_epsilon: added to the variance.
    dtype: of the computation; parameters and statistics stay float32.
  """

  steps: int = 2
  reduction: int = 16
  spatial_bn: bool = True
  zero_init: bool = False
  bn_momentum: float = 0.99
  bn_epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train):
    """The refined features.

    Args:
      x: [B, H, W, C] float, F_0.
      train: whether BN uses the batch's statistics.

    Returns:
      [B, H, W, C].
    """
    chex.assert_rank(x, 4)
    channels = x.shape[-1]
    for step in range(1, self.steps + 1):
      update = nn.Conv(
        channels,
        (3, 3),
        padding=((1, 1), (1, 1)),
        use_bias=False,
        kernel_init=nn.initializers.he_uniform(),
        dtype=self.dtype,
        conv_general_dilated=convolution.conv_general_dilated,
        name=f"step{step}_conv",
      )(x)
      update = nn.relu(
        nn.BatchNorm(
          use_running_average=not train,
          momentum=self.bn_momentum,
          epsilon=self.bn_epsilon,
          dtype=self.dtype,
          name=f"step{step}_norm",
        )(update)
      )
      attend = CBAM(
        reduction=self.reduction,
        spatial_bn=self.spatial_bn,
        bn_momentum=self.bn_momentum,
        bn_epsilon=self.bn_epsilon,
        dtype=self.dtype,
        name=f"step{step}_cbam",
      )
      update = attend(update, train=train)
      if self.zero_init:
        gain = self.param(f"step{step}_gain", nn.initializers.zeros, (channels,), jnp.float32)
        update = update * gain.astype(update.dtype)
      x = x + update
    return x
