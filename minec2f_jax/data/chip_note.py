"""What a chip says of its own making, by which a later run tells whether it may stay.

masks/ID.tif     is written first.
images/ID.tif    carries a note in its tags: polygons, settings, scenes, and digests of its pixels and of its mask.
sources/ID.json  size and date of every file of imagery that was tried; beside the set and not in its manifest, for a
                 copy of the imagery has other dates and must give the same chips to the byte.
"""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from minec2f_jax import files
from minec2f_jax.data import geotiff, products, scenes
from minec2f_jax.errors import UserError

TAG = products.CHIP_TAG
MANIFEST = "manifest.json"
_BESIDE = (".msk", ".aux.xml")  # GDAL reads these with a file: its mask, its nodata value and more.


def image_path(output: pathlib.Path, name: str) -> pathlib.Path:
  """Where the image of a chip lies."""
  return output / "images" / f"{name}.tif"


def mask_path(output: pathlib.Path, name: str) -> pathlib.Path:
  """Where the mask of a chip lies."""
  return output / "masks" / f"{name}.tif"


def write(output: pathlib.Path, name: str, image, valid, label, grid, *, roles: Sequence[str], note: Mapping, tried):
  """Writes the files of a chip; a manifest, which would tell of other files, goes before.

  Args:
    output: folder that holds images/ and masks/.
    name: id of the chip.
    image: [H, W, C] float32 reflectance.
    valid: [H, W] bool; where False, the file holds NaN.
    label: [H, W] uint8 in {0, 1}.
    grid: of the three.
    roles: what the channels are.
    note: what the chip was made from, JSON values.
    tried: scenes that were tried, the last of which served.

  Raises:
    UserError: a file cannot be written.
  """
  (output / MANIFEST).unlink(missing_ok=True)
  geotiff.write_geotiff(mask_path(output, name), label[None], grid, descriptions=("mine",))
  note = {**note, "mask": files.sha256(mask_path(output, name)), "pixels": _digest(image, valid)}
  bands = np.moveaxis(np.where(valid[..., None], image, np.float32(np.nan)), -1, 0)
  tags = {TAG: json.dumps(note, sort_keys=True)}
  geotiff.write_geotiff(image_path(output, name), bands, grid, descriptions=roles, nodata=math.nan, tags=tags)
  sources = _sources_path(output, name)
  sources.parent.mkdir(exist_ok=True)
  files.write_json(sources, _stamps(tried))  # Last, or after a kill they would vouch for old pixels.


def read(output: pathlib.Path, name: str, *, roles: Sequence[str]) -> dict | None:
  """The note of a chip whose image and mask are whole, as they were written; None of any other."""
  try:
    path = image_path(output, name)
    note = json.loads(geotiff.read_header(path).tags[TAG])
    if note["mask"] != files.sha256(mask_path(output, name)):
      return None
    # A file cut short still has a header; the pixels that a network would see decide.
    whole = note["pixels"] == _digest(*geotiff.read_chip(path, roles=roles, sensor="reflectance"))
    return note if whole else None
  except (UserError, OSError, KeyError, TypeError, ValueError):
    return None


def same_sources(output: pathlib.Path, name: str, tried: Iterable[scenes.Scene]) -> bool:
  """Whether the files of these scenes are those that a chip was made from, by size and date.

  A file that is gone counts as the same, for nothing better could be made without it; so do remote files.
  """
  try:
    before = json.loads(_sources_path(output, name).read_text(encoding="utf-8"))
    now = _stamps(tried)
    return len(now) == len(before) and all(stamp in (None, was) for stamp, was in zip(now, before))
  except (OSError, TypeError, ValueError):
    return False


def remove(output: pathlib.Path, name: str):
  """Takes a chip away."""
  for path in (image_path(output, name), mask_path(output, name), _sources_path(output, name)):
    path.unlink(missing_ok=True)


def _sources_path(output, name):
  return output / "sources" / f"{name}.json"


def _stamps(tried):
  """[[name, bytes, nanoseconds], ...] of each local file of scenes and what lies beside it, None where it is gone."""
  bands = [band for scene in tried for band in (*(b for _, b in scene.bands), *(scene.quality or ())[1:])]
  paths = dict.fromkeys(band.path for band in bands if not band.path.startswith("/vsi"))
  return [_stamp(path) and [_stamp(path), *filter(None, (_stamp(path + end) for end in _BESIDE))] for path in paths]


def _stamp(path):
  try:
    found = os.stat(path)
  except OSError:
    return None
  return [os.path.basename(path), found.st_size, found.st_mtime_ns]


def _digest(image, valid):
  # Adding 0 turns -0, which a reader does not tell from 0, into it.
  parts = (np.asarray(image.shape), image + np.float32(0.0), valid)
  return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
