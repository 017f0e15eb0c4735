"""What a map is made of: a scene's bands, where its pixels lie, and windows of it as a network wants them."""

import hashlib
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from minec2f_jax.data import geotiff, grids, products, rasterfile, scene_folder
from minec2f_jax.errors import UserError
from minec2f_jax.mapping import scaling
from minec2f_jax.mapping.windows import reflected

_DATE_TAGS = ("SENSING_TIME", "DATE_ACQUIRED", "PRODUCT_START_TIME")
_HEAD_BYTES = 65536


class SceneInput(NamedTuple):
  """A scene to map.

  Attributes:
    name: of its map.
    bands: in the network's channel order.
    sensor: as `geotiff.read_chip` takes it.
    encoding: name of the sensor that was found, for the notes.
    place: of the finest band, and so of the map; crs and transform are None where the file has none, rows maybe askew.
    shared: whether all bands lie on the pixels of `place`; else they are resampled to them.
    date: "2021-06-12", "" if unknown.
    drivers: of GDAL, that may open the files.
  """

  name: str
  bands: tuple[geotiff.Band, ...]
  sensor: str
  encoding: str
  place: grids.Grid
  shared: bool
  date: str
  drivers: tuple[str, ...] = geotiff.DRIVERS

  @property
  def files(self) -> tuple[str, ...]:
    return tuple(dict.fromkeys(band.path for band in self.bands))

  @property
  def sides_m(self) -> tuple[float, float] | None:
    """(height, width) of a pixel on the ground; None where the files do not tell."""
    if self.place.crs is None or self.place.transform is None:
      return None
    try:
      return self.place.sides_m
    except Exception:  # pyproj and GDAL have types of their own for a system without a place on Earth.
      return None


def find(
  inputs, *, roles: Sequence[str], sensor: str, drivers: Sequence[str] = geotiff.DRIVERS
) -> tuple[list[SceneInput], dict[str, str]]:
  """(the scenes that `inputs` hold, in order of their names; what cannot be used -> why).

  Args:
    inputs: one file or folder, or a sequence: one of these, or several files of one band each.
    roles: of the bands, in the network's channel order.
    sensor: "auto" or a key of `sensors.SENSORS`.
    drivers: of GDAL, that may open files, e.g. ("GTiff", "JP2OpenJPEG").

  Raises:
    UserError: `inputs` are nothing of this, or a file given by name cannot be used.
  """
  given = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
  paths = [pathlib.Path(path).expanduser() for path in given]
  if len(paths) == 1 and paths[0].is_dir():
    return _find_in(paths[0], roles, sensor, tuple(drivers))
  if missing := [str(path) for path in paths if not path.is_file()]:
    raise UserError(f"--input={','.join(missing)}: no such file; give a GeoTIFF, one for each band, or a folder")
  if len(paths) == 1:
    return [_of_file(paths[0], roles, sensor, tuple(drivers))], {}
  joined = scene_folder.join_files(paths, roles=roles, sensor=sensor, drivers=drivers)
  return [_of_scene(joined, roles, tuple(drivers))], {}


def _find_in(folder: pathlib.Path, roles, sensor: str, drivers) -> tuple[list[SceneInput], dict[str, str]]:
  found = scene_folder.scan_folder(folder, roles=roles, sensor=sensor, drivers=drivers)
  scenes, broken = {}, {}
  for scene in found.scenes:
    try:
      scenes[scene.id] = _of_scene(scene, roles, drivers)
    except UserError as error:
      broken[scene.id] = str(error)
  for path, why in found.rejected.items():
    if why == scene_folder.NO_WANTED_BAND:
      continue
    try:  # A scene for chips lies somewhere and is no chip; of a map nobody asks that.
      one = _of_file(path, roles, sensor, drivers)
      name = pathlib.Path(path).relative_to(folder).with_suffix("").as_posix()
      if name in scenes:
        raise UserError(f"another scene is called {name!r} already; rename one of them")
      scenes[name] = one._replace(name=name)
    except UserError:
      broken[path] = why
  if not (scenes or broken):
    raise UserError(
      f"--input={folder}: no scene in it with the bands {list(roles)}; give GeoTIFFs whose bands are named"
    )
  return [scenes[name] for name in sorted(scenes)], broken


def _of_file(path, roles, sensor: str, drivers) -> SceneInput:
  bands, encoding = geotiff.find_bands(path, roles=roles, sensor=sensor, drivers=drivers)
  stem, place = pathlib.Path(path).stem, geotiff.read_place(path, drivers=drivers)
  date = _date(stem, geotiff.read_header(path, drivers=drivers).tags)
  return SceneInput(stem, bands, sensor, encoding, place, True, date, drivers)


