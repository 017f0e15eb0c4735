"""What each field of a config may hold: one table, nested as configs are, and what is wrong with a config by it.

The limits are those beyond which a run fails or does nothing of use: types that a library would trip over, numbers that
float32 takes for zero, sizes that no machine holds. What is merely unwise is allowed.
"""

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from minec2f_jax import distillation, metrics
from minec2f_jax.data import sensors
from minec2f_jax.experiment.data import DOMAINS
from minec2f_jax.methods import METHODS, lwm
from minec2f_jax.models import factory, minec2fnet, pretrained


class Field(NamedTuple):
  """What a field may hold."""

  fits: Callable[[Any], bool]  # of any value whatever; never raises
  remedy: str
  needed: bool = True  # False: a default stands in where it is left out


Table = Mapping[str, "Field | Table"]


def whole(low: int, high: int) -> Field:
  """A whole number between two others, which count in."""
  fits = lambda x: isinstance(x, int) and not isinstance(x, bool) and low <= x <= high
  return Field(fits, f"give a whole number from {low} to {high}")


def number(low: float, high: float, what: str = "number") -> Field:
  """A number, whole or not, between two others, which count in; NaN lies between none."""
  fits = lambda x: isinstance(x, int | float) and not isinstance(x, bool) and low <= x <= high
  return Field(fits, f"give a {what} from {low:g} to {high:g}")


def zero_or(low: float, high: float, what: str = "number") -> Field:
  """0, which switches something off, or a number between two others."""
  off, within = number(0, 0), number(low, high, what)
  return Field(lambda x: off.fits(x) or within.fits(x), f"{within.remedy}, or 0 for none")


def one_of(*choices: str, remedy: str = "") -> Field:
  """One of some texts."""
  return Field(lambda x: isinstance(x, str) and x in choices, remedy or f"choose one of {choices}")


def some_of(choices: Collection[str], *, least: int) -> Field:
  """A tuple (or a list, as JSON has them) of different texts out of `choices`."""
  fits = lambda x: _are_texts(x) and least <= len(x) == len(set(x)) and set(x) <= set(choices)
  return Field(fits, f"give a tuple of {f'at least {least}' if least else '0 or more'}, each once, of {tuple(choices)}")


def _is_text(value) -> bool:
  return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _are_texts(value) -> bool:
  return isinstance(value, tuple | list) and all(map(_is_text, value))


def _with_defaults(fields: Table) -> Table:
  return {name: field._replace(needed=False) for name, field in fields.items()}


# Scores that grow with the quality of a model; the others count images and pixels.
SCORES = tuple(name for name in metrics.ConfusionMatrix.empty().compute() if not name.startswith("num_"))

FLAG = Field(lambda x: isinstance(x, bool), "give True or False")
TEXT = Field(_is_text, "give a text")
TEXT_OR_NONE = Field(lambda x: x is None or _is_text(x), "give a text, or None")
TEXTS = Field(_are_texts, 'give a tuple of texts, as in ("a", "b")')
BUILDER = Field(
  lambda x: isinstance(x, str) and x == "" or _is_text(x), 'give the name of a folder in datasets/, or ""'
)
COUNT = whole(1, 1_000_000)
WEIGHT = zero_or(1e-6, 1e6)
CHANNELS = whole(1, 8192)
LAYERS = whole(1, 128)
DROPOUT = number(0.0, 0.99)
EPSILON = number(1e-12, 0.1)  # Added to what is divided by: no zero, in float32 neither.
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
  return {"path": TEXT_OR_NONE, "builder": BUILDER, "coarsen_gsd_m": coarsen_gsd_m, "skip": TEXTS}


DATA = {
  "bands": some_of(sensors.ROLES, least=1),
  "image_size": whole(1, 4096),  # A training step on 4096 x 4096 pixels takes tens of GB an image.
  "batch_size": whole(1, 65536),
  "sensor": one_of(*sensors.CHOICES),
  "read_threads": whole(0, 256),
  "cache_gb": number(0.0, 1e6),
  "device_gb": number(0.0, 1e6),
  "data_dir": TEXT,
  # Beyond these they are digital numbers, as Prithvi's statistics are published.
  "mean": _with_defaults(dict.fromkeys(sensors.ROLES, number(*sensors.PLAUSIBLE_REFLECTANCE, "reflectance"))),
  "std": _with_defaults(dict.fromkeys(sensors.ROLES, number(1e-4, 2.0, "reflectance"))),
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

_SOFT_TARGETS = {"temperature": number(0.01, 1000.0), "temperature_squared": FLAG}
# Of methods that have sections of their own; but for "distillation", which all configs have.
METHOD_SECTIONS = {
  "lwf": {"weight": WEIGHT, **_SOFT_TARGETS},
  "lwm": {
    **dict.fromkeys(("distillation_weight", "attention_weight"), WEIGHT),
    **_SOFT_TARGETS,
    "layer": one_of(*lwm.LAYERS),
    "second_order": FLAG,
    "epsilon": number(1e-18, 0.1),  # The square of less is 0 in float32.
  },
}

FIELDS = {
  "seed": whole(0, 2**32 - 1),  # JAX drops higher bits in silence.
  "stages": Field(
    lambda x: _are_texts(x) and len(set(x)) == len(x) > 0 and all(map(_may_be_stage, x)),
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
  "distillation": {
    "weight": WEIGHT,
    "selection": one_of(*distillation.SELECTIONS),
    "temperature": number(0.01, 1000.0),
    "epsilon": EPSILON,
    "normalizer": one_of("selected", "all"),
  },
}

HEAD = {"classes": whole(1, 1)._replace(remedy="give 1: mine against background")}
DENSENET = {
  "block_sizes": Field(
    lambda x: isinstance(x, tuple | list) and len(x) == 4 and all(map(LAYERS.fits, x)),
    "give a tuple of four whole numbers from 1 to 128, as in (6, 12, 24, 16)",
  ),
  "growth_rate": CHANNELS,
  "stem_features": CHANNELS,
  "bottleneck": whole(1, 64),
  "compression": number(0.5, 1.0),  # Less may leave no channel.
  "tap": one_of("conv", "norm"),
  "input_adapter": FLAG,
  **BATCH_NORM,
}
FPN = {
  "pyramid_features": CHANNELS,
  "segmentation_features": CHANNELS,
  "merge": one_of("concat", "sum"),
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
  name: {section: _with_defaults(fields) for section, fields in sections.items()}
  for name, sections in {
    "fpn_densenet": {"encoder": DENSENET, "decoder": FPN, "head": HEAD, "fusion": FUSION},
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
