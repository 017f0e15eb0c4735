"""Configs broken at random, and whether the check finds what was broken.

A mutation knows what it did: whether a run could still be what was meant (`config_verdicts`, written without a look at
`experiment.schema`), and the field and value that a refusal has to name.
"""

import collections
import copy
import math
from unittest import mock

import numpy as np
from ml_collections import ConfigDict

from configs import coarse, fine_hybrid
from configs.baselines import prithvi
from configs.suites import table3
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import checks, suite
from tests import toy
from tests.faults import config_verdicts

# What one may find in a field: of every type, on both sides of every limit, and what only looks right.
POOL = (
  *(None, True, False, 0, 1, -1, 2, 3, 7, 24, 10**9, 10**30, 10**5000, 0.0, 0.5, 1.0, 1.5, -0.5, 1e-300, 1e300),
  *(math.nan, math.inf, -math.inf, "", " ", "nonsense", "coarse", "fine", "hybrid", "none", "auto", "..os", "3", "nan"),
  *((), (1,), (0.5,), ("red",), ("red", "red"), ("red", "thermal"), ["nir"], ("fine", "coarse"), ("coarse",)),
  *(("c1", "c9"), ("fine",), ("coarse", "fine"), "coarse,fine", "attentive_distillation", "supervised", "conv1x1", "."),
  *((1, 1, 1, 1), (1, 1, 1), (1, 0, 1, 1), (1, 1, 1, "1"), {"a": 1}, {}, b"red", 1j, {1}, np.float32(0.5), np.zeros(2)),
)  # fmt: skip
# What a field may be depends on others, or on files.
TIED = (
  *("stages", "teacher", "method", "init_from_prior", "warmup_epochs", "weight", "bce", "image_size", "heads", "path"),
  *("builder", "skip", "coarsen_gsd_m", "pretrained_sha256", "pretrained_adapter", "input_adapter"),
)
NONSENSE = (b"red", 1j, {1}, np.zeros(2))  # of no type that any field has


def run(n: int, *, seed: int = 0, traced: int = 0) -> dict:
  """Breaks `n` configs and checks each.

  Args:
    n: number of mutations.
    seed: of all that is drawn.
    traced: of the mutated configs that may be run, so many have their networks traced.

  Returns:
    {"mutations": n, "refused": of these, "legal": the others, "traced": of the latter, "kinds": how many of each,
    "wrong": what went otherwise than it should, a list of texts}.
  """
  rng = np.random.default_rng(seed)
  counts = collections.Counter(mutations=n, refused=0, legal=0, traced=0)
  kinds, wrong = collections.Counter(), []
  while kinds.total() < n:
    kind = list(KINDS)[kinds.total() % len(KINDS)]
    plain = copy.deepcopy(BASES[rng.integers(len(BASES))])
    named = KINDS[kind](rng, plain)
    if named is None:  # Nobody can say what should become of it.
      continue
    kinds[kind] += 1
    trace = not named and counts["traced"] < traced
    answer = _check(ConfigDict(plain), trace)
    outcome = "refused" if named else "legal"
    counts.update({outcome: 1, "traced": int(trace)})
    if (answer == "") == bool(named) or not all(name in answer for name in named) or "\n" in answer:
      wrong.append(f"{kind}, to be {outcome} by {named}: {answer or 'accepted'}")
  return {**counts, "kinds": dict(kinds), "wrong": wrong}


def _check(config: ConfigDict, trace: bool) -> str:
  """The message of the refusal, "" if there is none; what is no UserError tells its type, too."""
  trace_networks = checks._trace_networks if trace else lambda config: None
  with mock.patch.object(checks, "_trace_networks", trace_networks):
    try:
      checks.check_config(config)
    except UserError as error:
      return str(error)
    except Exception as error:  # What a user would see as a traceback.
      return f"TRACEBACK\n{type(error).__name__}: {error}"
  return ""


def _bases() -> list[dict]:
  """Configs of all kinds as plain dicts, so that nothing holds a field to its type; small, to be traced in a second."""
  configs = [fine_hybrid.get_config(), fine_hybrid.get_config("demo"), coarse.get_config()]
  configs.append(suite.row_config(table3.get_config(), "gf", seed=0))
  configs[-1].pretrained = "weights.h5"
  configs[-1].model.encoder.update(dict(bottleneck=2, compression=0.5))
  vit = prithvi.get_config("demo")
  vit.data.image_size = 32
  return [toy.shrink(config, epochs=20).to_dict() for config in configs] + [vit.to_dict()]


def _leaves(plain, path=()):
  for name, value in plain.items():
    yield from _leaves(value, (*path, name)) if isinstance(value, dict) else [(*path, name)]


def _sections(plain, path=()):
  for name, value in plain.items():
    if isinstance(value, dict):
      yield (*path, name)
      yield from _sections(value, (*path, name))


