"""A method is three pure functions; everything else is shared by all methods.

The systems of the paper's Table 1 differ only in the streams they see, in the parameters that exist and move,
and in the loss. As an optax transformation is `(init, update)`, a method is `(init, loss, logits)`, with `rates` where
its parameters learn at different speeds.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any
Batch = dict[str, dict[str, jax.Array]]  # stream ("coarse", "fine") -> {"image", "label", "valid"}


class Variables(NamedTuple):
  """What a stage leaves behind, and the `prior` that the next stage starts from."""

  trainable: PyTree  # moved by the optimizer
  frozen: PyTree  # never differentiated: a teacher
  extra: PyTree  # carried along: batch statistics, an EMA, prototypes


class Method(NamedTuple):
  """A training method as three pure functions.

  Attributes:
    init: `(key, image, prior) -> Variables`. `image` is a [B, H, W, C] example that fixes shapes; `prior` is the
      `Variables` of an earlier stage (a teacher), or None.
    loss: `(trainable, frozen, extra, batch, key) -> (scalar, (new_extra, metrics))`. `metrics` is a dict of
      scalars, the parts of the loss among them.
    logits: `(trainable, frozen, extra, image) -> [B, H, W, 1]`, in inference mode: what evaluation, prediction
      and export use.
    rates: `trainable -> tree` with a number for each leaf, a factor of the optimizer's update of it, weight decay
      included: 0 freezes it. None: all are 1. See `rates_by_path`.
  """

  init: Callable[[jax.Array, jax.Array, Variables | None], Variables]
  loss: Callable[..., tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]]
  logits: Callable[[PyTree, PyTree, PyTree, jax.Array], jax.Array]
  rates: Callable[[PyTree], PyTree] | None = None


def rates_by_path(trainable: PyTree, rate: Callable[[tuple[str, ...]], float]) -> PyTree:
  """`rate` of every leaf's path, as ("encoder", "stem_conv", "kernel"), in the tree's form; for `Method.rates`."""
  return jax.tree_util.tree_map_with_path(lambda path, _: rate(tuple(part.key for part in path)), trainable)


def copy_tree(tree: PyTree) -> PyTree:
  """A deep copy: donating a buffer that a frozen teacher shares would delete the teacher."""
  return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)


def make_teacher(prior: Variables | None) -> PyTree:
  """A frozen copy of what the earlier stage left, `{"params", "batch_stats"}`.

  Raises:
    ValueError: if there is no earlier stage.
  """
  if prior is None:
    raise ValueError(
      'the method needs a teacher: put "coarse" before "fine" in config.stages, or give the workdir of a finished '
      "Task 1 as config.teacher."
    )
  return copy_tree({"params": prior.trainable, "batch_stats": prior.extra["batch_stats"]})


def apply_in_training(model, trainable: PyTree, extra: PyTree, key: jax.Array, *inputs) -> tuple[PyTree, PyTree]:
  """(what a network answers with the batch's statistics and dropout, the new `extra`)."""
  outputs, updates = model.apply(
    {"params": trainable, **extra}, *inputs, train=True, mutable=["batch_stats"], rngs={"dropout": key}
  )
  return outputs, dict(updates)


def with_encoder(method: Method, variables: PyTree) -> Method:
  """`method`, started with pretrained weights in place of random ones; what is frozen, a teacher, stays as it is.

  Args:
    method: any whose `trainable` has a module "encoder", as has `extra["batch_stats"]` if the encoder has statistics.
    variables: {"params", "batch_stats"} of the encoder, the latter if it has some; modules that it lacks start as
      `method` has them.
  """

  def start(tree, source):
    unknown = sorted(set(source) - set(tree["encoder"]))
    if unknown:
      raise ValueError(f"the encoder has no module {unknown}, which pretrained weights are given for.")
    return {**tree, "encoder": merge_parameters(tree["encoder"], source)}

  def init(variables, key, image, prior):
    random = method.init(key, image, prior)
    extra = random.extra
    if "batch_stats" in variables:
      extra = {**extra, "batch_stats": start(extra["batch_stats"], variables["batch_stats"])}
    return random._replace(trainable=start(random.trainable, variables["params"]), extra=extra)

  # Weights as a leaf of the function, not a constant in it: hundreds of megabytes would go into the compiled program.
  return method._replace(init=jax.tree_util.Partial(init, variables))


def merge_parameters(target: PyTree, source: PyTree) -> PyTree:
  """`target` with every top-level module that `source` also has replaced by a copy of the source's.

  Raises:
    ValueError: if nothing is shared, or a shared module differs in tree or shape.
  """
  shared = sorted(set(target) & set(source))
  if not shared:
    raise ValueError(f"no module in common: the new model has {sorted(target)}, the old one {sorted(source)}.")
  for name in shared:
    new, old = (jax.tree.map(jnp.shape, tree[name]) for tree in (target, source))
    if new != old:
      raise ValueError(
        f"module {name!r} cannot start from earlier weights: its parameters differ in name or shape. Use the same "
        "config.model and config.data.bands for both."
      )
  return {**target, **{name: copy_tree(source[name]) for name in shared}}
