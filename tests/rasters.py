"""GeoTIFFs for tests: written here, or real ones where they are at hand."""

import os
import pathlib
import warnings

import rasterio
from rasterio.errors import NotGeoreferencedWarning

# Real imagery and labels, no part of the project; tests that want them skip where they are absent.
DATA = pathlib.Path(os.environ.get("MINEC2F_DATA", pathlib.Path(__file__).parents[1] / ".." / "shared" / "data"))


def write_geotiff(path, bands, names=(), *, crs="EPSG:32723", mask=None, **profile):
  """Writes [count, H, W] as a GeoTIFF at 10 m in UTM 23S, with band names and an internal mask."""
  count, height, width = bands.shape
  place = {"crs": crs, "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 8e6)} if crs else {}
  with (
    warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
    rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
    rasterio.open(
      path, "w", driver="GTiff", count=count, height=height, width=width, dtype=bands.dtype, **place, **profile
    ) as dst,
  ):
    dst.write(bands)
    for index, name in enumerate(names, start=1):
      dst.set_band_description(index, name)
    if mask is not None:
      dst.write_mask(mask)
  return path
