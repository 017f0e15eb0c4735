"""What the numbers of an image file mean: band roles, sensor encodings, normalisation.

The network sees surface reflectance by band *role* ("red", "nir", ...), never by band number. A
`Sensor` says how one product names its bands and encodes reflectance. Nothing is guessed: a band
that cannot be told, or an integer encoding nobody named, is refused (mixing Sentinel-2 baselines,
for one, silently shifts every band by 0.1).
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from minec2f_jax.errors import UserError

ROLES = ("blue", "green", "red", "nir", "swir1", "swir2")

# Atmospheric correction gives slightly negative values; glint, snow and clouds pass 1. Values
# beyond these are in another unit.
PLAUSIBLE_REFLECTANCE = (-0.2, 2.0)
# What the mean of a band over a window can be, whatever is there: deep water in SWIR, fresh snow.
PLAUSIBLE_MEAN = (-0.05, 1.5)


class SensorError(UserError):
  """A band or an encoding that cannot be told; the message names what was seen and the remedy."""


@dataclasses.dataclass(frozen=True)
class Sensor:
  """One product's band names and encoding: reflectance = scale * dn + offset.

  Attributes:
    name: registry key, the value of `config.data.sensor`.
    scale: reflectance per digital number.
    offset: reflectance at digital number 0.
    band_names: role -> names a file may give that band, besides the role itself.
    fallback_names: role -> names accepted only where no name of `band_names` is present.
    fill: digital number that the product writes where it saw nothing, declared as nodata or not.
    limits: lowest and highest believable reflectance, where nobody named the sensor.
  """

  name: str
  scale: float
  offset: float
  band_names: Mapping[str, tuple[str, ...]]
  fallback_names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  fill: float | None = None
  limits: tuple[float, float] | None = None


def _numbered(*names):
  return {role: (name,) for role, name in zip(ROLES, names, strict=True)}


_SENTINEL2 = _numbered("B2", "B3", "B4", "B8", "B11", "B12")
_NARROW_NIR = {"nir": ("B8A",)}  # 20 m; the 10 m B8 is preferred.
_HLS_SHARED = {"blue": ("B2",), "green": ("B3",), "red": ("B4",), "nir": ("nir_narrow",)}

SENSORS = {
  s.name: s
  for s in (
    # The two generic encodings read Sentinel-2 numbers (B2..B4 are the same on Landsat 8/9; other
    # Landsat numbers are not: name those bands by role, or name the sensor).
    Sensor("reflectance", 1.0, 0.0, _SENTINEL2, _NARROW_NIR),
    Sensor("reflectance_x10000", 1e-4, 0.0, _SENTINEL2, _NARROW_NIR),
    # Products reserve digital number 0 for "no data". Processing baseline >= 04.00 (from 2022-01-25) adds 1000 to
    # every other one, L1C and L2A.
    Sensor("sentinel2_l2a", 1e-4, 0.0, _SENTINEL2, _NARROW_NIR, fill=0),
    Sensor("sentinel2_l1c", 1e-4, 0.0, _SENTINEL2, _NARROW_NIR, fill=0),
    Sensor("sentinel2_l2a_baseline04", 1e-4, -0.1, _SENTINEL2, _NARROW_NIR, fill=0),
    Sensor("sentinel2_l1c_baseline04", 1e-4, -0.1, _SENTINEL2, _NARROW_NIR, fill=0),
    # OLI numbers; TM and ETM+ count differently and are not registered.
    Sensor("landsat_c2_l2", 2.75e-5, -0.2, _numbered("SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7"), fill=0),
    # B05..B07 are NIR and SWIR in L30 but red edge in S30: plain "hls" takes what both agree on.
    Sensor("hls", 1e-4, 0.0, _HLS_SHARED, fill=-9999),
    Sensor("hls_l30", 1e-4, 0.0, _numbered("B2", "B3", "B4", "B5", "B6", "B7"), fill=-9999),
    Sensor("hls_s30", 1e-4, 0.0, _numbered("B2", "B3", "B4", "B8A", "B11", "B12"), fill=-9999),
  )
}
_GENERIC = ("reflectance", "reflectance_x10000")  # Say how numbers are meant, not where they come from.
CHOICES = ("auto", *SENSORS)  # The values of `config.data.sensor`.


def check_roles(bands) -> tuple[str, ...]:
  """`bands` as a tuple of roles, in channel order; SensorError if one is unknown or stands twice, or there is none."""
  roles = tuple(bands)
  if isinstance(bands, str) or not roles or len(set(roles)) != len(roles) or not set(roles) <= set(ROLES):
    raise SensorError(f"config.data.bands={bands!r} must name each band once, out of {ROLES}")
  return roles


def get_sensor(name):
  """The registered `Sensor` of that name; SensorError lists the choices."""
  if name not in SENSORS:
    raise SensorError(f"config.data.sensor={name!r} is unknown; choose one of {CHOICES}")
  return SENSORS[name]


def _key(name):
  """Band name as compared: "B02", "b2" and "B_2" are one, "B8A" and "B8" are two."""
  key = re.sub(r"[\s_\-.]", "", (name or "").casefold())
  return re.sub(r"(?<=b)0+(?=\d)", "", key)


def find_bands(descriptions: Sequence[str | None], roles: Sequence[str], sensor: Sensor):
  """1-based indices of the bands that play `roles`, found by name, never by position.

  Args:
    descriptions: the file's band names in file order; None or "" where a band has none.
    roles: wanted roles, in the wanted channel order.
    sensor: whose band names to expect; the role names themselves are always understood.

  Returns:
    Tuple of int, one per role. Bands that play no wanted role may have any name or none.

  Raises:
    SensorError: a role without a band, or with two.
  """
  keys = [_key(name) for name in descriptions]

  def matches(names):
    wanted = {_key(name) for name in names}
    return [i for i, key in enumerate(keys, start=1) if key in wanted]

  found = {
    role: matches((role, *sensor.band_names.get(role, ()))) or matches(sensor.fallback_names.get(role, ()))
    for role in roles
  }
  seen = ", ".join(f"{i}={name!r}" for i, name in enumerate(descriptions, start=1))
  missing = [role for role in roles if not found[role]]
  if missing and not any(keys):
    raise SensorError(
      f"none of the {len(keys)} bands has a name, so {list(roles)} cannot be told "
      "apart; write band descriptions (rasterio: dst.set_band_description)"
    )
  if missing:
    expected = {
      role: (role, *sensor.band_names.get(role, ()), *sensor.fallback_names.get(role, ())) for role in missing
    }
    raise SensorError(
      f"no band for {missing}: seen {seen}; sensor {sensor.name!r} looks for "
      f"{expected}. Correct the band descriptions or config.data.sensor, or ask for fewer "
      "bands with config.data.bands"
    )
  double = {role: indices for role, indices in found.items() if len(indices) > 1}
  if double:
    raise SensorError(f"more than one band for a role, {double}: seen {seen}. Keep one of them")
  return tuple(found[role][0] for role in roles)


def identify(tags: Mapping[str, str]) -> str | None:
  """Key of the sensor that a file's or product's metadata name beyond doubt, else None.

  Understood are the metadata of Sentinel-2 products as GDAL hands them on (PRODUCT_TYPE or PROCESSING_LEVEL or
  PRODUCT_URI, with PROCESSING_BASELINE), of Landsat Collection 2 (LANDSAT_PRODUCT_ID) and of HLS (which keeps either
  of its sources beside HLS_PROCESSING_TIME).
  """
  said = {key.upper(): str(value).upper() for key, value in tags.items()}
  everything = " ".join(said.values())
  landsat = said.get("LANDSAT_PRODUCT_ID", "")
  if "HLS_PROCESSING_TIME" in said:
    return "hls_l30" if landsat else "hls_s30" if said.get("PRODUCT_URI") else "hls"
  if re.match(r"L[CO]0[89]_L2S[PR]_.*_02_", landsat):
    return "landsat_c2_l2"
  level = re.search(r"S2MSI(1C|2A)|MSIL(1C|2A)|LEVEL-(1C|2A)", everything)
  baseline = re.fullmatch(r"\s*(\d\d)[.](\d\d)\s*", said.get("PROCESSING_BASELINE", "")) or re.search(
    r"MSIL(?:1C|2A)_\w+?_N(\d\d)(\d\d)_", everything
  )
  if not level or not baseline or baseline[1] == "99":  # Sen2Cor at home writes 99.99, with the offset or without.
    return None
  kind = f"sentinel2_l{next(filter(None, level.groups())).lower()}"
  return kind + ("_baseline04" if int(baseline[1]) >= 4 else "")


def resolve_sensor(name, *, dtype, tags=None, value_range=None, scales=(), offsets=()) -> Sensor:
  """The `Sensor` to decode a file with, or a refusal where that would be a guess.

  "auto" takes integers as what the file's own metadata say (see `identify`; or scale and offset tags), floating-point
  values as reflectance, and nothing else.

  Args:
    name: "auto" or a key of `SENSORS`.
    dtype: the file's dtype.
    tags: the file's metadata.
    value_range: (min, max) of its valid values, for the message; None where none is valid or none was read yet.
    scales: the file's own scale tags, one a wanted band; 1 and 0 mean untagged.
    offsets: likewise.

  Raises:
    SensorError: unknown name, integers whose meaning nobody told, or metadata that contradict the sensor.
  """
  kind = np.dtype(dtype).kind
  identified = identify(tags or {})
  seen = f"dtype {np.dtype(dtype).name}, values {_span(value_range)}"
  remedy = f"set config.data.sensor to one of {tuple(s.name for s in SENSORS.values() if kind == 'f' or s.scale != 1)}"
  if kind not in "iuf":
    raise SensorError(f"{seen}: only integer and floating-point images hold reflectance")
  told = set(zip(scales, offsets, strict=True)) - {(1.0, 0.0)}
  if any(not scale > 0 for scale, _ in told):
    raise SensorError(f"{seen}: scale tags {sorted(scales)} are no scales; {remedy}, and correct the tags")
  if name != "auto":
    sensor = get_sensor(name)
  elif kind == "f":
    sensor = dataclasses.replace(SENSORS["reflectance"], limits=PLAUSIBLE_REFLECTANCE)
  elif identified:
    sensor = SENSORS[identified]
  elif len(told) == 1 and (1.0, 0.0) not in zip(scales, offsets):
    (scale, offset), *_ = told
    sensor = dataclasses.replace(SENSORS["reflectance"], name="tagged", scale=scale, offset=offset)
  else:
    raise SensorError(f"{seen}: integers do not tell their scale and offset; {remedy}")
  if sensor.scale == 1.0 and kind != "f":
    raise SensorError(f"{seen}: integers cannot hold sensor {sensor.name!r} (0..1); {remedy}")
  if sensor.scale < 1e-3 and np.dtype(dtype).itemsize == 1:
    raise SensorError(f"{seen}: 8 bits cannot hold sensor {sensor.name!r}; is it a picture? Give the measurements")
  # A float file may have been decoded already, and keep the metadata of what it came from.
  if identified and kind != "f" and not _compatible(sensor.name, identified):
    raise SensorError(f"the file's metadata say {identified!r}, config.data.sensor says {name!r}; correct one of them")
  for tag in told:
    if not np.allclose(tag, (sensor.scale, sensor.offset), rtol=1e-6, atol=1e-9):
      raise SensorError(
        f"the file's tags say scale, offset = {tag}, sensor {sensor.name!r} says "
        f"{(sensor.scale, sensor.offset)}; {remedy}, or correct the tags"
      )
  return sensor


def _compatible(named: str, identified: str) -> bool:
  """Whether a sensor somebody names may be the one that the metadata name, which say "hls" of either of its halves."""
  return named in (identified, *_GENERIC) or "hls" in (named, identified) and named[:3] == identified[:3]


def check_plausible(sensor: Sensor, stored, reflectance, valid):
  """Raises SensorError if one band cannot be what `sensor` saw; that encodings were mixed up shows in most cases.

  Args:
    sensor: that decoded it.
    stored: [H, W] values of the file.
    reflectance: [H, W] the same decoded.
    valid: [H, W] bool; all False is fine.
  """
  if not valid.any():
    return
  remedy = f"set config.data.sensor to another of {tuple(SENSORS)}"
  if sensor.limits:
    low, high = sensor.limits
    value_range = (float(stored.min(where=valid, initial=np.inf)), float(stored.max(where=valid, initial=-np.inf)))
    if not low <= value_range[0] <= value_range[1] <= high:
      raise SensorError(f"values {_span(value_range)}: not reflectance, which lies in [{low}, {high}]; {remedy}")
  if stored.dtype.kind == "f" and sensor.scale < 1e-3:
    top = float(stored.max(where=valid, initial=-np.inf))
    if top <= PLAUSIBLE_REFLECTANCE[1]:
      raise SensorError(f"values up to {top:g} are reflectance already, not those of {sensor.name!r}; {remedy}")
  mean = float(reflectance.mean(where=valid, dtype=np.float64))
  if not PLAUSIBLE_MEAN[0] <= mean <= PLAUSIBLE_MEAN[1]:
    raise SensorError(
      f"mean reflectance {mean:.3g} as sensor {sensor.name!r}, which lies in {list(PLAUSIBLE_MEAN)} anywhere; {remedy}"
    )


def _span(value_range):
  if value_range is None:
    return "none valid or none read"
  return f"{value_range[0]:g}..{value_range[1]:g}"


def to_reflectance(dn, sensor: Sensor):
  """Reflectance (top of atmosphere for L1C) of digital numbers: float32, same shape, unclipped."""
  reflectance = np.array(dn, np.float32)
  reflectance *= np.float32(sensor.scale)
  reflectance += np.float32(sensor.offset)
  return reflectance


def normalize(image, valid, *, mean, std):
  """(image - mean) / std per channel where valid, 0 elsewhere; NumPy in NumPy out, JAX in JAX out.

  Args:
    image: [..., H, W, C] float reflectance; anything, NaN too, where not valid.
    valid: [..., H, W] bool, of the same array library.
    mean: C floats, reflectance.
    std: C floats, > 0, reflectance.

  Returns:
    [..., H, W, C], the image's dtype.
  """
  if not image.shape[-1] == len(mean) == len(std):
    raise ValueError(
      f"image has {image.shape[-1]} channels, but mean {len(mean)} and std "
      f"{len(std)} values; the statistics must follow config.data.bands"
    )
  xp = image.__array_namespace__()
  mean, std = xp.asarray(mean, dtype=image.dtype), xp.asarray(std, dtype=image.dtype)
  return xp.where(valid[..., None], (image - mean) / std, xp.zeros_like(image))
