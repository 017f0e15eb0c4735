"""Probability maps as GeoTIFFs, one for each model and test image."""

import hashlib
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from minec2f_jax.data import geotiff, grids, resize
from minec2f_jax.data.encoding import ENCODINGS, NODATA, encode
from minec2f_jax.errors import UserError
from minec2f_jax.evaluation import assessment

_MOST_BYTES = 200  # Of a name; file systems take 255, and a temporary sibling has more.


def make_writer(folder, ids: Sequence[str], details: Sequence[Mapping], *, model: str) -> assessment.Observer:
  """Writes folder/ID.tif for every image that it is shown, see `write_prediction`.

  Args:
    folder: is made.
    ids: of the images, in their order; `safe_name` makes file names of them.
    details: of the images, see `pipeline.details`.
    model: for the tags.

  Raises:
    UserError: the folder cannot be made.
  """
  folder = pathlib.Path(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"{folder}: cannot be made for predictions ({error}); give another --output") from error

  def observe(start: int, logits: np.ndarray, valid: np.ndarray):
    for place, (values, known) in enumerate(zip(logits, valid), start=start):
      path = folder / f"{safe_name(ids[place])}.tif"
      write_prediction(path, values, known, image=details[place].get("image"), tags={"model": model, "id": ids[place]})

  return observe


def write_prediction(path, logits: np.ndarray, valid: np.ndarray, *, image=None, tags: Mapping[str, str]):
  """Writes the probability of a mine as uint16, whole or not at all.

  Args:
    path: file to write.
    logits: [H, W] float.
    valid: [H, W] bool; where False, the file holds NODATA.
    image: the GeoTIFF that the network saw: the map comes back to its grid and size, bilinear. None: as the network saw
      it, without a place.
    tags: of the file, beside "scale", which says how to read it.

  Raises:
    UserError: it cannot be written.
  """
  place = grids.Grid(None, None, *valid.shape) if image is None else geotiff.read_place(image)
  probability = special.expit(logits.astype(np.float64))
  probability, valid = resize.resize_map(probability, valid, place.height, place.width)
  stored = np.where(valid, encode(probability), np.uint16(NODATA))
  told = {"scale": ENCODINGS["uint16"].describe(), **tags}
  geotiff.write_geotiff(path, stored[None], place, descriptions=("probability of a mine",), nodata=NODATA, tags=told)


def safe_name(name: str) -> str:
  """`name` as that of a file, another one for each; what is no letter, digit, _, - or . stands as %XX."""
  escaped = lambda text: "".join(f"%{byte:02X}" for byte in text.encode())
  safe = re.sub(r"^\.|[^\w.-]", lambda found: escaped(found[0]), name)
  if len(safe.encode()) <= _MOST_BYTES:
    return safe
  return f"{safe[:40]}~{hashlib.sha256(name.encode()).hexdigest()[:32]}"
