"""Geometry in degrees of longitude and latitude, which has a seam: the antimeridian."""

import numpy as np
import shapely


def box(west: float, south: float, east: float, north: float) -> shapely.Polygon | shapely.MultiPolygon:
  """The area between four edges; west beyond east means across the antimeridian, where it is cut in two."""
  if west <= east:
    return shapely.box(west, south, east, north)
  return shapely.MultiPolygon([shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)])


def area_within(lon: np.ndarray, lat: np.ndarray, pole: float) -> shapely.Geometry:
  """The area that a ring encloses, cut at the antimeridian.

  Args:
    lon, lat: of the ring's points, the last the first again; neighbours less than 180 degrees of longitude apart.
    pole: latitude, 90 or -90, of the pole that the ring encloses if it goes around one.
  """
  lon = np.unwrap(lon, period=360)  # A ring that steps from 180 to -180 goes on at 180.
  if abs(lon[-1] - lon[0]) > 180:  # Once around the globe: in this plane the pole is a line, and closes the ring.
    lon, lat = np.append(lon, [lon[-1], lon[0]]), np.append(lat, [pole, pole])
  lon = lon - 360 * np.floor((lon.min() + 180) / 360)
  outline = shapely.Polygon(np.column_stack([lon, lat]))
  if lon.max() <= 180:
    return outline
  beyond = shapely.transform(outline & shapely.box(180, -90, 540, 90), lambda xy: xy - [360, 0])
  return outline & shapely.box(-180, -90, 180, 90) | beyond
