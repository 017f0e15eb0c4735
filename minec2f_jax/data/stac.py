"""Scenes from STAC items: files, folders of files, or the answer of a STAC API.

Items of the usual catalogues are understood: Sentinel-2 (Earth Search, Planetary Computer, Copernicus), Landsat
Collection 2 Level-2, HLS. No pixel and no header is read; what an item says of its bands and their encoding must agree
with itself, or the item is refused. Needs the extra `stac`.
"""

import http.client
import importlib
import json
import os
import pathlib
import textwrap
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Sequence

import shapely

from minec2f_jax.data import geotiff, lonlat, scenes, sensors, stac_bands
from minec2f_jax.data.stac_bands import StacError
from minec2f_jax.errors import UserError

_REMOTE = ("http", "https", "s3")


def read_items(
  sources,
  *,
  roles: Sequence[str],
  sensor: str = "auto",
  drivers: Sequence[str] = geotiff.DRIVERS,
  allow_remote: bool = False,
) -> scenes.ScanResult:
  """The scenes of STAC items, by id.

  Args:
    sources: path or address, or several: an item, an item collection, or a folder with such files in it or below.
    roles: band roles that a scene must hold.
    sensor: "auto" (what the item says) or a key of `sensors.SENSORS`, which settles an item that contradicts itself.
    drivers: GDAL drivers that will read the assets; "JP2OpenJPEG" admits .jp2.
    allow_remote: whether sources and assets may be addresses (https://, s3://) instead of files.

  Raises:
    StacError: the extra is missing, or a source is neither item nor item collection. SensorError: unknown role, sensor.
  """
  _import("pystac")  # Or its absence would be told of every item.
  given = [os.fspath(s) for s in ([sources] if isinstance(sources, str | os.PathLike) else sources)]
  items, rejected = [], {}
  for source in (file for name in given for file in _files_of(name)):
    try:
      for place, content in _contents(source, allow_remote, named=source in given):
        try:
          items.append((_item(content), source))
        except StacError as err:
          rejected[place] = str(err)
    except StacError as err:
      if source in given:
        raise
      rejected[source] = str(err)
  found = _to_scenes(items, roles, sensor, drivers, allow_remote)
  return scenes.ScanResult(found.scenes, {**rejected, **found.rejected})


def search(
  url: str,
  *,
  collections: Sequence[str],
  roles: Sequence[str],
  bbox: Sequence[float] | None = None,
  datetime: str | None = None,
  query=None,
  max_items: int | None = None,
  sensor: str = "auto",
  drivers: Sequence[str] = geotiff.DRIVERS,
) -> scenes.ScanResult:
  """The scenes that a STAC API finds; reading them needs `allow_remote`, too.

  Args:
    url: of the API.
    collections, bbox, datetime, query, max_items: as in pystac_client.Client.search.
    roles, sensor, drivers: as in `read_items`.

  Raises:
    StacError: the extra is missing, or the API does not answer as one.
  """
  client = _import("pystac_client")
  try:
    found = client.Client.open(url).search(
      collections=list(collections), bbox=bbox, datetime=datetime, query=query, max_items=max_items
    )
    items = [(item, item.get_self_href() or url) for item in found.items()]
  except (OSError, ValueError, KeyError, client.exceptions.APIError, _import("pystac").STACError) as err:
    said = textwrap.shorten(f"{type(err).__name__}: {err}", 200)  # An error page is long.
    raise StacError(f"{url}: no answer of a STAC API ({said}); check address and query") from err
  return _to_scenes(items, roles, sensor, drivers, allow_remote=True)


def _import(name: str):
  try:
    return importlib.import_module(name)
  except ImportError as err:
    raise StacError(f"STAC items need the package {name!r}: pip install -e '.[stac]'") from err


def _files_of(source: str) -> list[str]:
  if not os.path.isdir(source):
    return [source]
  return sorted(str(p) for p in pathlib.Path(source).rglob("*") if p.suffix.lower() in (".json", ".geojson"))


def _contents(source: str, allow_remote: bool, *, named: bool) -> Iterator[tuple[str, dict]]:
  """(place, item as JSON) of a file or address; other JSON is an error only where it is `named` itself."""
  content = _read_json(source, allow_remote)
  kind = content.get("type") if isinstance(content, dict) else type(content).__name__
  if kind not in ("Feature", "FeatureCollection") and named:
    raise StacError(f"{source}: of type {kind!r}; give items, item collections, or the folder of a static catalogue")
  many = (content.get("features") or ()) if kind == "FeatureCollection" else ()
  items = {source: content} if kind == "Feature" else {f"{source}, item {i}": item for i, item in enumerate(many)}
  for place, item in items.items():
    if named or not isinstance(item, dict) or "stac_version" in item:  # Polygons are features, too.
      yield place, item


