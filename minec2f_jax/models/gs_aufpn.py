"""GS-AUFPN decoder, of GSMF-RS-DIL (Huang et al. 2024, IEEE TGRS).

A pyramid over the encoder's features at /32, /16, /8 and /4. The deepest map reasons over a graph of what it shows;
then each finer map joins by way of two gates: channels of the finer one are weighted by the coarser one's means, places
of the coarser one by the finer one's largest and mean channels.

After the authors' published code. Kernels start He-uniform, our choice (there He-normal), but for those that give
logits: every join makes the map larger, and logits of a wider start would cost dozens of epochs.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from minec2f_jax import ops
from minec2f_jax.models import convolution, fpn
from minec2f_jax.models.pointwise_head import PointwiseHead

_GRAPH_EPSILON = 1e-4  # of the BN behind the graph, in the authors' code
_CLASSIFIER_INIT = nn.initializers.normal(0.01)  # as there


class GraphReasoning(nn.Module):
  """A map to which reasoning over a graph of soft regions is added.

  Every pixel belongs to each of the graph's nodes as much as `assign` says; a node is the sum of its pixels (not the
  mean). With V [nodes, node_features], V' = ReLU(V + W_N V) W_C, both W with bias, which goes back to the pixels by the
  same shares. Other than in GloRe (Chen et al. 2019, arXiv:1811.12814), whose step is V - W V, the sign is a plus.

  Attributes:
    nodes: of the graph.
    node_features: numbers that describe a node.
    bn_momentum: what the running statistics keep per step.
    bn_epsilon: added to the variance, but for the last BN's.
    dtype: of the computation; parameters and statistics stay float32.
  """

  nodes: int = 64
  node_features: int = 128
  bn_momentum: float = 0.99
  bn_epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train):
    """[B, H, W, C] float -> the same shape; `train`: whether BN uses the batch's statistics."""
    chex.assert_rank(x, 4)
    dense, norm = _layers(self, train)
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    shares = nn.relu(norm(name="assign_norm")(dense(self.nodes, name="assign")(flat)))
    described = nn.relu(norm(name="describe_norm")(dense(self.node_features, name="describe")(flat)))
    graph = jnp.einsum("bpn,bpm->bnm", shares, described)
    between = dense(self.nodes, use_bias=True, name="between_nodes")(graph.swapaxes(1, 2)).swapaxes(1, 2)
    graph = dense(self.node_features, use_bias=True, name="between_features")(nn.relu(graph + between))
    back = dense(x.shape[-1], name="expand")(jnp.einsum("bpn,bnm->bpm", shares, graph))
    back = norm(epsilon=_GRAPH_EPSILON, name="out_norm")(nn.relu(norm(name="expand_norm")(back)))
    return x + back.reshape(x.shape)


