"""A toy data set as GeoTIFFs, and the config of a run on it."""

import pathlib

import numpy as np

from configs import fine_hybrid
from minec2f_jax import experiment
from tests import toy
from tests.rasters import write_geotiff

NAMES = ("red", "green", "blue", "nir", "swir1", "swir2")


def write_folder(root: pathlib.Path, count: int = 12):
  """Chips of both domains in twelve places, integer reflectance x 10000."""
  (root / "images").mkdir(parents=True)
  (root / "masks").mkdir()
  source = toy.ArraySource(count)
  lines = ["id,domain,split,location_group"]
  for i, name in enumerate(source.ids):
    image = np.round(source.image[i].transpose(2, 0, 1) * 1e4).astype(np.int16)
    write_geotiff(root / "images" / f"{name}.tif", image, NAMES)
    write_geotiff(root / "masks" / f"{name}.tif", source.label[i][None])
    split = ("train", "train", "train", "train", "validation", "test")[i // 2]
    lines.append(f"{name},{('coarse', 'fine')[i % 2]},{split},place{i}")
  (root / "index.csv").write_text("\n".join(lines) + "\n")


def run_config(data: pathlib.Path):
  """The paper's run at toy size on such a folder; `configs_test` trains all its parts."""
  config = toy.simplify(toy.shrink(fine_hybrid.get_config()))
  for domain in experiment.DOMAINS:
    config.data[domain].path = str(data)
  config.data.sensor = "reflectance_x10000"
  config.data.coarse.coarsen_gsd_m = 10.0
  return config
