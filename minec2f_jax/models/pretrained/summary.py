"""What a weight file holds, in numbers that another implementation can be compared with."""

import functools
import re

import jax
import numpy as np

from minec2f_jax.models import weight_check
from minec2f_jax.models.pretrained import Encoder

_PROBE_SIZE = 64
_KINDS = {"params": "parameters", "batch_stats": "statistics"}


def describe(path, encoder: Encoder, *, bands, adapter: str) -> str:
  """The text that `python -m minec2f_jax.models.pretrained` prints."""
  variables = encoder.variables
  sizes = {name: _size(tree) for name, tree in variables.items()}
  kinds = ", ".join(f"{size:,} {_KINDS[name]}" for name, size in sizes.items())
  rows = {
    "file": path,
    "SHA-256": encoder.sha256,
    "format": encoder.format,
    **encoder.family.notes(encoder.module),
    "mapped": f"{len(jax.tree.leaves(variables))} tensors, {sum(sizes.values()):,} numbers ({kinds})",
    "ignored": f"{len(encoder.ignored)} tensors: {weight_check.listed(encoder.ignored, 4)}".removesuffix(": "),
    "bands": f"{', '.join(bands)} (adapter {adapter})",
    **_ranges(variables),
  }
  lines = [
    *(f"{label:<12} {text}" for label, text in rows.items()),
    "",
    f"{'part':<13}{'tensors':>8}{'numbers':>12}{'mean':>15}{'std':>15}",
    *(_part(name, arrays) for name, arrays in _parts(variables).items()),
    "",
    *_probe(encoder, len(bands), adapter),
  ]
  return "\n".join(lines)


def _size(tree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _ranges(variables) -> dict[str, str]:
  """Least and greatest of what the normalisations hold."""
  leaves = jax.tree_util.tree_leaves_with_path(variables)
  held = {
    name: [leaf for path, leaf in leaves if path[-1].key == name and "norm" in path[-2].key]
    for name in ("scale", "bias", "mean", "var")
  }
  values = {name: np.concatenate(arrays) for name, arrays in held.items() if arrays}
  return {f"norm {name}": f"{x.min():.6g} to {x.max():.6g}" for name, x in values.items()}


def _parts(variables) -> dict[str, list[np.ndarray]]:
  """The tensors of the stem, each block and each transition, in the order of the network."""
  parts = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    part = re.split(r"_(?=layer|conv|norm|adapter)", path[1].key)[0]
    parts.setdefault({"input": "input_adapter", "final": "final_norm"}.get(part, part), []).append(leaf)
  number = lambda name: int(re.search(r"\d*$", name)[0] or 0)
  rank = lambda name: ({"input_adapter": -2, "stem": -1, "final_norm": 9999}.get(name, number(name)), name)
  return {name: parts[name] for name in sorted(parts, key=rank)}


def _part(name: str, arrays: list[np.ndarray]) -> str:
  values = np.concatenate([array.ravel() for array in arrays]).astype(np.float64)
  return f"{name:<13}{len(arrays):>8}{values.size:>12,}{values.mean():>15.8g}{values.std():>15.8g}"


def _probe(encoder: Encoder, bands: int, adapter: str):
  if adapter == "scratch":
    return ["probe        none: the stem is random"]
  shape = (1, _PROBE_SIZE, _PROBE_SIZE, bands)
  image = np.random.default_rng(0).standard_normal(shape, np.float32)
  features = jax.jit(functools.partial(encoder.module.apply, train=False))(encoder.variables, image)
  lines = [
    f"probe        features of numpy.random.default_rng(0).standard_normal({shape}, numpy.float32), [B, H, W, C], in "
    "inference mode",
    f"{'':<4}{'shape':<20}{'mean':>15}{'std':>15}   first of [0, 0, 0]",
  ]
  for name, value in features.items():
    value = np.asarray(value, np.float64)
    first = " ".join(f"{x:.6g}" for x in value[0, 0, 0, :4])
    lines.append(f"{name:<4}{str(value.shape):<20}{value.mean():>15.8g}{value.std():>15.8g}   {first}")
  return lines
