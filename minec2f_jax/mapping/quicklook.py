"""A quick look at a map: the scene in natural colours with the outlines of its mines, as PNG and as one HTML file."""

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import shapely

from minec2f_jax import console
from minec2f_jax.data import rasterfile, sensors
from minec2f_jax.mapping import ground, layers, maps, quicklook_page, quicklook_picture, seams, tables
from minec2f_jax.mapping.quicklook_picture import Drawing, Footprint
from minec2f_jax.mapping.totals import Totals, count

SIDE = 1200  # Pixels of the picture's longer side.
_MINE, _NOTHING = 1, 2  # Codes of what is outlined.
_RGB = ("red", "green", "blue")
_GAMMA = 0.65  # Land is dark beside clouds and bright waste; a little lift shows the ground.
_PALE = 238  # Of the background where there is no scene.


class Scene(NamedTuple):
  """The bands to show: (file, band) of red, green and blue; what that is; the value of pixels that nobody saw."""

  bands: tuple[tuple[str, int], ...]
  note: str
  fill: float | None = None


def draw(map_folder, scene, output, *, tile: int = seams.TILE) -> list[pathlib.Path]:
  """Writes NAME.png and NAME.html into `output`; NAME is the map's.

  Args:
    map_folder: as `maps.find_map`.
    scene: GeoTIFF that was mapped (bands by name, else its first three), three files of red, green and blue, or None:
      outlines alone.
    output: folder, is made.
    tile: side of the windows that are read, in pixels.

  Raises:
    UserError: a map or scene that cannot be read, or that do not show the same ground.
  """
  source = maps.find_map(map_folder)
  place = ground.Ground(source.grid, source.mask)
  bands = _bands(scene, source) if scene else Scene((), "no scene was given")
  totals = count(source, place, tile=tile)
  down, across = place.sides_m
  metres = max(source.grid.height * down, source.grid.width * across) / SIDE  # Of a pixel of the picture.
  shape = tuple(max(round(side * size / metres), 1) for side, size in zip(source.shape, (down, across)))
  mines, nothing = _footprints(source, place, shape, tile)
  drawing = Drawing(
    picture=_composite(bands, source.shape, shape),
    size=shape[::-1],
    mines=mines,
    nothing=nothing,
    metres=metres,
    title=maps.text_of(source, "scene") or source.name,
    facts=_facts(source, totals, mines, bands),
  )
  return _write(output, source.name, drawing)


def _write(output, name: str, drawing: Drawing) -> list[pathlib.Path]:
  folder = layers.make_folder(output)
  written = [folder / f"{name}.png", folder / f"{name}.html"]
  quicklook_picture.save(written[0], drawing)
  quicklook_page.save(written[1], drawing)
  console.say(f"{written[0].name} and {written[1].name} in {output}")
  return written


def _bands(scene, source: maps.Map) -> Scene:
  """The bands to show, of files that lie where the map does."""
  paths = [scene] if isinstance(scene, str | os.PathLike) else list(scene)
  found, descriptions, tags = [], (), {}
  for path in map(os.fspath, paths):
    with rasterfile.open_raster(path) as file:
      _check_place(file, source)
      found += [(path, band) for band in file.src.indexes]
      descriptions += file.src.descriptions
      tags |= file.src.tags()
  named = maps.text_of(source, "sensor")
  try:
    sensor = sensors.get_sensor(sensors.identify(tags) or (named if named in sensors.SENSORS else "reflectance"))
    chosen = sensors.find_bands(descriptions, _RGB, sensor)
    return Scene(tuple(found[i - 1] for i in chosen), "natural colours", sensor.fill)
  except sensors.SensorError:
    first = tuple(found[min(i, len(found) - 1)] for i in range(3))
    return Scene(first, "red, green, blue = the first bands, whose names tell no colours")


