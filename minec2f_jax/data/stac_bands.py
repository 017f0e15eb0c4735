"""What a STAC item says of its bands and how they are encoded; it must agree with itself."""

import dataclasses
import math
import pathlib
import re
import urllib.parse
from collections.abc import Mapping, Sequence

import numpy as np

from minec2f_jax.data import products, scenes, sensors
from minec2f_jax.errors import UserError

# Assets of 8 bits to look at; they list the bands that they were made of.
_PICTURE = re.compile(r"(visual|tci|overview|thumbnail|preview|rendered_preview)([-_].*)?", re.IGNORECASE)
_QUALITY_KEY = re.compile(rf"({'|'.join(products.QUALITY)})([-_](10m|20m|60m|jp2))*", re.IGNORECASE)


class StacError(UserError):
  """A STAC source or item that cannot be used; the message names it, what was seen and the remedy."""


@dataclasses.dataclass(frozen=True)
class AssetBand:
  """One band of an asset, as the item describes it."""

  names: tuple[str, ...]
  common: str
  href: str
  index: int
  gsd_m: float
  encoding: tuple[float, float] | None  # (scale, offset)
  dtype: str

  @property
  def order(self):
    """The finest first; among equals GeoTIFF before JPEG 2000, which is slow to read in windows."""
    return self.gsd_m, suffix_of(self.href) == ".jp2", self.href, self.index


def bands_of(item, drivers) -> list[AssetBand]:
  """All bands of all assets that may hold measurements and that the drivers open."""
  bands = []
  for key, asset in item.assets.items():
    if suffix_of(asset.href) not in scenes.suffixes(drivers) or any(
      map(_PICTURE.fullmatch, (key, *(asset.roles or ())))
    ):
      continue
    fields = asset.extra_fields
    described = fields.get("bands") or fields.get("eo:bands") or [{}]  # STAC 1.1 and 1.0.
    for index, band in enumerate(described, start=1):
      raster = dict(enumerate(fields.get("raster:bands") or (), start=1)).get(index, {})
      told = {**item.properties, **fields, **raster, **band}
      scale, offset = (told.get(f"raster:{name}", raster.get(name)) for name in ("scale", "offset"))
      plain = re.sub(r"[-_](10m|20m|60m|jp2)$", "", key)
      bands.append(
        AssetBand(
          names=tuple(filter(None, (band.get("name"), *([key, plain] if len(described) == 1 else [])))),
          common=band.get("eo:common_name") or band.get("common_name") or "",
          href=asset.href,
          index=index,
          gsd_m=_gsd_m(told, fields),
          encoding=None if scale is None and offset is None else (float(scale or 1), float(offset or 0)),
          dtype=str(told.get("data_type", "")),
        )
      )
  return sorted(bands, key=lambda b: b.order)


def _gsd_m(told, fields) -> float:
  transform = fields.get("proj:transform") or [math.inf]
  sizes = (told.get("raster:spatial_resolution"), told.get("spatial_resolution"), fields.get("gsd"), transform[0])
  return float(next((size for size in sizes if size), told.get("gsd") or math.inf))


def quality_kind(band: AssetBand) -> str | None:
  matches = (_QUALITY_KEY.fullmatch(name) for name in band.names)
  return next((match[1].lower() for match in matches if match), None)


def choose_bands(item, bands: Sequence[AssetBand], roles, known: sensors.Sensor) -> dict[str, AssetBand]:
  """The band of each role: by the product's own band names, then by common name, then by names that may stand in."""
  strict = dataclasses.replace(known, fallback_names={})

  def first(role):
    tests = [lambda b: _plays(b, role, strict)]
    tests += [lambda b, name=name: b.common == name or name in b.names for name in products.COMMON_NAMES[role]]
    tests += [lambda b: _plays(b, role, known)]
    return next((band for test in tests for band in bands if test(band)), None)

  found = {role: first(role) for role in roles}
  missing = [role for role, band in found.items() if band is None]
  if missing:
    seen = sorted(f"{key} ({suffix_of(asset.href) or 'no suffix'})" for key, asset in item.assets.items())
    raise StacError(f"no asset for {missing}: seen {', '.join(seen)}; .jp2 needs the driver JP2OpenJPEG")
  return found


