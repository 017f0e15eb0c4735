"""Whether tensors out of a weight file are those of a network, with all that is wrong in one message."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import linen as nn


class Misfit(ValueError):
  """The tensors are not those of the network; the message says how, and begins with a verb: the file is its subject."""


def check_fields(network: str, fields: Mapping[str, Any], encoder: nn.Module):
  """Raises a Misfit if a `network` with `fields` is not of the size of `encoder`, or has layers of no width."""
  if empty := [name for name, value in fields.items() if not value]:
    raise Misfit(f"holds a {network} with {', '.join(f'{name}=0' for name in empty)}; give one whose layers have width")
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
  called: Mapping[str, str] | None = None,
  remedy: str = "give its weights whole and unchanged",
):
  """Holds tensors against those that a network has.

  Args:
    network: what it is called, after "a".
    shapes: {name: shape} of every tensor that must be there.
    tensors: {name: array} of those that are.
    others: {what else is wrong: names}.
    called: {name: what the file calls it}, where that differs.
    remedy: what to do if more is wrong than that there are too many.

  Raises:
    Misfit: lists all that are missing, too many, of another shape, integers, or no finite numbers, and `others`.
  """
  called = called or {}
  own = lambda names: [called.get(name, name) for name in names]
  shared = shapes.keys() & tensors.keys()
  extras = tensors.keys() - shared
  misshapen = {name for name in shared if tensors[name].shape != tuple(shapes[name])}
  integers = {name for name in shared - misshapen if tensors[name].dtype.kind != "f"}
  problems = {
    "missing": shapes.keys() - shared,
    f"not in a {network}": own(extras),
    "of another shape": [
      f"{shown(called.get(name, name))} {tensors[name].shape} instead of {tuple(shapes[name])}" for name in misshapen
    ],
    "not finite numbers": own(name for name in shared - misshapen - integers if not np.isfinite(tensors[name]).all()),
    "integers": own(integers),
    **others,
  }
  found = {what: f"{len(names)} {what}: {listed(sorted(names))}" for what, names in problems.items() if names}
  if list(found) == [f"not in a {network}"]:
    raise Misfit(f"holds more than an encoder and classifier ({found.popitem()[1]}); save the encoder alone")
  if found:
    raise Misfit(f"does not fit this {network} ({'; '.join(found.values())}); {remedy}")


def listed(names: Iterable[str], most: int = 8) -> str:
  """`names` for a message: the first `most`, and how many more there are."""
  names = list(names)
  more = f", ... and {len(names) - most} more" if len(names) > most else ""
  return ", ".join(map(shown, names[:most])) + more


def shown(name: str, most: int = 200) -> str:
  """A name out of a file such that a terminal shows it as it is and does nothing: escaped, and cut if long."""
  name = name if name.isprintable() else repr(name)
  return name if len(name) <= most else f"{name[:most]}..."
