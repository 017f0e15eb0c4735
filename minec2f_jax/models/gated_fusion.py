"""Gated fusion of the teacher's and the student's features (paper Sec. 4.3)."""

import functools
from typing import Any

import chex
import jax.numpy as jnp
from flax import linen as nn

from minec2f_jax import ops


class GatedFusion(nn.Module):
  """Features fused under a learned gate.

  The paper gives no formula, only that a learned gate sets each source's share at every pixel.
  "convex" is our reading of that: g F_T + (1 - g) F_S, g = sigmoid(conv1x1([F_T, F_S])).
  "gscnn" is the gated layer of the work that the paper cites (Takikawa et al. 2019,
  arXiv:1907.05740): conv1x1(F_S (1 + a)), where
  a = sigmoid(BN(conv1x1(ReLU(conv1x1(BN([F_S, r])))))) and r is a one-channel projection of F_T.
  The kernels start Glorot-uniform (our choice).

  Attributes:
    kind: "convex" or "gscnn".
    gate_channels: "full", a gate for every channel; or "one" for each pixel, as in Gated-SCNN.
    bn_momentum: what the running statistics keep per step ("gscnn" only).
    bn_epsilon: added to the variance ("gscnn" only).
    dtype: of the computation; parameters and statistics stay float32.
  """

  kind: str = "convex"
  gate_channels: str = "full"
  bn_momentum: float = 0.99
  bn_epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, teacher_features, student_features, *, train):
    """The fused features.

    Args:
      teacher_features: [B, H, W, C] float, F_T.
      student_features: [B, H, W, C] float, F_S.
      train: whether BN uses the batch's statistics.

    Returns:
      [B, H, W, C].

    Raises:
      ValueError: if `kind` or `gate_channels` is not known.
    """
    chex.assert_rank(student_features, 4)
    chex.assert_equal_shape([teacher_features, student_features])
    if self.gate_channels not in ("full", "one"):
      raise ValueError(f'gate_channels is {self.gate_channels!r}; it must be "full" or "one".')
    fuse = {"convex": self._convex, "gscnn": self._gscnn}.get(self.kind)
    if fuse is None:
      raise ValueError(f'kind is {self.kind!r}; it must be "convex" or "gscnn".')
    width = student_features.shape[-1] if self.gate_channels == "full" else 1
    return fuse(teacher_features, student_features, width, train)

  def _convex(self, teacher, student, width, train):
    del train
    gate = ops.gate(self._dense(width, "gate")(jnp.concatenate([teacher, student], axis=-1)))
    return (gate * teacher + (1 - gate) * student).astype(self.dtype)

  def _gscnn(self, teacher, student, width, train):
    norm = functools.partial(
      nn.BatchNorm, use_running_average=not train, momentum=self.bn_momentum, epsilon=self.bn_epsilon, dtype=self.dtype
    )
    channels = student.shape[-1]
    x = jnp.concatenate([student, self._dense(1, "teacher_projection")(teacher)], axis=-1)
    x = nn.relu(self._dense(channels + 1, "gate_hidden")(norm(name="gate_norm1")(x)))
    gate = ops.gate(norm(name="gate_norm2")(self._dense(width, "gate")(x)))
    return self._dense(channels, "output", use_bias=False)((student * (1 + gate)).astype(self.dtype))

  def _dense(self, features, name, use_bias=True):
    return nn.Dense(
      features, use_bias=use_bias, kernel_init=nn.initializers.glorot_uniform(), dtype=self.dtype, name=name
    )