def _plays(band: AssetBand, role: str, known: sensors.Sensor) -> bool:
  return any(products.plays(name, role, known) for name in band.names)


def claimed_sensor(item) -> tuple[str | None, str]:
  """(key of the sensor that the item's properties name or None, the properties that say so)."""
  told = item.properties
  names = " ".join(str(n) for n in (item.collection_id, item.id, told.get("s2:product_uri")) if n)
  hls = re.search(r"HLS\w*?[._-]?([LS]30)", names, re.IGNORECASE)
  if hls:
    return f"hls_{hls[1].lower()}", f"{item.collection_id or item.id}"
  landsat = products.sensor_of(item.id)
  if landsat == "landsat_c2_l2":
    return landsat, f"id={item.id}"
  platform = f"{told.get('constellation', '')} {told.get('platform', '')} {names}"
  level = re.search(
    r"(?:MSI|MSIL|\bL|_L)(1C|2A)",
    f"{told.get('s2:product_type', '')} {told.get('product:type', '')} {names}",
    re.IGNORECASE,
  )
  if not level or not re.search(r"sentinel[-_ ]?2|\bS2[A-D]_", platform, re.IGNORECASE):
    return None, ""
  return _sentinel2(level[1].upper(), told, names)


def _sentinel2(level: str, told, names: str) -> tuple[str | None, str]:
  baseline = told.get("s2:processing_baseline") or told.get("processing:baseline") or told.get("processing:version")
  written = re.search(r"_N(\d\d)(\d\d)_", names)
  if not baseline and written:
    baseline = f"{written[1]}.{written[2]}"
  applied = told.get("earthsearch:boa_offset_applied")
  reason = f"processing baseline {baseline}" + ("" if applied is None else f", boa_offset_applied={applied}")
  if applied is True:  # The digital numbers are as they were before baseline 04.00.
    baseline = "00.00"
  if not baseline or not re.fullmatch(r"\d?\d\.\d\d", str(baseline)):
    return None, ""
  return sensors.identify({"PRODUCT_TYPE": f"S2MSI{level}", "PROCESSING_BASELINE": str(baseline).zfill(5)}), reason


def choose_sensor(wanted: str, claimed: str | None, reason: str, used: Mapping[str, AssetBand]) -> str:
  """Key of the sensor, or "auto" for floating-point values.

  Args:
    wanted: "auto" or the key that the user names. It settles what the item leaves open or contradicts itself in.
    claimed: key that the item's properties name, or None.
    reason: the properties that do.
    used: the chosen bands, whose own scale and offset must agree.

  Raises:
    StacError: the encoding cannot be told, or is told differently.
  """
  declared = sorted({band.encoding for band in used.values()} - {None})
  if wanted == "auto" and claimed is None:
    if all(band.dtype.startswith("float") for band in used.values()):
      return "auto"
    raise StacError("cannot tell the encoding: platform, level and processing baseline do not; set --sensor")
  key = claimed if wanted == "auto" else wanted
  evidence = [] if claimed is None else [_same_product(key, claimed) and _encoding(key) == _encoding(claimed)]
  if declared:
    evidence.append(all(np.allclose(said, _encoding(key), rtol=1e-6, atol=1e-9) for said in declared))
  if wanted == "auto" and not all(evidence):
    # Either has been wrong (Element84/earth-search#9, #66, #71), and the wrong one shifts every band by 0.1.
    raise StacError(
      f"{reason}: means {claimed!r} with (scale, offset) {_encoding(claimed)}, but its bands say {declared}; look at "
      "the values (clear water is dark: 0.0 to 0.05) and set --sensor"
    )
  if evidence and not any(evidence) or not _same_product(key, claimed or key):
    raise StacError(
      f"--sensor={wanted} has (scale, offset) {_encoding(wanted)}, but the item says {claimed or 'nothing'} ({reason}) "
      f"and its bands {declared or 'nothing'}; correct one of them"
    )
  return key


def _same_product(wanted: str, claimed: str) -> bool:
  return wanted.startswith("reflectance") or claimed.startswith(wanted.removesuffix("_baseline04"))


def _encoding(key: str) -> tuple[float, float]:
  known = sensors.get_sensor(key)
  return known.scale, known.offset


def suffix_of(href: str) -> str:
  return pathlib.PurePosixPath(urllib.parse.urlsplit(href).path).suffix.lower()
