"""Runs of python -m datasets.chips for its tests: scenes and polygons, and what a run leaves."""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import pathlib
import tempfile

import numpy as np
import rasterio
import shapely
from absl import flags
from absl.testing import parameterized

from datasets import chips as command
from tests import scenery

ROOT = pathlib.Path(__file__).resolve().parents[1]
GRID = scenery.utm_grid(600, 600)
NAMES = ("B02", "B03", "B04", "B08", "B11", "B12")


def files_of(output):
  """Path -> (SHA-256, modification time) of all files of a set; the lock names the last process."""
  return {
    path.relative_to(output).as_posix(): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
    for path in sorted(output.rglob("*"))
    if path.is_file() and path.name != ".lock"
  }


def hashes_of(output):
  return {path: digest for path, (digest, _) in files_of(output).items()}


class CommandTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    directory = tempfile.TemporaryDirectory()
    self.addCleanup(directory.cleanup)
    self.root = pathlib.Path(directory.name)
    self.imagery, self.output = self.root / "imagery", self.root / "chips"

  def _polygons(self, *geometries, name="mines.geojson", **columns):
    rows = [
      {
        "type": "Feature",
        "properties": {key: values[i] for key, values in columns.items()},
        "geometry": json.loads(shapely.to_geojson(geometry)),
      }
      for i, geometry in enumerate(geometries)
    ]
    (self.root / name).write_text(json.dumps({"type": "FeatureCollection", "features": rows}))
    return list(geometries)

  def _arguments(self, **kwargs):
    given = dict(polygons=self.root / "mines.geojson", imagery=self.imagery, output=self.output, min_margin_m=60)
    dealing = dict(block_km=1.5, buffer_km=0.1, workers=2)
    return [f"--{name}={value}" for name, value in {**given, **dealing, **kwargs}.items()]

  def _run(self, **kwargs):
    """Runs the command in this process; returns what it says."""
    options = flags.FlagValues()
    command.define_flags(options)
    options(["datasets.chips", *self._arguments(**kwargs)])
    with contextlib.redirect_stdout(io.StringIO()) as said:
      command.make_set(options)
    return said.getvalue()

  def _rows(self, name="index.csv", output=None):
    with open((output or self.output) / name, newline="", encoding="utf-8") as file:
      return list(csv.DictReader(file))

  def _image(self, name):
    return self.output / "images" / f"{name}.tif"

  def _check_masks(self, geometries):
    for row in self._rows():
      with rasterio.open(self.output / "masks" / f"{row['id']}.tif") as mask:
        np.testing.assert_array_equal(
          mask.read(1), scenery.expected_mask(self._image(row["id"]), geometries), err_msg=row["id"]
        )


class SceneTest(CommandTest):
  """17 mines in one Sentinel-2 scene of 6 x 6 km."""

  def setUp(self):
    super().setUp()
    self.dn = np.random.default_rng(0).integers(1, 9000, (6, 600, 600)).astype(np.uint16)
    scenery.write(self.imagery / "S2A_20210612.tif", self.dn, GRID, NAMES, nodata=0, tiled=True)
    places = itertools.product(range(75, 600, 150), range(75, 600, 150))
    # Two mines lie in one window: each is in the mask of the other.
    self.mines = [scenery.blob(GRID, x + 0.3, y - 0.2, 8 + x / 50) for x, y in places]
    self.mines.append(scenery.blob(GRID, 75 + 24, 75, 6))
    self._polygons(*self.mines, ISO3_CODE=["CHL"] * 17, COUNTRY_NAME=["Chile"] * 17)

  def _run(self, **kwargs):
    return super()._run(**{"sensor": "sentinel2_l2a", **kwargs})
