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
  """

  name: str
  scale: float
  offset: float
  band_names: Mapping[str, tuple[str, ...]]
  fallback_names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


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
    Sensor("sentinel2_l2a", 1e-4, 0.0, _SENTINEL2, _NARROW_NIR),
    Sensor("sentinel2_l1c", 1e-4, 0.0, _SENTINEL2, _NARROW_NIR),
    # Processing baseline >= 04.00 (from 2022-01-25) adds 1000 to every digital number, L1C and L2A.
    Sensor("sentinel2_baseline04", 1e-4, -0.1, _SENTINEL2, _NARROW_NIR),
    # OLI numbers; TM and ETM+ count differently and are not registered.
    Sensor("landsat_c2_l2", 2.75e-5, -0.2, _numbered("SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7")),
    # B05..B07 are NIR and SWIR in L30 but red edge in S30: plain "hls" takes what both agree on.
    Sensor("hls", 1e-4, 0.0, _HLS_SHARED),
    Sensor("hls_l30", 1e-4, 0.0, _numbered("B2", "B3", "B4", "B5", "B6", "B7")),
    Sensor("hls_s30", 1e-4, 0.0, _numbered("B2", "B3", "B4", "B8A", "B11", "B12")),
  )
}
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


def resolve_sensor(name, *, dtype, value_range=None, scales=(), offsets=()):
  """The `Sensor` to decode a file with, or a refusal where that would be a guess.

  "auto" takes floating-point values within `PLAUSIBLE_REFLECTANCE` as reflectance and nothing else.

  Args:
    name: "auto" or a key of `SENSORS`.
    dtype: the file's dtype.
    value_range: (min, max) of its valid values, or None where none is valid or none was read yet.
    scales: the file's own scale tags, one a wanted band; 1 and 0 mean untagged.
    offsets: likewise.

  Returns:
    A `Sensor`.

  Raises:
    SensorError: unknown name, integers without a named sensor, implausible floats, or tags that
      contradict the sensor.
  """
  seen = f"dtype {np.dtype(dtype).name}, values {_span(value_range)}"
  kind = np.dtype(dtype).kind
  choices = tuple(s.name for s in SENSORS.values() if kind == "f" or s.scale != 1.0)
  remedy = f"set config.data.sensor to one of {choices}"
  if kind not in "iuf":
    raise SensorError(f"{seen}: only integer and floating-point images hold reflectance")
  if name == "auto":
    if kind != "f":
      raise SensorError(f"{seen}: integers do not tell their scale and offset; {remedy}")
    low, high = PLAUSIBLE_REFLECTANCE
    if value_range is not None and not low <= value_range[0] <= value_range[1] <= high:
      raise SensorError(f"{seen}: not reflectance, which lies in [{low}, {high}]; {remedy}")
  sensor = SENSORS["reflectance"] if name == "auto" else get_sensor(name)
  if sensor.scale == 1.0 and kind != "f":
    raise SensorError(f"{seen}: integers cannot hold sensor {sensor.name!r} (0..1); {remedy}")
  for tag in set(zip(scales, offsets, strict=True)) - {(1.0, 0.0)}:
    if not np.allclose(tag, (sensor.scale, sensor.offset), rtol=1e-6, atol=1e-9):
      raise SensorError(
        f"the file's tags say scale, offset = {tag}, sensor {sensor.name!r} says "
        f"{(sensor.scale, sensor.offset)}; {remedy}, or correct the tags"
      )
  return sensor


def _span(value_range):
  if value_range is None:
    return "none valid or none read"
  return f"{value_range[0]:g}..{value_range[1]:g}"


def to_reflectance(dn, sensor: Sensor):
  """Reflectance (top of atmosphere for L1C) of digital numbers: float32, same shape, unclipped."""
  return np.asarray(dn, np.float32) * np.float32(sensor.scale) + np.float32(sensor.offset)


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
