"""Training methods, one file each; `make_method` finds one by the name that configs use."""

from minec2f_jax.methods import attentive_distillation, supervised
from minec2f_jax.methods.base import Method, Variables

METHODS = {
  "attentive_distillation": attentive_distillation.make_method,
  "supervised": supervised.make_method,
}


def make_method(config, stage) -> Method:
  """The method that `stage["method"]` names, built from `config` and `stage` (nested mappings).

  Raises:
    ValueError: if there is no such method.
  """
  if stage["method"] not in METHODS:
    raise ValueError(f"no method is called {stage['method']!r}; there are {sorted(METHODS)}.")
  return METHODS[stage["method"]](config, stage)


__all__ = ["METHODS", "Method", "Variables", "make_method"]
