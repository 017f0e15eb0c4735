"""How much of a map is mine: pixels and km2, by windows."""

from typing import NamedTuple

from minec2f_jax.errors import UserError
from minec2f_jax.mapping import ground, maps, seams


class Totals(NamedTuple):
  """Pixels and km2 of a map."""

  mine_px: int
  valid_px: int
  all_px: int
  mine_km2: float
  valid_km2: float


def count(chosen: maps.Map, place: ground.Ground, *, tile: int = seams.TILE) -> Totals:
  """The totals of a map; areas pixel by pixel, through an equal-area projection.

  Raises:
    UserError: nobody can tell what 255 means in a mask of others.
  """
  mine_px = valid_px = unclear = 0
  mine_km2 = valid_km2 = 0.0
  with maps.open_map(chosen) as file:
    for rows, columns in maps.windows(chosen.shape, tile):
      found = file.read(rows, columns)
      mine_px, valid_px = mine_px + int(found.mine.sum()), valid_px + int(found.valid.sum())
      mine_km2 += place.km2(found.mine, rows, columns)
      valid_km2 += place.km2(found.valid, rows, columns)
      unclear += found.unclear
  if unclear and not mine_px and not chosen.note:
    raise UserError(
      f"{chosen.mask}: values 0 and 255 without any 1: 255 may be mine or 'not valid'; write mine as 1, or declare "
      "nodata=255"
    )
  return Totals(mine_px, valid_px, chosen.grid.height * chosen.grid.width, mine_km2, valid_km2)
