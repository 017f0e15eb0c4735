"""Finds the scenes in a tree of files, by their headers and names; what cannot serve is listed with the reason."""

import collections
import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import affine
import numpy as np
import shapely

from minec2f_jax.data import geotiff, products, sensors
from minec2f_jax.data.scenes import ScanResult, Scene, SceneError, footprint, suffixes
from minec2f_jax.errors import UserError

NO_WANTED_BAND = "no wanted band"  # Why masks, pictures and other bands are passed over; nothing to worry about.
CHIP = "a chip, not a scene"  # Cut from one: it would be cut again, and count twice.

# The band at the end of a single-band file's name: T19KDQ_20210612T143739_B02_10m, LC08_..._SR_B4, HLS.L30...B04, B8A.
_BAND_NAME = re.compile(
  rf"(?:(?P<stem>.+?)[._-])?(?P<band>SR_B\d|B\d{{1,2}}|B8A|{'|'.join(sensors.ROLES)}|{'|'.join(products.QUALITY)})"
  r"(?:[._-](?:10|20|60)m)?",
  re.IGNORECASE,
)
_RESOLUTION_FOLDER = re.compile(r"R(10|20|60)m", re.IGNORECASE)  # A Sentinel-2 product keeps one for each.
_DATE_TAGS = ("SENSING_TIME", "DATE_ACQUIRED", "PRODUCT_START_TIME")
_CLOUD_TAGS = ("CLOUD_COVERAGE_ASSESSMENT", "CLOUD_COVERAGE", "CLOUD_COVER")  # Percent.


@dataclasses.dataclass(frozen=True)
class _Layer:
  """One band of a file, under the name that the file gives it, or its file name; `alone`: the file is named for it."""

  name: str | None
  band: geotiff.Band
  header: geotiff.Header
  alone: bool

  @property
  def key(self) -> str:
    return (self.name or "").casefold()

  @property
  def pixel(self) -> float:
    return abs(self.header.grid.transform.a) if self.header.grid else np.inf


def scan_folder(path, *, roles: Sequence[str], sensor: str = "auto", drivers=geotiff.DRIVERS) -> ScanResult:
  """The scenes in a folder and below; headers are read, no pixels.

  A file of several named bands is a scene. Files of one band make a scene together where their names differ in nothing
  but the band (of several resolutions of a band the finest counts); so does a quality band beside a file of several,
  IMAGE.tif and IMAGE_SCL.tif. Chips that this project cut are passed over.

  Args:
    path: folder.
    roles: band roles that a scene must hold.
    sensor: "auto" (what tags or the product's name say, else floating-point reflectance) or a key of `sensors.SENSORS`.
    drivers: GDAL drivers that may open files, out of GTiff, JP2OpenJPEG and VRT.

  Raises:
    SceneError: no such folder. SensorError: unknown role or sensor.
  """
  root, roles = pathlib.Path(path), sensors.check_roles(roles)
  if not root.is_dir():
    raise SceneError(f"{root}: no such folder; imagery is searched for in a folder of GeoTIFFs")
  if sensor != "auto":
    sensors.get_sensor(sensor)
  groups, rejected = _groups(root, drivers)
  scenes = {}
  for common, layers in (apart for group in sorted(groups.items()) for apart in _apart(*group)):
    name = common.relative_to(root).as_posix() if common != root else root.resolve().name
    try:
      if name in scenes:
        raise SceneError(f"another scene is called {name!r} already; rename one of them")
      scenes[name] = _scene(name, common, layers, roles, sensor)
    except UserError as err:
      files = {layer.band.path for layer in layers}
      rejected[min(files) if len(files) == 1 else f"{common}*"] = (
        str(err) if _is_imagery(layers, roles) else NO_WANTED_BAND
      )
  return ScanResult(tuple(scenes[name] for name in sorted(scenes)), rejected)


