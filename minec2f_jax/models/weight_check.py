"""Whether tensors out of a weight file are those of a network, with all that is wrong in one message."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import linen as nn


class Misfit(ValueError):
  """The tensors are not those of the network; the message says how, and begins with a verb: the file is its subject."""


def check_fields(network: str, fields: Mapping[str, Any], encoder: nn.Module):
  """Raises a Misfit if a `network` with `fields` is not of the size of `encoder`."""
  different = {name: value for name, value in fields.items() if value != getattr(encoder, name)}
  if different:
    there = ", ".join(f"{name}={value}" for name, value in different.items())
    here = ", ".join(f"{name}={getattr(encoder, name)}" for name in different)
    raise Misfit(
      f"holds a {network} with {there}, but config.model.encoder has {here}; give the encoder the file's values, or "
      "leave out config.pretrained"
    )


def check_tensors(
  network: str,
  shapes: Mapping[str, tuple[int, ...]],
  tensors: Mapping[str, np.ndarray],
  *,
  others: Mapping[str, Iterable[str]],
):
  """Holds tensors against those that a network has.

  Args:
    network: what it is called, after "a".
    shapes: {name: shape} of every tensor that must be there.
    tensors: {name: array} of those that are.
    others: {what else is wrong: names}.

  Raises:
    Misfit: lists all that are missing, too many, of another shape, or no finite numbers, and `others`.
  """
  shared = shapes.keys() & tensors.keys()
  misshapen = {name for name in shared if tensors[name].shape != tuple(shapes[name])}
  problems = {
    "missing": shapes.keys() - shared,
    f"not in a {network}": tensors.keys() - shared,
    "of another shape": [f"{name} {tensors[name].shape} instead of {tuple(shapes[name])}" for name in misshapen],
    "not finite numbers": [name for name in shared - misshapen if not _is_finite(tensors[name])],
    **others,
  }
  listed = "; ".join(f"{len(found)} {what}: {', '.join(sorted(found))}" for what, found in problems.items() if found)
  if listed:
    raise Misfit(f"does not fit this {network} ({listed}); give its weights whole and unchanged")


def _is_finite(array: np.ndarray) -> bool:
  return array.dtype.kind == "f" and bool(np.isfinite(array).all())
