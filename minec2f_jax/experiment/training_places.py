"""Where on Earth a run has learnt, and how large the pixels were that its network saw."""

import math
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from minec2f_jax.data import folder, geotiff, tfds_source
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import noted, record
from minec2f_jax.experiment.data import places


class Image(NamedTuple):
  """One training or validation image: (west, south, east, north) in degrees, sides of a pixel; None where unknown."""

  box: tuple[float, float, float, float] | None
  sides_m: tuple[float, float] | None


class Training(NamedTuple):
  """What a run learnt from.

  Attributes:
    boxes: [[west, south, east, north]] in degrees of the images whose place is known, sorted.
    unplaced: how many others there are.
    sides_m: (height, width) of the pixels that the network saw, in metres: the medians; None if unknown.
  """

  boxes: list[list[float]]
  unplaced: int
  sides_m: tuple[float, float] | None


def find(workdir) -> Training:
  """What the training and validation images of a run tell, and of the run that its teacher is from.

  Images whose files are gone count as unplaced; how many they were stands in data.json.
  """
  images = list(_images(pathlib.Path(workdir)))
  boxes = sorted({tuple(round(degrees, 7) for degrees in image.box) for image in images if image.box})
  sides = [image.sides_m for image in images if image.sides_m]
  return Training(
    boxes=[list(box) for box in boxes],
    unplaced=sum(image.box is None for image in images),
    sides_m=tuple(np.median(sides, axis=0).tolist()) if sides else None,
  )


def _images(workdir: pathlib.Path) -> Iterator[Image]:
  config = noted.to_config(noted.read_plain(workdir))
  for domain, split in places(config):
    if split == "test":
      continue
    try:
      yield from list(_of_split(config, domain, split))
    except (UserError, OSError):
      yield from [Image(None, None)] * _count(workdir, domain, split)
  if config.teacher:
    teacher = pathlib.Path(config.teacher).expanduser()
    teacher = teacher.parent if (teacher / "stage.json").exists() else teacher
    try:
      yield from list(_images(teacher))
    except UserError:
      yield Image(None, None)  # Nobody knows how many.


def _count(workdir: pathlib.Path, domain: str, split: str) -> int:
  try:
    return record.read_data(workdir)[domain, split]["images"]
  except (UserError, KeyError):
    return 1


def _of_split(config, domain: str, split: str) -> Iterator[Image]:
  data, spec = config.data, config.data[domain]
  if not spec.path:
    raise UserError(f"config.data.{domain} has no folder")  # A builder's data lie nowhere, and are not made for this.
  path = os.path.expanduser(spec.path)
  if tfds_source.is_prepared(path):
    options = dict(roles=tuple(data.bands), image_size=data.image_size, split=split, gsd_m=data.get("gsd_m", 0.0))
    source = tfds_source.TfdsSource(path, **options)
    yield from (Image(None, source.details(index).get("gsd_m")) for index in range(len(source)))
    return
  rows = folder.read_index(path, domain=domain, sensor=data.sensor)
  split_of = folder.split_groups(path, rows, domain)
  for row in rows:
    if row.domain == domain and split_of[row.group] == split and row.id not in spec.skip:
      yield _of_file(row.image, data.image_size, data.get("gsd_m", 0.0))


def _of_file(path, image_size: int, gsd_m: float) -> Image:
  try:
    header = geotiff.read_header(path)
    box = header.grid and header.grid.lonlat_bounds()
    sides = header.grid.sides_m if header.grid else (gsd_m, gsd_m)
  except Exception:  # Gone, damaged, or of a reference system without a place on Earth.
    return Image(None, None)
  known = all(math.isfinite(side) and side > 0 for side in sides)
  scaled = (sides[0] * header.height / image_size, sides[1] * header.width / image_size)
  return Image(box if box and np.isfinite(box).all() else None, scaled if known else None)