def _of_scene(scene, roles, drivers) -> SceneInput:
  bands = tuple(dict(scene.bands)[role] for role in roles)
  places = {path: geotiff.read_place(path, drivers=drivers) for path in dict.fromkeys(band.path for band in bands)}
  finest = max(places.values(), key=lambda place: place.height * place.width)
  shared = all(place == finest for place in places.values())
  if not shared and (unplaced := [path for path, place in places.items() if not _north_up(place)]):
    raise UserError(
      f"{', '.join(unplaced)}: bands of different pixels must lie somewhere, rows north up; georeference or warp them"
    )
  if not shared:
    finest = grids.Grid(finest.crs.to_string(), finest.transform, finest.height, finest.width)
  return SceneInput(scene.id, bands, scene.sensor, scene.sensor, finest, shared, scene.date, drivers)


def _north_up(place: grids.Grid) -> bool:
  return place.crs is not None and place.transform is not None and not (place.transform.b or place.transform.d)


def _date(stem: str, tags: Mapping[str, str]) -> str:
  said = {key.upper(): value for key, value in tags.items()}
  return products.date_of(stem, *(said.get(key, "") for key in _DATE_TAGS))


def identify(scene: SceneInput) -> list[dict]:
  """What tells whether the files of a scene are still the same: size, date and the first 64 KiB of each.

  A header holds every offset and length of a GeoTIFF's blocks; pixels changed in place, under the same header, change
  the date.
  """
  found = []
  for path in scene.files:
    state = os.stat(path)
    with open(path, "rb") as file:
      head = hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()
    found.append({"name": os.path.basename(path), "bytes": state.st_size, "head": head, "mtime_ns": state.st_mtime_ns})
  return found


class Grid(NamedTuple):
  """The pixels that a network sees of a scene: those of the scene, or larger or smaller ones from the same corner on.

  Attributes:
    scene: (height, width) in its own pixels.
    factors: scene pixels for one of the network's, down and across.
  """

  scene: tuple[int, int]
  factors: tuple[float, float]

  @property
  def shape(self) -> tuple[int, int]:
    return tuple(max(1, int(np.ceil(size / step - 1e-6))) for size, step in zip(self.scene, self.factors))

  @property
  def own(self) -> bool:
    return self.factors == (1.0, 1.0)

  def to_network(self) -> tuple[scaling.Side, scaling.Side]:
    return tuple(map(scaling.Side, self.scene, self.shape, self.factors))

  def to_scene(self) -> tuple[scaling.Side, scaling.Side]:
    return tuple(scaling.Side(size, scene, 1 / step) for size, scene, step in zip(self.shape, self.scene, self.factors))


class Seen(NamedTuple):
  """A window of a scene as a network sees it.

  Attributes:
    image: [H, W, C] float32 reflectance, 0 where invalid.
    valid: [H, W] bool.
    under: the scene's own pixels that were read for it.
    known: [h, w] bool, which of these hold reflectance.
  """

  image: np.ndarray
  valid: np.ndarray
  under: rasterfile.Window
  known: np.ndarray


def read(scene: SceneInput, grid: Grid, windows: Iterable[rasterfile.Window]) -> Iterator[Seen]:
  """Windows of the network's pixels, which may reach beyond the scene: there it goes on mirrored."""
  # One by one: what is known of all windows of a huge scene would fill memory.
  windows, again = itertools.tee(windows)
  places = lambda window: [reflected(*ends, size) for ends, size in zip(window, grid.shape)]
  inside = lambda at: (int(at.min()), int(at.max()) + 1)
  inner, inner_again = itertools.tee(tuple(map(inside, places(window))) for window in windows)
  for wanted, window, seen in zip(again, inner_again, _read_inner(scene, grid, inner)):
    if wanted != window:
      picked = np.ix_(*(at - first for at, (first, _) in zip(places(wanted), window)))
      seen = seen._replace(image=seen.image[picked], valid=seen.valid[picked])
    yield seen


def _read_inner(scene: SceneInput, grid: Grid, windows: Iterable[rasterfile.Window]) -> Iterator[Seen]:
  sides = grid.to_network()
  windows, again = itertools.tee(windows)
  own_window = lambda window: window if grid.own else tuple(s.reach(*ends) for s, ends in zip(sides, window))
  under, under_again = itertools.tee(map(own_window, windows))
  access = dict(sensor=scene.sensor, drivers=scene.drivers)
  if scene.shared:
    found = geotiff.read_windows(scene.bands, under, **access)
  else:
    cuts = (grids.cut(scene.place, *window) for window in under)
    found = (geotiff.read_on_grid(scene.bands, cut, **access) for cut in cuts)
  for window, own, (image, known) in zip(again, under_again, found):
    seen = (image, known) if grid.own else scaling.to_network(image, known, *sides, window)
    yield Seen(*seen, own, known)
