"""A scene and a network without JAX for tests of maps; as a program it maps a folder's scene, slowly."""

import pathlib
import sys
import time

import affine
import numpy as np
from scipy import ndimage

from minec2f_jax.data import geotiff, grids
from minec2f_jax.mapping import predict, scene_input
from minec2f_jax.training import interrupt

ROLES = ("red", "nir")
UTM = affine.Affine(10, 0, 5e5, 0, -10, 7.5e6)
NOTE = {"model_sha256": "0" * 64, "bands": list(ROLES), "tta": False}


def write(path, height, width, *, crs="EPSG:32719", transform=UTM, seed=0, fill=None, names=ROLES, gaps=0.1, **kwargs):
  """A smooth reflectance image with gaps of `fill` (NaN is nodata too); what a mean filter shows depends on it all."""
  rng = np.random.default_rng(seed)
  image = ndimage.gaussian_filter(rng.uniform(0, 1, (2, height, width)), (0, 2, 2)).astype(np.float32)
  bands = np.stack([image[ROLES.index(name)] if name in ROLES else image[0] * 0 for name in names])
  lacking = rng.uniform(size=(height, width)) < gaps
  bands[:, lacking] = np.nan if fill is None else fill
  place = grids.Grid(crs, transform, height, width)
  nodata = None if fill is None else fill
  geotiff.write_geotiff(path, bands, place, descriptions=names, nodata=nodata, **kwargs)
  return path


def mean_of(image, valid):
  """What the network says of one image: the mean of 3 x 3 pixels of the first band, mirrored at the edges."""
  return ndimage.uniform_filter(np.where(valid, image[..., 0], 0.0), 3, mode="mirror")


def probabilities(image, valid):
  return np.stack([mean_of(*tile) for tile in zip(image, valid)])


def network(sides_m=None, function=probabilities, **note):
  return predict.Network(function, {**NOTE, **note}, sides_m)


def run(path, output, *, tile=16, overlap=8, batch=3, sides_m=None, function=probabilities, sensor="auto", **settings):
  """The map folder of one scene."""
  scenes, broken = scene_input.find([path], roles=ROLES, sensor=sensor)
  settings = predict.Settings(tile, overlap, batch, **settings)
  (folder,) = predict.map_scenes(scenes, output, network(sides_m, function), settings, broken=broken)
  return folder


def contents(folder) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir()) if path.name != ".lock"}


if __name__ == "__main__":
  interrupt.install("launch.py")

  def slowly(image, valid):
    time.sleep(0.02)
    return probabilities(image, valid)

  run(*sys.argv[1:], function=slowly)
