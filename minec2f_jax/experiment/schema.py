"""What each field of a config may hold: one table, nested as configs are, and what is wrong with a config by it.

The limits are those beyond which a run fails or does nothing of use: types that a library would trip over, numbers that
float32 takes for zero, sizes that no machine holds. What is merely unwise is allowed.
"""

import difflib
from collections.abc import Collection, Iterator
from typing import Any

from ml_collections import ConfigDict

from minec2f_jax import metrics
from minec2f_jax.data import sensors
from minec2f_jax.experiment.data import DOMAINS
from minec2f_jax.fields import (
  CHANNELS,
  COUNT,
  DROPOUT,
  EPSILON,
  FLAG,
  TEXT,
  TEXT_OR_NONE,
  TEXTS,
  WEIGHT,
  Field,
  Table,
  is_text,
  number,
  one_of,
  some_of,
  whole,
  with_defaults,
  zero_or,
)
from minec2f_jax.methods import METHODS
from minec2f_jax.models import factory, minec2fnet, pretrained

# Scores that grow with the quality of a model; the others count images and pixels.
SCORES = tuple(name for name in metrics.ConfusionMatrix.empty().compute() if not name.startswith("num_"))

BUILDER = Field(lambda x: isinstance(x, str) and x == "" or is_text(x), 'give the name of a folder in datasets/, or ""')
TEXT_EMPTY_OR_NONE = TEXT_OR_NONE._replace(fits=lambda x: TEXT_OR_NONE.fits(x) or BUILDER.fits(x))  # --NAME= is empty.
LAYERS = whole(1, 128)
BATCH_NORM = {"bn_momentum": number(0.0, 0.9999), "bn_epsilon": EPSILON}  # 1 would never leave the first statistics.


STAGE = {
  "method": one_of(*METHODS),
  "streams": some_of(DOMAINS, least=1),
  "sampling": one_of("each", "union")._replace(needed=False),
  "validation": one_of(*DOMAINS),
  "epochs": COUNT,
  "init_from_prior": FLAG,
  "loss": {
    **dict.fromkeys(("bce", "dice", "ssim", "boundary"), WEIGHT),
    "dice_kind": one_of("soft", "generalized"),
    "dice_reduce": one_of("batch", "image"),
    "ssim_kind": one_of("ssim", "ssl"),
  },
}
SELECTION = {
  "judge": TEXT,
  "stream": one_of(*DOMAINS),
  "score": one_of("iou", "f1"),
  "least": number(0.0, 2.0),  # Scores end at 1: more keeps nothing.
  "most": whole(0, 10**9),
}


def _domain(coarsen_gsd_m: Field) -> Table:
  return {"path": TEXT_EMPTY_OR_NONE, "builder": BUILDER, "coarsen_gsd_m": coarsen_gsd_m, "skip": TEXTS}


DATA = {
  "bands": some_of(sensors.ROLES, least=1),
  "image_size": whole(1, 4096),  # A training step on 4096 x 4096 pixels takes tens of GB an image.
  "batch_size": whole(1, 65536),
  "sensor": one_of(*sensors.CHOICES),
  "gsd_m": zero_or(0.01, 100_000.0, "pixel size in metres")._replace(needed=False),  # Earlier versions had none.
  "read_threads": whole(0, 256),
  "cache_gb": number(0.0, 1e6),
  "device_gb": number(0.0, 1e6),
  "data_dir": TEXT,
  # Beyond these they are digital numbers, as Prithvi's statistics are published.
  "mean": with_defaults(dict.fromkeys(sensors.ROLES, number(*sensors.PLAUSIBLE_REFLECTANCE, "reflectance"))),
  "std": with_defaults(dict.fromkeys(sensors.ROLES, number(1e-4, 2.0, "reflectance"))),
  "augment": {
    **dict.fromkeys(("hflip", "vflip", "rot90", "shift_scale_rotate"), number(0.0, 1.0, "probability")),
    "shift_limit": number(0.0, 1.0),
    "scale_limit": number(0.0, 0.99),
    "rotate_limit_deg": number(0.0, 180.0),
  },
  "coarse": _domain(zero_or(0.1, 1000.0, "pixel size in metres")),  # With less, the canvas of a chip outgrows memory.
  "fine": _domain(number(0, 0)._replace(remedy="give 0.0: only coarse labels are made of fine masks")),
}

OPTIMIZER = {
  "learning_rate": number(1e-36, 10.0),  # Less is 0 in float32.
  "weight_decay": number(0.0, 10.0),
  "warmup_epochs": whole(0, 1_000_000),
  "clip_norm": zero_or(1e-6, 1e6),
  "plateau_factor": number(0.001, 0.999),
  "plateau_patience": COUNT,
  "plateau_min_delta": number(0.0, 0.5),  # Scores lie between 0 and 1.
  "stop_patience": COUNT,
}

