"""Scenes and polygons for the tests of chips: small, with a place on the ground."""

import numpy as np
import pyproj
import rasterio
import shapely

from minec2f_jax.data import grids, sensors

SIX = sensors.ROLES
UTM = "EPSG:32719"
ORIGIN = (500_000.0, 7_400_000.0)  # 69 W, 23.5 S, on the central meridian of the zone: the Atacama.


def utm_grid(height, width, gsd_m=10.0, *, origin=ORIGIN, crs=UTM):
  """A raster's place in UTM, its upper left corner at `origin`."""
  return grids.Grid(crs, rasterio.Affine(gsd_m, 0, origin[0], 0, -gsd_m, origin[1]), height, width)


def lonlat_grid(height, width, degrees=9e-5, *, origin=(-69.0, -23.5)):
  """A raster's place in degrees."""
  return grids.Grid("EPSG:4326", rasterio.Affine(degrees, 0, origin[0], 0, -degrees, origin[1]), height, width)


def write(path, bands, grid, names=SIX, *, nodata=None, tags=None, **profile):
  """Writes [C, H, W] by plain rasterio and returns it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  profile = dict(count=len(bands), height=grid.height, width=grid.width, dtype=bands.dtype, nodata=nodata) | profile
  with rasterio.open(path, "w", driver="GTiff", crs=grid.crs, transform=grid.transform, **profile) as dst:
    dst.write(bands)
    dst.descriptions = tuple(names)
    dst.update_tags(**(tags or {}))
  return bands


def reflectance(height, width, *, seed=0, channels=6):
  """[C, H, W] float32 in 0.05..0.55, no two pixels alike."""
  return np.random.default_rng(seed).uniform(0.05, 0.55, (channels, height, width)).astype(np.float32)


def polygon(grid, points):
  """Polygon in degrees over pixel coordinates (column, row) of a grid."""
  xs, ys = grid.transform @ np.asarray(points, float).T
  to_lonlat = pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
  # As `polygons.read_polygons` rounds what it reads.
  return shapely.Polygon(np.round(np.column_stack(to_lonlat.transform(xs, ys)), 7))


def blob(grid, column, row, radius, *, corners=7):
  """A convex polygon around a pixel; its corners lie off the pixel centres."""
  angles = np.linspace(0.1, 2 * np.pi + 0.1, corners, endpoint=False)
  return polygon(grid, np.column_stack([column + radius * np.cos(angles), row + radius * np.sin(angles)]))


def expected_mask(path, geometries):
  """[H, W] uint8 of a GeoTIFF's pixels whose centre lies in a polygon, each of them asked by shapely."""
  with rasterio.open(path) as src:
    rows, columns = np.indices(src.shape)
    xs, ys = src.transform @ (columns + 0.5, rows + 0.5)
    to_raster = pyproj.Transformer.from_crs("EPSG:4326", src.crs, always_xy=True)
  placed = [shapely.transform(g, lambda c: np.column_stack(to_raster.transform(c[:, 0], c[:, 1]))) for g in geometries]
  return shapely.contains_xy(shapely.union_all(placed), xs, ys).astype(np.uint8)
