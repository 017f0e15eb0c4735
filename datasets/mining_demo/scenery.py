"""Synthetic scenes and outlines as people have them: Sentinel-2 GeoTIFFs and polygons, to try the commands on."""

import json
import pathlib

import numpy as np
import shapely

from datasets.mining_demo import landscape, spectra
from minec2f_jax import files
from minec2f_jax.data import coarsen, geotiff, grids

SIZE, GSD_M = 512, 10.0
# Some place in each of a few mining districts: longitude, latitude, country, climate zone, and the seed of its mine;
# the seeds give mines that lie within their scene. The first eight make the coarse set.
PLACES = (
  (-69.1, -23.9, "CHL", "Chile", 2, 1),
  (-70.2, -27.5, "CHL", "Chile", 2, 100),
  (-76.3, -11.6, "PER", "Peru", 5, 204),
  (121.5, -30.8, "AUS", "Australia", 2, 300),
  (117.7, -23.4, "AUS", "Australia", 2, 402),
  (27.2, -25.7, "ZAF", "South Africa", 3, 500),
  (26.1, -11.8, "ZMB", "Zambia", 1, 604),
  (-111.1, 33.2, "USA", "United States", 2, 703),
  (-43.5, -20.2, "BRA", "Brazil", 1, 800),
  (-50.2, -6.1, "BRA", "Brazil", 1, 908),
  (119.0, -20.7, "AUS", "Australia", 2, 1011),
  (29.8, -24.4, "ZAF", "South Africa", 3, 1100),
)
NUM_COARSE = 8


def write_scenery(root) -> None:
  """Writes scenes/PLACE.tif, coarse.geojson (eight hurried outlines) and fine.geojson (four exact ones) under `root`.

  Scenes are coded as Sentinel-2 Level-2A of processing baseline 05.09, and their tags say so: 512 x 512 pixels of 10 m
  in UTM, six bands, 0 where nothing was seen. The same files every time.
  """
  root = pathlib.Path(root)
  (root / "scenes").mkdir(parents=True, exist_ok=True)
  features = []
  for number, (lon, lat, code, country, zone, seed) in enumerate(PLACES):
    scene = landscape.landscape(seed, size=SIZE, gsd_m=GSD_M, zone=zone)
    half_deg = SIZE * GSD_M / 2 / 111_000
    box = (lon - 1e-6, lat - half_deg, lon + 1e-6, lat + half_deg)
    grid = grids.utm_grid(box, gsd_m=GSD_M, min_size=SIZE)
    grid = grids.cut(grid, (0, SIZE), (0, SIZE))
    _write_scene(root / "scenes" / f"{code}_{number:02d}.tif", scene, grid)
    mask = coarsen.coarsen(seed, scene.fine, gsd_m=GSD_M) if number < NUM_COARSE else scene.fine
    properties = {"mine": f"Demo {number:02d}", "ISO3_CODE": code, "COUNTRY_NAME": country}
    outline = grids.polygonize(mask, grid)
    features.append({"type": "Feature", "properties": properties, "geometry": json.loads(shapely.to_geojson(outline))})
  _write_features(root / "coarse.geojson", features[:NUM_COARSE])
  _write_features(root / "fine.geojson", features[NUM_COARSE:])


def _write_scene(path: pathlib.Path, scene: landscape.Scene, grid: grids.Grid):
  dn = np.where(scene.valid[..., None], np.maximum(np.round(scene.image * 1e4) + 1000, 1), 0).astype(np.uint16)
  geotiff.write_geotiff(
    path,
    np.moveaxis(dn, -1, 0),
    grid,
    descriptions=spectra.ROLES,
    nodata=0,
    tags={"PRODUCT_TYPE": "S2MSI2A", "PROCESSING_BASELINE": "05.09"},
  )


def _write_features(path: pathlib.Path, features: list[dict]):
  files.write_text(path, json.dumps({"type": "FeatureCollection", "features": features}))
