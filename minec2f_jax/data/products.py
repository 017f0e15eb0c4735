"""What the names and the quality bands of satellite products mean."""

import dataclasses
import datetime
import re

import numpy as np

from minec2f_jax.data import sensors
from minec2f_jax.errors import UserError

CHIP_TAG = "MINEC2F_CHIP"  # GeoTIFF tag of an image cut by this project; tells, as JSON, what it was made from.

# Role -> common names of the STAC eo extension, the preferred one first.
COMMON_NAMES = {
  "blue": ("blue",),
  "green": ("green",),
  "red": ("red",),
  "nir": ("nir", "nir08"),
  "swir1": ("swir16",),
  "swir2": ("swir22",),
}


class ProductError(UserError):
  """A product that is known, and known not to serve."""


@dataclasses.dataclass(frozen=True)
class Quality:
  """How a quality band marks clouds with their shadows, and pixels without an observation: by class or by bit."""

  cloud_classes: tuple[int, ...] = ()
  cloud_bits: tuple[int, ...] = ()
  fill_classes: tuple[int, ...] = ()
  fill_bits: tuple[int, ...] = ()


QUALITY = {
  # Sen2Cor scene classification (ESA, Sentinel-2 Level-2A definition): 3 cloud shadow, 8 and 9 cloud of medium and high
  # probability, 10 thin cirrus; 0 no data, 1 saturated or defective.
  "scl": Quality(cloud_classes=(3, 8, 9, 10), fill_classes=(0, 1)),
  # USGS LSDS-1619, Landsat 8-9 Collection 2 Level-2: bit 0 fill, 1 dilated cloud, 2 cirrus, 3 cloud, 4 cloud shadow.
  "qa_pixel": Quality(cloud_bits=(1, 2, 3, 4), fill_bits=(0,)),
  # HLS user guide v2: bit 0 cirrus, 1 cloud, 2 adjacent to cloud or shadow, 3 cloud shadow; 255 fill.
  "fmask": Quality(cloud_bits=(0, 1, 2, 3), fill_classes=(255,)),
}

_NAME = re.compile(r"S2[A-D]_MSI(?:L1C|L2A)_|L[COTEM]\d\d_L\d\w\w_|HLS\.[LS]30\.")
# Of a product's several dates the first is that of the acquisition.
_DATES = (
  (r"(?<!\d)(\d{8})T\d{6}", "%Y%m%d"),
  (r"(?<!\d)(\d{7})T\d{6}", "%Y%j"),
  (r"(?<!\d)(\d{8})(?!\d)", "%Y%m%d"),
  (r"(?<!\d)(\d{4}-\d\d-\d\d)", "%Y-%m-%d"),
)


def is_product(name: str) -> bool:
  """Whether a file or folder is named as Sentinel-2, Landsat and HLS products are."""
  return _NAME.search(name) is not None


def sensor_of(name: str) -> str | None:
  """Key of the sensor that a product's name stands for, None if it does not tell; ProductError if it cannot serve."""
  hls = re.search(r"HLS\.([LS]30)\.", name)
  if hls:
    return f"hls_{hls[1].lower()}"
  landsat = re.search(r"L[COTEM]\d\d_L\d\w\w_\w+", name)
  if landsat:
    key = sensors.identify({"LANDSAT_PRODUCT_ID": landsat[0]})
    if key is None:
      raise ProductError(
        f"product {landsat[0]}: of Landsat only Collection 2, Level 2 of Landsat 8 and 9 is known (TM and ETM+ count "
        "their bands otherwise); write its reflectance to a file of another name, with bands named by role"
      )
    return key
  return sensors.identify({"PRODUCT_URI": name})


def plays(name: str, role: str, sensor: sensors.Sensor) -> bool:
  """Whether a band of this name plays the role in a sensor's words."""
  try:
    return bool(sensors.find_bands([name], [role], sensor))
  except sensors.SensorError:
    return False


def role_of(name: str, sensor: sensors.Sensor) -> str | None:
  """The role that a band of this name plays in a sensor's words, else as a common name of STAC; None if in neither."""
  told = [role for role in sensors.ROLES if plays(name, role, sensor)]
  told += [role for role, names in COMMON_NAMES.items() if name.casefold() in names]
  return told[0] if told else None


def date_of(*texts: str) -> str:
  """ISO date of the first text that holds one, as product names write it or as ISO; "" if none does."""
  for text in texts:
    for pattern, form in _DATES:
      for digits in re.findall(pattern, text):
        try:
          return datetime.datetime.strptime(digits, form).date().isoformat()
        except ValueError:  # A number of another meaning.
          continue
  return ""


def cloud_flags(kind: str, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Two bool maps, (cloud, shadow or cirrus) and (no observation), of the integer codes of a quality band.

  Args:
    kind: key of `QUALITY`.
    codes: [...] integers.
  """
  quality = QUALITY[kind]

  def marked(classes, bits):
    return np.isin(codes, classes) | (codes & sum(1 << bit for bit in bits) != 0)

  fill = marked(quality.fill_classes, quality.fill_bits)
  return marked(quality.cloud_classes, quality.cloud_bits) & ~fill, fill
