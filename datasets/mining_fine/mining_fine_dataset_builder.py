"""TFDS builder of the fine set: few mines, precise outlines."""

import dataclasses

from datasets import chip_builder, chip_records
from datasets.mining_fine import mines
from minec2f_jax.data import folder
from minec2f_jax.errors import UserError


class MiningFine(chip_builder.ChipBuilder):
  """Images of mines with precise outlines, from a folder of GeoTIFFs."""

  BUILDER_CONFIGS = [
    chip_builder.ChipConfig(name=f"{name}{layout.suffix}", layout=layout)
    for name, bands in chip_records.BANDS.items()
    for layout in chip_records.layouts(bands)
  ]

  @classmethod
  def make_plan(cls, config, path, *, sensor="auto", skip=None):
    return chip_records.make_plan(path, config.layout, domain="fine", assign=assign, sensor=sensor, skip=skip)


def assign(path, rows):
  """(fine rows with metadata from the paper's list, id -> split, notes); see README.md, "Splits".

  Raises:
    UserError: rows that contradict the list, or that it has in two splits, all in one message.
  """
  named = any(row.split for row in rows if row.domain == "fine")
  completed, official, problems = [], {}, []
  for row in rows:
    if row.domain == "fine":
      try:
        row = dataclasses.replace(row, metadata=mines.complete(row.metadata))
        official[row.id] = _official_split(row, lenient=named)
      except mines.MineError as err:
        problems.append(f"{row.id}: {err}")
    completed.append(row)
  if problems:
    raise UserError(
      f"{path}/index.csv: {len(problems)} rows do not fit the paper's list of mines:\n  "
      + "\n  ".join(problems)
      + "\nCorrect them; leave mine_id blank, and change the name, where another mine is meant"
    )
  deal_rest = not named and any(official.values())
  if deal_rest:
    completed = [dataclasses.replace(row, split=official.get(row.id, row.split)) for row in completed]
  fine, split_of = chip_records.by_group(path, completed, domain="fine", deal_rest=deal_rest)
  return fine, split_of, _notes(official, split_of)


def _official_split(row: folder.Row, *, lenient: bool) -> str:
  try:
    return mines.official_split(*(row.metadata[name] for name in ("mine_id", "mine", "product")))
  except mines.MineError:
    if lenient:  # The index says what the list does not.
      return ""
    raise


def _notes(official, split_of) -> list[str]:
  matched = [name for name, split in official.items() if split]
  if not matched:
    return []
  notes = [f"{len(matched)} of {len(official)} images are of mines on the paper's list"]
  moved = [name for name in matched if official[name] != split_of[name]]
  if moved:
    notes.append(
      f"{len(moved)} of them are in another split than the list says, as index.csv wants: {', '.join(moved)}"
    )
  return [*notes, *(f"the paper's list: {sentence}" for sentence in mines.contradictions())]