def _read_json(source: str, allow_remote: bool):
  remote = urllib.parse.urlsplit(source).scheme in _REMOTE
  if remote and not allow_remote:
    raise StacError(f"{source}: an address; allow it with --allow_remote, or download the item")
  try:
    with urllib.request.urlopen(source, timeout=60) if remote else open(source, "rb") as file:
      return json.load(file)
  except (OSError, ValueError, http.client.HTTPException) as err:
    raise StacError(f"{source}: not readable as JSON ({type(err).__name__}: {err}); check the path") from err


def _item(content: dict):
  pystac = _import("pystac")
  try:
    return pystac.Item.from_dict(content)
  except (pystac.STACError, AttributeError, KeyError, TypeError, ValueError) as err:
    raise StacError(f"not a STAC item ({type(err).__name__}: {err}); correct it or leave it out") from err


def _to_scenes(items: Iterable, roles, sensor: str, drivers, allow_remote: bool) -> scenes.ScanResult:
  """Scenes of (item, file or address it came from)."""
  roles, found, rejected = sensors.check_roles(roles), {}, {}
  if sensor != "auto":
    sensors.get_sensor(sensor)
  for item, base in items:
    try:
      scene = _scene(item, base, roles, sensor, drivers, allow_remote)
      if scene != found.setdefault(item.id, scene):
        raise StacError("another item has the same id and other content; leave one of them out")
    except UserError as err:
      rejected[f"{base}, item {item.id}"] = str(err)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as err:  # Fields of any type, from anybody.
      rejected[f"{base}, item {item.id}"] = f"not as STAC defines it ({type(err).__name__}: {err}); correct the item"
  return scenes.ScanResult(tuple(found[name] for name in sorted(found)), rejected)


def _scene(item, base: str, roles, wanted: str, drivers, allow_remote: bool) -> scenes.Scene:
  bands = stac_bands.bands_of(item, drivers)
  claimed, reason = stac_bands.claimed_sensor(item)
  known = wanted if wanted != "auto" else claimed or "reflectance"
  used = stac_bands.choose_bands(item, bands, roles, sensors.get_sensor(known))
  sensor = stac_bands.choose_sensor(wanted, claimed, reason, used)
  quality = min((b for b in bands if stac_bands.quality_kind(b)), key=lambda b: b.order, default=None)
  cloud = item.properties.get("eo:cloud_cover")
  start = item.datetime or item.common_metadata.start_datetime

  def opened(band):
    return geotiff.Band(_readable(band.href, base, allow_remote), band.index)

  return scenes.Scene(
    id=item.id,
    bands=tuple((role, opened(used[role])) for role in sensors.ROLES if role in used),
    sensor=sensor,
    quality=quality and (stac_bands.quality_kind(quality), opened(quality)),
    footprint=_footprint(item),
    date=start.date().isoformat() if start else "",
    cloud_share=float(cloud) / 100 if isinstance(cloud, int | float) and 0 <= cloud <= 100 else None,
  )


def _footprint(item) -> shapely.Geometry:
  try:
    shape = shapely.geometry.shape(item.geometry) if item.geometry else _box(item.bbox)
    shape = shapely.make_valid(shape)
  except (TypeError, ValueError, AttributeError, shapely.errors.ShapelyError) as err:
    raise StacError(f"its geometry cannot be read ({type(err).__name__}: {err}); correct the item") from err
  if not shape.area:
    raise StacError("its geometry has no area; correct the item")
  return shape


def _box(bbox: Sequence[float]) -> shapely.Geometry:
  """STAC's [west, south, east, north], or with heights [west, south, low, east, north, high]."""
  half = len(bbox) // 2
  return lonlat.box(*bbox[:2], *bbox[half : half + 2])


def _readable(href: str, base: str, allow_remote: bool) -> str:
  """The path under which `geotiff` opens an asset's href, taken relative to the file or address of its item."""
  whole = _import("pystac").utils.make_absolute_href(href, base)
  scheme = urllib.parse.urlsplit(whole).scheme
  if scheme in _REMOTE and not allow_remote:
    raise StacError(f"asset {whole} is remote; allow it with --allow_remote, or download it")
  if scheme in ("http", "https"):
    return f"/vsicurl/{whole}"
  if scheme == "s3":
    return f"/vsis3/{whole.removeprefix('s3://')}"
  if scheme == "file":
    whole = urllib.request.url2pathname(urllib.parse.urlsplit(whole).path)
  if scheme not in ("", "file") or whole.startswith("/vsi"):
    raise StacError(f"asset {href}: only files and addresses that begin with https:// or s3:// can be read")
  return whole
