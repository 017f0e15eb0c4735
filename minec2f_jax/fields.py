"""Kinds of config fields: what a value must be, and what to say where it is not.

Tables of them stand where the fields are read: each method has those of its own section, `experiment.schema` the rest.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple


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


def is_text(value) -> bool:
  """Whether it is a text that says something, and that a file name may hold."""
  return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _are_texts(value) -> bool:
  return isinstance(value, tuple | list) and all(map(is_text, value))


def with_defaults(fields: Table) -> Table:
  """The same fields, each of which may be left out."""
  return {name: field._replace(needed=False) for name, field in fields.items()}


FLAG = Field(lambda x: isinstance(x, bool), "give True or False")
TEXT = Field(is_text, "give a text")
TEXT_OR_NONE = Field(lambda x: x is None or is_text(x), "give a text, or None")
TEXTS = Field(_are_texts, 'give a tuple of texts, as in ("a", "b")')
COUNT = whole(1, 1_000_000)
CHANNELS = whole(1, 8192)
DROPOUT = number(0.0, 0.99)
WEIGHT = zero_or(1e-6, 1e6)
EPSILON = number(1e-12, 0.1)  # Added to what is divided by: no zero, in float32 neither.
SOFT_TARGETS = {"temperature": number(0.01, 1000.0), "temperature_squared": FLAG}  # `distillation.soft_target_loss`.