def join_files(paths: Sequence, *, roles: Sequence[str], sensor: str = "auto", drivers=geotiff.DRIVERS) -> Scene:
  """The scene that files make together, one band each or several, told by their names or by those of their bands.

  They need not lie anywhere; then the scene has no footprint.

  Args: as `scan_folder`.

  Raises:
    UserError: a file that cannot be read, a role without a band, or files that do not belong together.
  """
  layers, stems = [], []
  for path in map(pathlib.Path, paths):
    (folder, stem), found = _layers(path, geotiff.read_header(path, drivers=drivers))
    layers, stems = layers + found, [*stems, stem.rstrip("._-")]
  common = folder / (os.path.commonprefix(stems).rstrip("._-") or folder.resolve().name)
  placed = all(layer.header.grid for layer in layers)
  return _scene(common.name, common, layers, sensors.check_roles(roles), sensor, placed=placed)


def _groups(root: pathlib.Path, drivers) -> tuple[dict, dict[str, str]]:
  """(what `_layers` says files have in common -> their bands, why the others were left)."""
  groups, chips, rejected = collections.defaultdict(list), collections.defaultdict(list), {}
  for file in sorted(p for p in root.rglob("*") if p.suffix.lower() in suffixes(drivers) and p.is_file()):
    try:
      header = geotiff.read_header(file, drivers=drivers)
    except geotiff.GeoTiffError as err:
      rejected[str(file)] = str(err)
      continue
    if products.CHIP_TAG in header.tags:
      chips[file.parent].append(file)
      continue
    together, layers = _layers(file, header)
    groups[together] += layers
  for folder, cut in chips.items():  # Told once: there may be thousands.
    rejected[str(cut[0] if len(cut) == 1 else folder / "*")] = CHIP + (f" ({len(cut)} files)" if len(cut) > 1 else "")
  return groups, rejected


def _layers(file: pathlib.Path, header: geotiff.Header) -> tuple[tuple[pathlib.Path, str], list[_Layer]]:
  """((folder, start of the name) that the files of its scene have in common, the file's bands)."""
  folder = file.parent.parent if _RESOLUTION_FOLDER.fullmatch(file.parent.name) else file.parent
  match = _BAND_NAME.fullmatch(file.stem) if header.count == 1 else None
  if match:
    return (folder, match["stem"] or ""), [_Layer(match["band"], geotiff.Band(str(file), 1), header, alone=True)]
  names = enumerate(header.descriptions, start=1)
  return (folder, file.stem), [_Layer(name, geotiff.Band(str(file), i), header, alone=False) for i, name in names]


def _apart(together: tuple[pathlib.Path, str], layers: Sequence[_Layer]) -> Iterator[tuple[pathlib.Path, list[_Layer]]]:
  """A group as it is; or, where whole images differ only in their suffix, each with the single bands beside it."""
  images = sorted({layer.band.path for layer in layers if not layer.alone})
  if len(images) < 2:
    yield pathlib.Path(*together), list(layers)
    return
  for path in images:
    yield pathlib.Path(path), [layer for layer in layers if layer.alone or layer.band.path == path]


def _scene(
  name: str, common: pathlib.Path, layers: Sequence[_Layer], roles, sensor: str, *, placed: bool = True
) -> Scene:
  """The scene that these bands make; UserError says why they make none."""
  product = next((part for part in reversed(common.resolve().parts) if products.is_product(part)), "")
  finest = {}
  for layer in layers:
    finest[layer.key] = min(layer.pixel, finest.get(layer.key, np.inf))
  layers = [layer for layer in layers if layer.pixel == finest[layer.key]]
  quality = next(((layer.key, layer.band) for layer in layers if layer.key in products.QUALITY), None)
  used, chosen = _choose_bands([layer for layer in layers if layer.key not in products.QUALITY], roles, sensor, product)
  tags = {key.upper(): value for layer in used.values() for key, value in layer.header.tags.items()}
  return Scene(
    id=name,
    bands=tuple((role, used[role].band) for role in sensors.ROLES if role in used),
    sensor=chosen,
    quality=quality,
    footprint=_common_footprint(used.values()) if placed else shapely.Polygon(),
    date=products.date_of(common.name, product, *(tags.get(key, "") for key in _DATE_TAGS)),
    cloud_share=_cloud_share(tags),
  )


