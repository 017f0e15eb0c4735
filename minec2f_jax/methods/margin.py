"""What methods share that find two things in the mines of an old network: fine mines, and the margin around them.

The classes are background, 0, and these two; the old network has background and mine, with one logit.
"""

import jax.numpy as jnp

from minec2f_jax.methods import base
from minec2f_jax.models import Segmenter, factory

MARGIN, MINE = 1, 2
CHILDREN = ((0,), (MARGIN, MINE))  # of background and of the old mine


def make_segmenter(model_config) -> Segmenter:
  """`factory.make_segmenter` with a head of three classes."""
  head = {**model_config.get("head", {}), "classes": MINE + 1}
  return factory.make_segmenter({**model_config, "head": head})


def split_head(head: base.PyTree, *, share: bool) -> base.PyTree:
  """The parameters of a head of three classes that starts with the old one's.

  Args:
    head: {"kernel": [..., 1], "bias": [1]} of the old one, whose logit is that of a softmax over (0, logit).
    share: whether the two new classes share the old one's probability, half each (CCDA: the bias less log 2); else each
      has its logit.
  """
  of_one = jnp.log(2.0) if share else 0.0
  parts = {"kernel": (head["kernel"], head["kernel"]), "bias": (head["bias"] - of_one, head["bias"] - of_one)}
  return {name: jnp.concatenate([jnp.zeros_like(head[name]), *parts[name]], axis=-1) for name in head}


def fine_label(mine, old_mine):
  """[B, H, W] int32: `MINE` as labelled; of the rest `MARGIN` where the old network sees mine, else background."""
  return jnp.where(mine, MINE, jnp.where(old_mine, MARGIN, 0)).astype(jnp.int32)


def mine_logit(logits):
  """[..., 1] of logits [..., 3]: positive exactly where mine is the best class."""
  return logits[..., MINE:] - jnp.max(logits[..., :MINE], axis=-1, keepdims=True)
