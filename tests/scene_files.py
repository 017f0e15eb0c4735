"""A folder of imagery written by a test, and what is found in it."""

import pathlib
import tempfile
import warnings

import affine
import numpy as np
from absl.testing import parameterized

from minec2f_jax.data import geotiff, grids, scene_folder, sensors

SIX = sensors.ROLES
RGB = ("red", "green", "blue")
PLACE = affine.Affine(10, 0, 5e5, 0, -10, 7.5e6)  # 69 W, 22.6 S in UTM 19S.
S2_SAFE = "S2A_MSIL2A_20210612T143739_N0300_R096_T19KDQ_20210612T175802.SAFE"
S2_SAFE_04 = S2_SAFE.replace("N0300", "N0400")
LANDSAT = "LC08_L2SP_233084_20210601_20210608_02_T1"
L30, S30 = "HLS.L30.T19KDQ.2021152T143000.v2.0", "HLS.S30.T19KDQ.2021152T143000.v2.0"


def utm(size=12, *, gsd=10, left=5e5, top=7.5e6, crs="EPSG:32719"):
  return grids.Grid(crs, affine.Affine(gsd, 0, left, 0, -gsd, top), size, size)


class SceneTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def put(self, name, value=1000, *, dtype=np.uint16, names=(None,), grid=None, tags=None, nodata=None):
    """A file of constant bands: `value`, or one value a band."""
    grid = grid or utm()
    values = np.broadcast_to(np.reshape(value, (-1, 1, 1)), (len(names), grid.height, grid.width)).astype(dtype)
    path = self.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(action="ignore"):  # A file that lies nowhere is wanted here.
      geotiff.write_geotiff(path, values, grid, descriptions=names, tags=tags, nodata=nodata)
    return str(path)

  def put_bands(self, pattern, tokens, **kwargs):
    return [self.put(pattern.format(token), 1000 + i, **kwargs) for i, token in enumerate(tokens)]

  def scan(self, roles=SIX, **kwargs):
    return scene_folder.scan_folder(self.root, roles=roles, **kwargs)

  def scene(self, **kwargs):
    """The only scene there; nothing may be rejected."""
    result = self.scan(**kwargs)
    self.assertEqual(dict(result.rejected), {})
    self.assertLen(result.scenes, 1)
    return result.scenes[0]

  def reason(self, **kwargs):
    """Why the only thing there is rejected."""
    result = self.scan(**kwargs)
    self.assertEmpty(result.scenes)
    self.assertLen(result.rejected, 1)
    return next(iter(result.rejected.values()))