def _choose_bands(image: Sequence[_Layer], roles, wanted: str, product: str) -> tuple[dict[str, _Layer], str]:
  """(role -> band, key of the sensor or "auto"); how bands of no wanted role are encoded does not count."""
  names = [layer.name for layer in image]
  words = _choose_words(image, wanted, product)
  try:
    indices = sensors.find_bands(names, roles, sensors.get_sensor(words))
  except sensors.SensorError:
    for layer in image:  # An encoding nobody knows explains names nobody knows.
      _choose_sensor(wanted, product, layer)
    raise
  used = {role: image[i - 1] for role, i in zip(roles, indices, strict=True)}
  found = sorted({_choose_sensor(wanted, product, layer) for layer in used.values()})
  own = sensors.get_sensor("reflectance" if found[0] == "auto" else found[0])
  if len(found) > 1 or sensors.find_bands(names, roles, own) != indices:
    raise SceneError(
      f"files that belong together by name are encoded differently: {sorted({*found, words})}; keep them in two folders"
    )
  return used, found[0]


def _choose_words(image: Sequence[_Layer], wanted: str, product: str) -> str:
  """Key of the sensor in whose words bands are named: as told by the user, by the product or by most of the tags."""
  integers = [layer for layer in image if np.dtype(layer.header.dtype).kind != "f"]
  if wanted != "auto" or not integers:  # Products hold integers: what became of one was decoded, and kept its name.
    return "reflectance" if wanted == "auto" else wanted
  told = collections.Counter(filter(None, (sensors.identify(layer.header.tags) for layer in integers)))
  return products.sensor_of(product) or (told.most_common(1)[0][0] if told else "reflectance")


def _choose_sensor(wanted: str, product: str, layer: _Layer) -> str:
  """Key of the sensor, or "auto" where the file tells; tags, product name and the argument must not contradict."""
  header = layer.header
  if np.dtype(header.dtype).kind == "f":  # Products hold integers: what became of one was decoded, and kept its name.
    return wanted
  tagged, named = sensors.identify(header.tags), products.sensor_of(product)
  if tagged and named and tagged not in (named, "hls"):
    raise SceneError(f"its tags say {tagged!r}, the product name {product} says {named!r}; correct one of them")
  if wanted == "auto" and not (tagged or named) and header.encodings[layer.band.index - 1] != (1.0, 0.0):
    return "auto"
  if wanted == "auto" and not (tagged or named):
    raise SceneError(
      f"cannot tell the encoding of its {header.dtype} values, neither tags nor a product's name do; set --sensor to "
      f"one of {tuple(s.name for s in sensors.SENSORS.values() if s.scale != 1)}"
    )
  sensors.resolve_sensor(wanted, dtype=header.dtype, tags=header.tags if tagged else _tags_of(product, named))
  return named or tagged if wanted == "auto" else wanted


def _tags_of(product: str, named: str | None) -> dict[str, str]:
  """A product's name as the tags that say the same."""
  kind = {"hls_l30": "LANDSAT_PRODUCT_ID", "landsat_c2_l2": "LANDSAT_PRODUCT_ID"}.get(named, "PRODUCT_URI")
  return {kind: product} | ({"HLS_PROCESSING_TIME": ""} if (named or "").startswith("hls") else {})


def _is_imagery(layers: Sequence[_Layer], roles) -> bool:
  """Whether someone may have meant these bands as imagery: a wanted name in any sensor's words, or no names at all."""
  names = [layer.name for layer in layers]
  if len(layers) > 1 and not any(names):
    return layers[0].header.dtype != "uint8"  # Else a picture.
  known = sensors.SENSORS.values()
  return any(products.plays(name, role, sensor) for name in filter(None, names) for role in roles for sensor in known)


def _common_footprint(layers: Iterable[_Layer]) -> shapely.Geometry:
  places = {layer.header.grid for layer in layers}
  if any(grid is None or grid.transform == affine.Affine.identity() for grid in places):
    raise SceneError(
      "no reference system and place on the ground, or rows that are not north up; georeference or warp it (gdalwarp)"
    )
  common = functools.reduce(shapely.intersection, sorted(map(footprint, places), key=lambda g: g.wkb))
  if not common.area:
    raise SceneError("its bands lie in different places; files that belong together by name must overlap")
  return common


def _cloud_share(tags: Mapping[str, str]) -> float | None:
  for key in _CLOUD_TAGS:
    if re.fullmatch(r"\s*\d+(\.\d*)?\s*", tags.get(key, "")) and float(tags[key]) <= 100:
      return float(tags[key]) / 100
  return None