# Of methods that have sections of their own; but for "distillation", which all configs have.
METHOD_SECTIONS = {kind.section: kind.fields for kind in METHODS.values() if kind.section not in ("", "distillation")}

FIELDS = {
  "seed": whole(0, 2**32 - 1),  # JAX drops higher bits in silence.
  "stages": Field(
    lambda x: TEXTS.fits(x) and len(set(x)) == len(x) > 0 and all(map(_may_be_stage, x)),
    'give a tuple of sections of the config that are stages, each once, as in ("coarse", "fine")',
  ),
  "teacher": TEXT_OR_NONE,
  "pretrained": TEXT_OR_NONE,
  "pretrained_adapter": one_of(*pretrained.ADAPTERS),
  "pretrained_sha256": TEXT_OR_NONE,
  "monitor": one_of(*SCORES),
  "checkpoint_minutes": number(0.1, 10_000, "number of minutes"),
  "data": DATA,
  "optimizer": OPTIMIZER,
  "coarse": STAGE,
  "fine": STAGE,
  "distillation": METHODS["attentive_distillation"].fields,
}


def _numbers(field: Field, counts: Collection[int], remedy: str) -> Field:
  """A tuple (or a list) of so many numbers, each of which `field` allows."""
  return Field(lambda x: isinstance(x, tuple | list) and len(x) in counts and all(map(field.fits, x)), remedy)


HEAD = {"classes": whole(1, 1)._replace(remedy="give 1: mine against background")}
DENSENET = {
  "block_sizes": _numbers(LAYERS, (4,), "give a tuple of four whole numbers from 1 to 128, as in (6, 12, 24, 16)"),
  "growth_rate": CHANNELS,
  "stem_features": CHANNELS,
  "bottleneck": whole(1, 64),
  "compression": number(0.5, 1.0),  # Less may leave no channel.
  "tap": one_of("conv", "norm"),
  "output_stride": whole(32, 32)._replace(remedy="give 32: 16 is for the architecture 'deeplabv3plus_densenet'"),
  "input_adapter": FLAG,
  "adapters": FLAG,
  **BATCH_NORM,
}
FPN = {
  "pyramid_features": CHANNELS,
  "segmentation_features": CHANNELS,
  "merge": one_of("concat", "sum"),
  "dropout": DROPOUT,
  **BATCH_NORM,
}
STRIDES = Field(lambda x: whole(16, 32).fits(x) and x in (16, 32), "give 16 or 32")
UNET = {
  "features": _numbers(
    CHANNELS, (5,), "give a tuple of five whole numbers from 1 to 8192, as in (256, 128, 64, 32, 16)"
  ),
  **BATCH_NORM,
}
DEEPLABV3PLUS = {
  "aspp_features": CHANNELS,
  "rates": _numbers(
    whole(1, 256), range(1, 9), "give a tuple of 1 to 8 whole numbers from 1 to 256, as in (6, 12, 18)"
  ),
  "low_level_features": CHANNELS,
  "features": CHANNELS,
  "dropout": DROPOUT,
  **BATCH_NORM,
}
GS_AUFPN = {
  **dict.fromkeys(("features", "nodes", "node_features", "reduction"), CHANNELS),
  "dropout": DROPOUT,
  **BATCH_NORM,
}
FUSION = {
  "levels": some_of(minec2fnet.LEVELS, least=0),
  "gate": one_of("convex", "gscnn", "none"),
  "gate_channels": one_of("full", "one"),
  "cbam": FLAG,
  "cbam_reduction": CHANNELS,
  "cbam_spatial_bn": FLAG,
  "refinement_steps": whole(0, 64),
  "zero_init": FLAG,
  **BATCH_NORM,
}
VIT = {
  "width": Field(lambda x: CHANNELS.fits(x) and x % 16 == 0, "give a multiple of 16, at most 8192"),
  "depth": LAYERS,
  "heads": whole(1, 512),
  "mlp_ratio": whole(1, 64),
  "norm_epsilon": EPSILON,
}
PRITHVI_DECODER = {"features": CHANNELS, "dropout": DROPOUT, **BATCH_NORM}

