"""Selective replay (after Rolnick et al. 2019, arXiv:1811.11682): coarse images beside fine ones, learned alike.

Which coarse images, a stage's `selection` says; how a batch is mixed, its `sampling`: "union" draws it from all images
together, "each" takes as many of either domain (CLEAR's mix). Nothing is distilled.
"""

import jax
import jax.numpy as jnp

from minec2f_jax.methods import base, supervised


def make_method(config, stage) -> base.Method:
  """The replay method: `supervised`, which see, on all streams of a batch as one."""
  plain = supervised.make_method(config, {**stage, "streams": ("all",)})

  def loss(trainable, frozen, extra, batch, key):
    streams = [batch[name] for name in sorted(batch)]
    together = jax.tree.map(lambda *parts: jnp.concatenate(parts), *streams)
    return plain.loss(trainable, frozen, extra, {"all": together}, key)

  return plain._replace(loss=loss)
