"""Training methods, one file each; `make_method` finds one by the name that configs use."""

from collections.abc import Callable
from typing import NamedTuple

from minec2f_jax.methods import attentive_distillation, lwf, lwm, replay, supervised
from minec2f_jax.methods.base import Method, Variables


class Kind(NamedTuple):
  """What is known of a method before it is made."""

  make: Callable[..., Method]  # (config, stage)
  section: str = ""  # of the config, for it alone
  has_teacher: bool = False  # so that another stage must come before
  several_streams: bool = False  # may learn from more than one


METHODS = {
  "attentive_distillation": Kind(attentive_distillation.make_method, section="distillation", has_teacher=True),
  "lwf": Kind(lwf.make_method, section="lwf", has_teacher=True),
  "lwm": Kind(lwm.make_method, section="lwm", has_teacher=True),
  "replay": Kind(replay.make_method, several_streams=True),
  "supervised": Kind(supervised.make_method),
}


def make_method(config, stage) -> Method:
  """The method that `stage["method"]` names, built from `config` and `stage` (nested mappings).

  Raises:
    ValueError: if there is no such method.
  """
  if stage["method"] not in METHODS:
    raise ValueError(f"no method is called {stage['method']!r}; there are {sorted(METHODS)}.")
  return METHODS[stage["method"]].make(config, stage)


__all__ = ["METHODS", "Kind", "Method", "Variables", "make_method"]