# What `models.factory` has; whatever is left out has the module's default.
ARCHITECTURES = {
  name: {section: with_defaults(fields) for section, fields in sections.items()}
  for name, sections in {
    "fpn_densenet": {"encoder": DENSENET, "decoder": FPN, "head": HEAD, "fusion": FUSION},
    "unet_densenet": {"encoder": DENSENET, "decoder": UNET, "head": HEAD},
    "deeplabv3plus_densenet": {
      "encoder": {**DENSENET, "output_stride": STRIDES},
      "decoder": DEEPLABV3PLUS,
      "head": HEAD,
    },
    "gs_aufpn_densenet": {"encoder": DENSENET, "decoder": GS_AUFPN, "head": HEAD},
    "prithvi": {"encoder": VIT, "decoder": PRITHVI_DECODER, "head": HEAD},
  }.items()
}
MODEL = {"architecture": one_of(*ARCHITECTURES)._replace(needed=False), "dtype": one_of(*factory.DTYPES)}
_ANYTHING, _MISSING = Field(lambda x: True, ""), object()


def faults(config: ConfigDict) -> dict[str, str]:
  """What is wrong with the fields of a config one by one: field -> a sentence with its name, value and remedy."""
  model = config.get("model")
  architecture = model.get("architecture", factory.DEFAULT) if isinstance(model, ConfigDict) else factory.DEFAULT
  if MODEL["architecture"].fits(architecture):
    sections = ARCHITECTURES[architecture]
  else:  # It is named; what its sections may hold is anyone's guess.
    sections = dict.fromkeys(model, _ANYTHING)
  table = {**FIELDS, **named_sections(config), "model": {**sections, **MODEL}}
  known = list(paths(table))

  def sentence(where, value, remedy):
    if remedy:
      return (
        f"config.{where} is missing: {remedy}." if value is _MISSING else f"config.{where}={shown(value)}: {remedy}."
      )
    kind = f" in the architecture {architecture!r}" if where.startswith("model.") else ""
    near = difflib.get_close_matches(where, known, n=1, cutoff=0.75)
    hint = f"did you mean config.{near[0]}?" if near else "take it out."
    return f"config.{where}={shown(value)}: there is no such field{kind}; {hint}"

  misfits = list(_misfits(config, table, ""))
  if absent := [name for name in _named_stages(config) if name not in config and name not in DOMAINS]:
    misfits.append(("stages", config.stages, f"there is no section {', '.join(absent)}; name sections that are stages"))
  return {where: sentence(where, value, remedy) for where, value, remedy in misfits}


def _may_be_stage(name: str) -> bool:
  """Whether a stage may be called so: its section and its folder must be its own."""
  taken = {*FIELDS, *METHOD_SECTIONS, "model", "reproduction"} - set(DOMAINS)
  return name.isidentifier() and len(name) <= 64 and name not in taken


def stages_in(config: ConfigDict) -> tuple[str, ...]:
  """All sections that are stages: those named after a domain, and what config.stages names besides."""
  return tuple(dict.fromkeys((*DOMAINS, *(name for name in _named_stages(config) if name in config))))


def _named_stages(config: ConfigDict) -> tuple[str, ...]:
  named = config.get("stages")
  return tuple(named) if FIELDS["stages"].fits(named) else ()


def named_sections(config: ConfigDict) -> Table:
  """What the sections of stages and of methods may hold that not every config has."""
  sections, methods = {}, set()
  for name in stages_in(config):
    section = config.get(name)
    if isinstance(section, ConfigDict):
      methods.add(str(section.get("method")))
      sections[name] = {**STAGE, "selection": SELECTION} if "selection" in section else STAGE
    else:
      sections[name] = STAGE
  needed = {name for name in METHOD_SECTIONS if name in methods or name in config}
  return sections | {name: METHOD_SECTIONS[name] for name in needed}


def _misfits(section: ConfigDict, table: Table, path: str) -> Iterator[tuple[str, Any, str]]:
  """(field, value, remedy) of all that is wrong, the remedy "" for fields that the table lacks."""
  for name, field in table.items():
    where, value = path + name, section[name] if name in section else _MISSING
    if isinstance(field, Field):
      if not field.fits(value) and (field.needed or value is not _MISSING):
        yield where, value, field.remedy
    elif isinstance(value, ConfigDict):
      yield from _misfits(value, field, f"{where}.")
    elif value is not _MISSING or any(part.needed for part in field.values() if isinstance(part, Field)):
      yield where, value, f"give a section with {', '.join(field)}"
  for name in sorted(set(section) - set(table), key=str):
    yield f"{path}{name}", section[name], ""


def paths(table: Table, path: str = "") -> Iterator[str]:
  """The dotted names of all fields of a table."""
  for name, field in table.items():
    yield from [path + name] if isinstance(field, Field) else paths(field, f"{path}{name}.")


def shown(value) -> str:
  """`value` as Python writes it, in one line of bounded length."""
  try:
    text = " ".join(repr(value.to_dict() if isinstance(value, ConfigDict) else value).split())
  except ValueError:  # Python writes no numbers of more than 4300 digits.
    text = f"a {type(value).__name__} too long to write"
  return text if len(text) <= 80 else f"{text[:77]}..."
