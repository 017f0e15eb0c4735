"""Folders of tiny chips for the tests of the data set builders."""

import pathlib

import numpy as np

from tests.rasters import write_geotiff

NAMES = ("blue", "green", "red", "nir", "swir1", "swir2")


def write_chip(root, name, *, bands=6, height=32, width=32, seed=0, crs="EPSG:32723"):
  """images/NAME.tif (float32 reflectance, the first `bands` of NAMES) and masks/NAME.tif; returns both arrays."""
  rng = np.random.default_rng(seed)
  image = rng.random((bands, height, width)).astype(np.float32)
  mask = rng.integers(0, 2, (1, height, width)).astype(np.uint8)
  for folder in ("images", "masks"):
    (root / folder).mkdir(parents=True, exist_ok=True)
  write_geotiff(root / "images" / f"{name}.tif", image, NAMES[:bands], crs=crs)
  write_geotiff(root / "masks" / f"{name}.tif", mask, crs=crs)
  return image, mask[0]


def write_index(root, *lines):
  pathlib.Path(root, "index.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
