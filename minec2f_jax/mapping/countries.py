"""In which country a mine lies, by boundaries that the user gives."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import shapely

from minec2f_jax.data import polygons
from minec2f_jax.errors import UserError

# As Maus et al., Natural Earth, GADM, geoBoundaries and the World Bank call them; the first that is there is taken.
_CODES = ("iso3_code", "iso_a3_eh", "iso_a3", "adm0_a3", "gid_0", "iso3", "shapegroup", "shapeiso", "wb_a3")
_NAMES = ("country_name", "name_en", "name_long", "admin", "country", "name_0", "name", "shapename", "nam_0")


class Country(NamedTuple):
  """A country, or "" and "" where none is known."""

  code: str
  name: str


UNKNOWN = Country("", "")


class Boundaries:
  """Areas of countries.

  Args:
    path: vector file with a column of ISO 3166 codes of three letters and one of names.

  Raises:
    UserError: not readable, no reference system or a wrong one, columns that are not there.
  """

  def __init__(self, path):
    frame = polygons.read_lonlat(path)
    columns = {str(name).lower(): name for name in frame.columns}
    code, name = (next((columns[n] for n in known if n in columns), None) for known in (_CODES, _NAMES))
    if code is None and name is None:
      raise UserError(
        f"{path}: no column tells countries (there are {list(frame.columns)}); name them ISO3_CODE and COUNTRY_NAME"
      )
    shapes = np.asarray(frame.geometry.array, object)
    _check_place(path, shapes)
    self.path = path
    self._shapes = shapely.make_valid(shapely.force_2d(shapes), method="structure")
    texts = ([_text(value) for value in frame[column]] if column else [""] * len(frame) for column in (code, name))
    self._countries = [Country(*pair) for pair in zip(*texts)]
    self._tree = shapely.STRtree(self._shapes)
    shapely.prepare(self._shapes)

  def of(self, geometries: Sequence) -> tuple[list[Country], int]:
    """The country that holds the largest part of each geometry, and how many geometries lie in several."""
    found = [[] for _ in geometries]
    for mine, area in sorted(self._tree.query(np.asarray(geometries, object), predicate="intersects").T.tolist()):
      found[mine].append(area)
    chosen, astride = [], 0
    for geometry, areas in zip(geometries, found):
      shares = self._shares(geometry, areas)
      astride += len(shares) > 1
      chosen.append(min(shares, key=lambda country: (-shares[country], country)) if shares else UNKNOWN)
    return chosen, astride

  def _shares(self, geometry, areas: Sequence[int]) -> dict[Country, float]:
    """Country -> its part of a geometry; degrees will do to compare parts of one mine."""
    if len(areas) == 1:
      return {self._countries[areas[0]]: 1.0}
    shares = {}
    for area in areas:
      part = shapely.intersection(geometry, self._shapes[area]).area
      if part:
        shares[self._countries[area]] = shares.get(self._countries[area], 0.0) + part
    return shares


def _check_place(path, shapes):
  """Raises where the areas are not on the globe, or are none."""
  kinds = {shape.geom_type for shape in shapes if shape is not None}
  if not kinds or kinds - {"Polygon", "MultiPolygon"}:
    raise UserError(f"{path}: no areas of countries; give a file of polygons")
  west, south, east, north = shapely.total_bounds(shapes)
  if not (-181 <= west <= east <= 181 and -91 <= south <= north <= 91):
    raise UserError(
      f"{path}: longitude {west:g}..{east:g}, latitude {south:g}..{north:g} are no degrees; the file declares another "
      "reference system than it is in: correct it (ogr2ogr -a_srs)"
    )


def _text(value) -> str:
  """Natural Earth writes -99 where it has no code."""
  return "" if value is None or value != value or str(value) == "-99" else str(value)