class AttentiveUpsampling(nn.Module):
  """A map of twice the resolution, of a coarse map and the encoder's at that resolution.

  With u the coarse map enlarged bilinearly and l = ReLU(BN(1x1 convolution of the finer one)): u s + l c + u + l, where
  the gate c of each channel is squeeze-and-excitation of u (Hu et al. 2018, arXiv:1709.01507), and the gate s of each
  place is CBAM's spatial attention on l (Woo et al. 2018, arXiv:1807.06521), 3x3 and without BN. No gate has a bias.

  Attributes:
    reduction: hidden width of the channel gate is C // reduction, at least 1.
    bn_momentum: what the running statistics keep per step.
    bn_epsilon: added to the variance.
    dtype: of the computation; parameters and statistics stay float32.
  """

  reduction: int = 16
  bn_momentum: float = 0.99
  bn_epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, coarse, fine, *, train):
    """[B, H, W, C] and [B, 2 H, 2 W, .] float -> [B, 2 H, 2 W, C]."""
    chex.assert_rank([coarse, fine], 4)
    channels = coarse.shape[-1]
    dense, norm = _layers(self, train)
    upper = jax.image.resize(coarse, (*fine.shape[:3], channels), "bilinear")
    lateral = nn.relu(norm(name="lateral_norm")(dense(channels, name="lateral")(fine)))

    hidden = nn.relu(dense(max(channels // self.reduction, 1), name="squeeze")(upper.mean(axis=(1, 2))))
    by_channel = ops.gate(dense(channels, name="excite")(hidden))[:, None, None]
    pooled = jnp.stack([ops.max_first(lateral, -1), lateral.mean(axis=-1)], axis=-1)
    by_place = ops.gate(_conv(self, 1, name="spatial_conv")(pooled))
    return (upper * (1 + by_place) + lateral * (1 + by_channel)).astype(self.dtype)


class GSAUFPN(nn.Module):
  """One map at a quarter of the image's resolution from an encoder's last four feature maps.

  Attributes:
    features: channels of every map of the pyramid.
    nodes, node_features: of the graph, see `GraphReasoning`.
    reduction: of the channel gates, see `AttentiveUpsampling`.
    dropout: rate of the spatial dropout (whole channels) on the result; needs a "dropout" key in training.
    bn_momentum: what the running statistics keep per step.
    bn_epsilon: added to the variance.
    dtype: of the computation; parameters and statistics stay float32.
  """

  features: int = 256
  nodes: int = 64
  node_features: int = 128
  reduction: int = 16
  dropout: float = 0.1
  bn_momentum: float = 0.99
  bn_epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features, *, train):
    """The decoder's map.

    Args:
      features: {"c1": /2, which is not looked at, "c2": [B, H/4, W/4, .], "c3": /8, "c4": /16, "c5": /32} float.
      train: whether BN uses the batch's statistics and dropout is active.

    Returns:
      [B, H/4, W/4, features].

    Raises:
      ValueError: if a level is missing or not twice the size of the next.
    """
    fpn.check_pyramid(features, "GS-AUFPN")
    norms = dict(bn_momentum=self.bn_momentum, bn_epsilon=self.bn_epsilon, dtype=self.dtype)
    _, norm = _layers(self, train)
    x = nn.relu(norm(name="top_norm")(_conv(self, self.features, name="top_conv")(features["c5"])))
    x = GraphReasoning(self.nodes, self.node_features, **norms, name="graph")(x, train=train)
    for level in ("c4", "c3", "c2"):
      join = AttentiveUpsampling(self.reduction, **norms, name=f"join_{level}")
      x = join(x, features[level], train=train)
    return nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x)


class GSAUFPNHead(PointwiseHead):
  """A `PointwiseHead` that starts small."""

  kernel_init = staticmethod(_CLASSIFIER_INIT)


class FCNHead(nn.Module):
  """Logits of one of an encoder's maps, for a loss beside that of the decoder's logits.

  Long et al. 2015, arXiv:1411.4038, in the form of common toolboxes: 3x3 convolution, BN, ReLU, spatial dropout, 1x1
  convolution with bias. The logits keep the map's resolution.

  Attributes:
    features: channels of the 3x3 convolution.
    dropout: rate of the spatial dropout (whole channels); needs a "dropout" key in training.
    bn_momentum: what the running statistics keep per step.
    bn_epsilon: added to the variance.
    dtype: of the convolution; the logits are float32.
  """

  features: int = 256
  dropout: float = 0.1
  bn_momentum: float = 0.99
  bn_epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train):
    """[B, H, W, C] float -> [B, H, W, 1] float32."""
    _, norm = _layers(self, train)
    x = nn.relu(norm(name="norm")(_conv(self, self.features, name="conv")(x)))
    x = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
    return nn.Dense(1, kernel_init=_CLASSIFIER_INIT, name="classify")(x.astype(jnp.float32))


def _layers(module, train):
  """(1x1 convolutions as matrices, BN), to be made submodules of the caller."""
  dense = functools.partial(nn.Dense, use_bias=False, kernel_init=nn.initializers.he_uniform(), dtype=module.dtype)
  norm = functools.partial(
    nn.BatchNorm,
    use_running_average=not train,
    momentum=module.bn_momentum,
    epsilon=module.bn_epsilon,
    dtype=module.dtype,
  )
  return dense, norm


def _conv(module, features, *, name):
  """A 3x3 convolution without bias, zero-padded, to be made a submodule of the caller."""
  return nn.Conv(
    features,
    (3, 3),
    padding=((1, 1), (1, 1)),
    use_bias=False,
    kernel_init=nn.initializers.he_uniform(),
    dtype=module.dtype,
    conv_general_dilated=convolution.conv_general_dilated,
    name=name,
  )
