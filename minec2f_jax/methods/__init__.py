"""Training methods, one file each; `make_method` finds one by the name that configs use."""

from collections.abc import Callable
from typing import NamedTuple

from minec2f_jax.fields import Table
from minec2f_jax.methods import (
  attentive_distillation,
  bus,
  ccda,
  deep_supervision,
  gsmf_rs_dil,
  lwf,
  lwm,
  mdil_ss,
  projector,
  replay,
  sppa,
  supervised,
  udaforrs,
)
from minec2f_jax.methods.base import Method, Variables


class Kind(NamedTuple):
  """What is known of a method before it is made."""

  make: Callable[..., Method]  # (config, stage)
  section: str = ""  # of the config, for it alone
  fields: Table = {}  # of that section
  weights: tuple[str, ...] = ()  # of those fields: any above 0 gives it something to learn
  has_teacher: bool = False  # so that another stage must come before
  several_streams: bool = False  # may learn from more than one
  unlabelled: bool = False  # of these the first alone has labels; those of the others are kept from it
  parts: tuple[str, ...] = ("bce", "dice", "ssim", "boundary")  # of a stage's loss, those that it has


METHODS = {
  "attentive_distillation": Kind(
    attentive_distillation.make_method, "distillation", attentive_distillation.FIELDS, has_teacher=True
  ),
  "bus": Kind(
    bus.make_method,
    "bus",
    bus.FIELDS,
    ("mix_weight", "mask_weight", "contrast_weight"),
    several_streams=True,
    unlabelled=True,
    parts=("bce",),
  ),
  "ccda": Kind(
    ccda.make_method,
    "ccda",
    ccda.FIELDS,
    ("squares_weight", "distillation_weight"),
    has_teacher=True,
    several_streams=True,
    unlabelled=True,
    parts=("bce",),
  ),
  "ccda_start": Kind(
    ccda.make_start,
    "ccda",
    ccda.FIELDS,
    ("squares_weight",),
    several_streams=True,
    unlabelled=True,
    parts=("bce",),
  ),
  "deep_supervision": Kind(deep_supervision.make_method, "deep_supervision", deep_supervision.FIELDS),
  "gsmf_rs_dil": Kind(
    gsmf_rs_dil.make_method,
    "gsmf_rs_dil",
    gsmf_rs_dil.FIELDS,
    ("prediction_weight", "feature_weight"),
    has_teacher=True,
  ),
  "lwf": Kind(lwf.make_method, "lwf", lwf.FIELDS, ("weight",), has_teacher=True),
  "lwm": Kind(lwm.make_method, "lwm", lwm.FIELDS, ("distillation_weight", "attention_weight"), has_teacher=True),
  "mdil_ss": Kind(mdil_ss.make_method, "mdil_ss", mdil_ss.FIELDS, ("weight",), has_teacher=True),
  "projector": Kind(projector.make_method, "sppa", sppa.FIELDS, ("align_weight",), has_teacher=True, parts=()),
  "replay": Kind(replay.make_method, several_streams=True),
  "sppa": Kind(
    sppa.make_method,
    "sppa",
    sppa.FIELDS,
    ("align_weight", "intra_weight", "inter_weight", "compact_weight"),
    has_teacher=True,
    parts=("bce",),
  ),
  "supervised": Kind(supervised.make_method),
  "udaforrs": Kind(
    udaforrs.make_method,
    "udaforrs",
    udaforrs.FIELDS,
    ("mix_weight",),
    several_streams=True,
    unlabelled=True,
    parts=("bce",),
  ),
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
