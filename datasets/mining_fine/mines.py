"""The paper's printed list of mines: which mine lies in which split, and where the list contradicts itself."""

import collections
import csv
import dataclasses
import functools
import pathlib
import re
import unicodedata
from collections.abc import Mapping

from minec2f_jax.errors import UserError

LIST = pathlib.Path(__file__).with_name("mines.csv")
# What the paper says elsewhere: images a split (supplement, Sec. 7.1) and a climate zone (supplement, Table 11).
STATED = {"train": 153, "validation": 22, "test": 44}
STATED_CLIMATE = {
  "tropical": {"train": 25, "validation": 4, "test": 8},
  "arid": {"train": 63, "validation": 4, "test": 21},
  "temperate": {"train": 24, "validation": 4, "test": 9},
  "cold": {"train": 16, "validation": 4, "test": 1},
  "polar": {"train": 11, "validation": 4, "test": 2},
}


class MineError(UserError):
  """Metadata that fit no row of the list, or too many."""


@dataclasses.dataclass(frozen=True)
class Mine:
  """One row of the list; `mine_id` is "" in the test split, where the paper prints none."""

  mine_id: str
  mine: str
  country: str
  commodity: str
  climate_code: str
  climate_zone: str
  region: str
  product: str
  split: str


@functools.cache
def read_mines() -> tuple[Mine, ...]:
  """All rows of mines.csv, in its order."""
  with open(LIST, newline="", encoding="utf-8") as file:
    return tuple(Mine(*row) for row in list(csv.reader(file))[1:])


def candidates(mine_id: str, mine: str, product: str) -> tuple[Mine, ...]:
  """Rows of that name and product (any, if the product is unknown, ""); of several, those of that id.

  An id alone finds nothing: people number their own mines from 1 too.
  """
  named = tuple(
    row
    for row in read_mines()
    if mine and _key(row.mine) == _key(mine) and (not product or _key(row.product) == _key(product))
  )
  return tuple(row for row in named if mine_id and row.mine_id == mine_id) or named


def official_split(mine_id: str, mine: str, product: str) -> str:
  """The split of a mine, "" if the list does not have it; MineError if it lies in two."""
  found = candidates(mine_id, mine, product)
  if len({row.split for row in found}) > 1:
    places = " and ".join(_place(row) for row in found)
    raise MineError(f"{mine} is in {places} of the paper's list; fill in the column mine_id")
  return found[0].split if found else ""


def complete(metadata: Mapping[str, str]) -> dict[str, str]:
  """Metadata of a chip with blanks filled from the list, where the rows that fit agree; unchanged if none is meant.

  Args:
    metadata: the columns `folder.METADATA`, "" = unknown.

  Raises:
    MineError: the list has that mine, but says otherwise about it.
  """
  meant = candidates(metadata["mine_id"], metadata["mine"], metadata["product"])
  fitting = [row for row in meant if not _differing(metadata, row)]
  if meant and not fitting:
    listed = " and ".join(
      f"{name} {metadata[name]!r} where the paper's list says {getattr(meant[0], name)!r}"
      for name in _differing(metadata, meant[0])
    )
    raise MineError(f"{listed} ({meant[0].mine}, mine_id {meant[0].mine_id or 'none'})")
  said = {name: {getattr(row, name) for row in fitting} for name in metadata}
  return {name: said[name].pop() if len(said[name]) == 1 else value for name, value in metadata.items()}


def contradictions() -> tuple[str, ...]:
  """Where the list contradicts itself or the paper's text, a sentence each; found in the list, not written down."""
  return (*_repeated(), *_counts())


def _repeated():
  by_name = collections.defaultdict(list)
  for row in read_mines():
    by_name[_key(row.mine)].append(row)
  for rows in by_name.values():
    names = {row.split for row in rows}
    if len(names) > 1:
      yield f"{rows[0].mine} is in {' and '.join(_place(row) for row in rows)}"
    elif len(rows) > 1:
      kinds = ", ".join(f"{row.commodity} {row.climate_zone} {row.product}" for row in rows)
      yield f"{rows[0].mine} is in {rows[0].split} {len(rows)} times ({kinds})"


def _counts():
  printed = collections.Counter(row.split for row in read_mines())
  for split, stated in STATED.items():
    if printed[split] != stated:
      yield f"{split}: {printed[split]} mines are listed, the text says {stated} images"
  zones = collections.Counter((row.split, row.climate_zone) for row in read_mines())
  for split in STATED:
    listed = [zones[split, zone] for zone in STATED_CLIMATE]
    stated = [by_split[split] for by_split in STATED_CLIMATE.values()]
    if listed != stated:
      join = lambda counts: "/".join(map(str, counts))
      yield f"{split}: {join(STATED_CLIMATE)} are {join(listed)} in the list, {join(stated)} in Table 11"


def _place(row: Mine) -> str:
  return f"{row.split} ({row.product}, mine_id {row.mine_id or 'none'})"


def _differing(metadata: Mapping[str, str], row: Mine) -> list[str]:
  """Names of metadata that the row contradicts; what either does not know contradicts nothing."""
  return [
    name
    for name, value in metadata.items()
    if value
    and getattr(row, name)
    and _key(value) != _key(getattr(row, name))
    and not (name == "climate_zone" and value == row.climate_code)
  ]


def _key(name: str) -> str:
  """A name as compared: case, spaces, underscores and hyphens do not count, accents do."""
  # The list has typographic apostrophes; keyboards do not.
  return re.sub(r"[\s_\-]", "", unicodedata.normalize("NFC", name).casefold().replace("\u2019", "'"))
