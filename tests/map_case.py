"""Maps for tests: a mask, maybe probabilities and a note, as prediction leaves them."""

import json
import pathlib
import tempfile

import affine
import numpy as np
import pyproj
import rasterio
from absl.testing import parameterized

MODEL = "0123456789ab" + "c" * 52
# Reference system and transform of maps of pixels of 10 m, or about as much.
PLACES = {
  "utm_60_north": ("EPSG:32633", affine.Affine(10, 0, 3.0e5, 0, -10, 6.66e6)),
  "utm_south": ("EPSG:32719", affine.Affine(10, 0, 5.5e5, 0, -10, 7.5e6)),
  "degrees_60_north": ("EPSG:4326", affine.Affine(1e-4, 0, 15.0, 0, -1e-4, 60.2)),
  "degrees_south": ("EPSG:4326", affine.Affine(1e-4, 0, -69.0, 0, -1e-4, -22.0)),
  "south_up": ("EPSG:32719", affine.Affine(10, 0, 5.5e5, 0, 10, 7.4e6)),
  "askew": (
    "EPSG:32719",
    affine.Affine.translation(5.5e5, 7.5e6) @ affine.Affine.rotation(20) @ affine.Affine.scale(10, -8),
  ),
  "mercator": ("EPSG:3857", affine.Affine(20, 0, 1.6e6, 0, -20, 8.4e6)),
}
UTM = PLACES["utm_south"]
_GEOD = pyproj.Geod(ellps="WGS84")


def write_tif(path, values, place=UTM, *, nodata=None):
  """One band as GeoTIFF."""
  crs, transform = place
  size = dict(height=values.shape[0], width=values.shape[1], count=1, dtype=values.dtype)
  with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, nodata=nodata, **size) as dst:
    dst.write(values, 1)
  return path


def blobs(size=40, *, seed=0, share=0.35):
  """[size, size] uint8 mask of 0 and 1: patches with holes, corners that touch, single pixels."""
  noise = np.random.default_rng(seed).random((size, size))
  rough = sum(np.roll(noise, (i, j), (0, 1)) for i in range(3) for j in range(3)) / 9
  return (rough < np.quantile(rough, share)).astype(np.uint8)


def pixel_km2(mask, place) -> float:
  """Area of the pixels that are 1: each as a geodesic quadrilateral of its own."""
  crs, transform = place
  to_lonlat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
  total = 0.0
  for row, column in np.argwhere(mask == 1):
    x, y = transform @ (column + np.array([0, 1, 1, 0.0]), row + np.array([0, 0, 1, 1.0]))
    area, _ = _GEOD.polygon_area_perimeter(*to_lonlat.transform(x, y))
    total += abs(area) / 1e6
  return total


class MapTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(suffix=" ü 空")))

  def put(self, mask, name="scene", *, place=UTM, probability=None, folder=None, **note):
    """A map folder, and its path."""
    path = (folder or self.root / "maps") / name
    path.mkdir(parents=True)
    mask = np.asarray(mask, np.uint8)
    write_tif(path / "mask.tif", mask, place)
    if probability is not None:
      write_tif(path / "probability.tif", np.where(mask == 255, 65535, probability).astype(np.uint16), place)
    content = {"scene": name, "sensor": "sentinel2_l2a", "date": "2021-06-12", "model_sha256": MODEL} | note
    (path / "map.json").write_text(json.dumps(content), encoding="utf-8")
    return path