def _get(plain, path):
  for name in path:
    plain = plain[name]
  return plain


def _draw(rng, items):
  items = list(items)
  return items[rng.integers(len(items))]


def _dotted(path) -> str:
  return ".".join(("config", *path))


def _said(path, value) -> str:
  """How a refusal begins."""
  digits = isinstance(value, int) and value > 10**4000  # More than Python writes.
  return f"{_dotted(path)}=" + ("" if digits else " ".join(repr(value).split())[:60])


def _retype(rng, plain):
  """Any value in any field."""
  return _set(plain, _draw(rng, _leaves(plain)), _draw(rng, POOL))


def _push(rng, plain):
  """A number in a field of numbers."""
  path = _draw(rng, (path for path in _leaves(plain) if isinstance(_get(plain, path), int | float)))
  return _set(plain, path, _draw(rng, (value for value in POOL if isinstance(value, int | float))))


def _choose(rng, plain):
  """Another value that makes sense."""
  path, value = _draw(rng, _leaves(plain)), _draw(rng, POOL)
  return _set(plain, path, value) if config_verdicts.may_hold(path, value, plain) else None


def _contradict(rng, plain):
  """A value that would do elsewhere, but not beside the other fields and the files at hand."""
  path = _draw(rng, (path for path in _leaves(plain) if path[-1] in TIED))
  kind = type("" if (now := _get(plain, path)) is None else now)
  values = [value for value in POOL if type(value) is kind and config_verdicts.may_hold(path, value, plain) is False]
  return _set(plain, path, _draw(rng, values)) if values else None


def _set(plain, path, value):
  legal = config_verdicts.may_hold(path, value, plain)
  if legal is not None:
    _get(plain, path[:-1])[path[-1]] = value
    return () if legal else (_said(path, value),)
  return None


def _swap(rng, plain):
  """The values of two fields, exchanged."""
  one, other = (_draw(rng, _leaves(plain)) for _ in range(2))
  if one[-2:-1] == other[-2:-1] == ("loss",) or {"architecture", "pretrained"} & {*one, *other}:
    return None  # What a weight or a hash may be depends on the other; without a network nobody knows its fields.
  swapped = [(one, _get(plain, other)), (other, _get(plain, one))]
  legal = [config_verdicts.may_hold(path, value, plain) for path, value in swapped]
  if None in legal:
    return None
  for path, value in swapped:
    _get(plain, path[:-1])[path[-1]] = value
  return tuple(_said(path, value) for (path, value), fine in zip(swapped, legal) if not fine)


def _delete(rng, plain):
  path = _draw(rng, [*_leaves(plain), *_sections(plain)])
  _get(plain, path[:-1]).pop(path[-1])
  if path == ("model", "architecture"):
    return ("architecture 'fpn_densenet'",)
  if path[0] == "model" and path not in (("model",), ("model", "dtype")):
    return ()  # As models.factory has it: the module's default.
  if path[:2] in (("data", "mean"), ("data", "std")):
    bands = [band for band in plain["data"]["bands"] if len(path) == 2 or band == path[2]]
    return tuple(f"{_dotted(path[:2])}.{band} is missing" for band in bands)
  return (f"{_dotted(path)} is missing",)


def _rename(rng, plain):
  path = _draw(rng, [*_leaves(plain), *_sections(plain)])
  if path == ("model", "architecture"):
    return None  # As if deleted.
  name = _draw(rng, (path[-1] + "s", path[-1][:-1] + "_", path[-1].upper(), "x"))
  holder = _get(plain, path[:-1])
  holder[name] = holder.pop(path[-1])
  return f"{_dotted((*path[:-1], name))}=", "there is no such field"


def _flatten(rng, plain):
  """A scalar, or a section of something else, in place of a section."""
  path, value = (
    _draw(rng, _sections(plain)),
    _draw(rng, (value for value in POOL if not isinstance(value, dict) or value)),
  )
  _get(plain, path[:-1])[path[-1]] = value
  return (f"{_dotted(path)}.",) if isinstance(value, dict) else (_said(path, value),)


def _two(rng, plain):
  """Two broken fields: both are named."""
  first, second = (_draw(rng, _leaves(plain)) for _ in range(2))
  if first == second or "architecture" in (*first, *second):
    return None
  values = [NONSENSE[rng.integers(len(NONSENSE))] for _ in range(2)]
  for path, value in zip((first, second), values):
    _get(plain, path[:-1])[path[-1]] = value
  return _said(first, values[0]), _said(second, values[1])


KINDS = {
  "any value": _retype,
  "any number": _push,
  "sound value": _choose,
  "contradiction": _contradict,
  "swapped": _swap,
  "deleted": _delete,
  "renamed": _rename,
  "no section": _flatten,
  "two at once": _two,
}


BASES = _bases()