def _check_place(file: rasterfile.RasterFile, source: maps.Map):
  src, grid = file.src, source.grid
  ends = np.array([(0, 0), (1, 0), (0, 1)])
  corners = lambda transform, size: np.array([transform @ tuple(end * size) for end in ends])
  here, there = corners(src.transform, (src.width, src.height)), corners(grid.transform, (grid.width, grid.height))
  pixel = max(map(abs, grid.transform[:2] + grid.transform[3:5]))
  if src.crs is None or src.crs.to_string() != grid.crs or np.abs(here - there).max() > pixel:
    raise file.error(f"does not lie where {source.mask} does", "give the scene that was mapped")


def _footprints(source: maps.Map, place: ground.Ground, shape, tile: int):
  """Outlines of mines, the largest first, and of what is not valid, in pixels of the picture."""
  scale = np.array(shape[::-1]) / source.shape[::-1]
  with maps.open_map(source) as file:
    read = functools.partial(_read_codes, file, source.scale)
    found = {_MINE: [], _NOTHING: []}
    for outline in seams.trace(read, source.shape, tile=tile, title=f"quick look at {source.name}"):
      drawn = shapely.transform(outline.geometry, lambda xy: xy * scale)
      probability = outline.total / outline.known / source.scale if outline.known else None
      placed = place.outline(outline.geometry) if outline.code == _MINE else None
      where = tuple(shapely.point_on_surface(placed).coords[0]) if placed else None
      area = ground.area_km2(placed) if placed else 0.0
      found[outline.code].append(Footprint(drawn, area, probability, where))
  order = lambda footprint: (-footprint.area_km2, footprint.outline.bounds)
  return sorted(found[_MINE], key=order), found[_NOTHING]


def _read_codes(file: maps.OpenMap, scale: int, rows, columns) -> seams.Codes:
  found = file.read(rows, columns)
  codes = np.where(found.valid, np.where(found.mine, _MINE, 0), _NOTHING).astype(np.uint8)
  known = None if found.probability is None else found.valid & (found.probability <= scale)
  return seams.Codes(codes, found.valid, found.probability, known)


def _composite(scene: Scene, size, shape: tuple[int, int]) -> np.ndarray:
  """[H, W, 3] uint8 of the scene at `shape` or, where that would only blow it up, at its own size."""
  if not scene.bands:
    return np.full((*shape, 3), _PALE, np.uint8)
  own = tuple(min(a, b) for a, b in zip(size, shape))
  planes = []
  for path, band in scene.bands:
    with rasterfile.open_raster(path) as file:
      planes.append(file.read_small([band], own)[0].astype(np.float32))
  planes = np.ma.stack(planes, axis=-1)
  valid = np.isfinite(planes.data).all(axis=-1) & ~np.ma.getmaskarray(planes).any(axis=-1)
  if scene.fill is not None:
    valid &= (planes.data != scene.fill).any(axis=-1)
  return _stretched(planes.data, valid)


def _stretched(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
  """Each band's 2nd percentile is black, and one span, to the highest of the 98th, keeps the colours."""
  low, high = np.percentile(image[valid], (2, 98), axis=0) if valid.any() else (np.zeros(3), np.ones(3))
  image = np.where(valid[..., None], image, low)
  shown = np.clip((image - low) / max(float((high - low).max()), 1e-6), 0, 1) ** _GAMMA
  return np.where(valid[..., None], np.rint(255 * shown), _PALE).astype(np.uint8)


def _facts(source: maps.Map, totals: Totals, mines: Sequence[Footprint], scene: Scene) -> dict[str, str]:
  """What stands beside the picture; fields that nobody knows are left out."""
  share = f" ({100 * totals.mine_px / totals.valid_px:.2f} % of valid pixels)" if totals.valid_px else ""
  facts = {
    "Mine": f"{tables.km2(sum(mine.area_km2 for mine in mines))} in {len(mines):,} outlines{share}",
    "Not valid": f"{totals.all_px - totals.valid_px:,} of {totals.all_px:,} pixels",
    "Sensor": maps.text_of(source, "sensor"),
    "Date": maps.text_of(source, "date"),
    "Threshold": maps.text_of(source, "threshold"),
    "Model": maps.text_of(source, "model_sha256")[:12],
    "Picture": scene.note,
  }
  return {name: text for name, text in facts.items() if text}
