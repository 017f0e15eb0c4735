"""From a folder of chips (`minec2f_jax.data.folder`) to the records of mining_fine and mining_coarse, without TFDS."""

import collections
import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import affine
import numpy as np

from minec2f_jax.data import folder, geotiff, resize, sensors
from minec2f_jax.data.rasterfile import GeoTiffError, Header

RGB = ("red", "green", "blue")
SWIR = ("swir1", "swir2")
# The paper's order; supplement Sec. 7.2 compares these sizes, whole images and patches.
BANDS = {"rgb_nir_swir": (*RGB, "nir", *SWIR), "rgb_nir": (*RGB, "nir"), "rgb": RGB}
SIZES = (256, 128, 512)

_TEXTS = tuple(name for name in folder.METADATA if name != "mine_id")


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a chip becomes records.

  Attributes:
    bands: roles, in channel order.
    size: height and width of a record in pixels.
    patches: cut patches at native resolution instead of resizing the whole chip.
  """

  bands: tuple[str, ...]
  size: int
  patches: bool

  @property
  def suffix(self) -> str:
    """What is added to a config's name; nothing for whole images of the paper's 256 pixels."""
    if self.patches:
      return f"-{self.size}px-patches"
    return f"-{self.size}px" if self.size != SIZES[0] else ""


def layouts(bands: tuple[str, ...]) -> tuple[Layout, ...]:
  """All layouts of these bands, the paper's first."""
  return tuple(Layout(bands, size, patches) for patches in (False, True) for size in SIZES)


@dataclasses.dataclass(frozen=True)
class Chip:
  """A chip that is in.

  Attributes:
    row: of the index.
    header: what its image file says of itself.
    split: "train", "validation" or "test".
    position: of its first record among those of all splits in the order of the index: the row's number within the
      domain, counted from 0, or with patches, of which a row gives several, that of the first patch.
  """

  row: folder.Row
  header: Header
  split: str
  position: int


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a folder will give, by its headers alone.

  Attributes:
    root: the folder.
    layout: how chips become records.
    rows: of the domain, whatever becomes of them.
    chips: that are in.
    left_out: id -> why, of sound chips that are not wanted; what stands before a colon is the kind of reason.
    unwanted: (row, header) of sound chips that are not wanted, but for those that the caller skips.
    broken: id -> why, of chips that cannot be used.
    notes: sentences a reader of the results must know.
  """

  root: pathlib.Path
  layout: Layout
  rows: tuple[folder.Row, ...]
  chips: tuple[Chip, ...]
  left_out: Mapping[str, str]
  unwanted: tuple[tuple[folder.Row, Header], ...]
  broken: Mapping[str, str]
  notes: tuple[str, ...]


# (path, rows of all domains) -> (rows of the domain in question, id -> split, notes)
Assign = Callable[[pathlib.Path, Sequence[folder.Row]], tuple[Sequence[folder.Row], Mapping[str, str], Sequence[str]]]


def make_plan(
  path,
  layout: Layout,
  *,
  domain: str,
  assign: Assign,
  sensor: str = "auto",
  skip: Mapping[str, str] | None = None,
  why_unwanted: Callable[[folder.Row, Header], str] = lambda row, header: "",
) -> Plan:
  """`Plan` of a folder; leaving a chip out moves no other to another split.

  Args:
    path: folder that holds index.csv.
    layout: of the records. Chips without one of its bands beyond red, green and blue are left out.
    domain: "coarse" or "fine", of rows that name none.
    assign: deals the rows to splits, and completes them.
    sensor: encoding of rows that name none.
    skip: id -> why it is left out.
    why_unwanted: (row, header) -> why a chip is left out, or "".

  Raises:
    UserError: the index is not in order. Broken chips do not raise.
  """
  path, skip = pathlib.Path(path), dict(skip or {})
  rows, split_of, notes = assign(path, folder.read_index(path, domain=domain, sensor=sensor))
  chips, left_out, unwanted, broken = [], {}, [], {}
  position = 0
  for row in rows:
    try:
      header = geotiff.read_header(row.image)
    except GeoTiffError as err:
      header, why_broken = None, str(err)
    else:
      why_not = skip.get(row.id) or lacks(row, header, layout.bands) or why_unwanted(row, header)
      why_broken = "" if why_not else folder.why_broken(row, layout.bands)
    if row.id in skip:
      left_out[row.id] = skip[row.id]
    elif why_broken:
      broken[row.id] = why_broken
    elif why_not:
      left_out[row.id] = why_not
      unwanted.append((row, header))
    else:
      chips.append(Chip(row, header, split_of[row.id], position))
      position += math.prod(resize.patch_counts(header.height, header.width, layout.size)) if layout.patches else 1
      continue
    position += 1  # A row keeps its number, whatever becomes of the others.
  notes = (*notes, *_notes_on_patches(chips, layout))
  return Plan(path, layout, tuple(rows), tuple(chips), left_out, tuple(unwanted), broken, notes)


def by_group(path, rows: Sequence[folder.Row], *, domain: str, deal_rest: bool = False):
  """(rows of the domain, id -> split), as `folder` deals them."""
  split_of = folder.split_groups(path, rows, domain, deal_rest=deal_rest)
  mine = [row for row in rows if row.domain == domain]
  return mine, {row.id: split_of[row.group] for row in mine}


def records(chip: Chip, layout: Layout) -> Iterator[dict]:
  """The records of one chip: one, or as many as there are patches.

  Raises:
    UserError: the chip cannot be read.
  """
  row, grid = chip.row, chip.header.grid
  native = folder.read_row(row, layout.bands)
  common = {
    **{name: row.metadata[name] for name in _TEXTS},
    "sensor": _encoding(row, chip.header) or row.sensor,
    "has_swir": _has(row, chip.header, SWIR),
    "source_height": native[2].shape[0],
    "source_width": native[2].shape[1],
  }
  if layout.patches:
    gsd_m = grid.gsd_m if grid else np.nan
    for number, ((i, j), arrays) in enumerate(resize.cut_patches(*native, layout.size)):
      yield _record(f"{row.id}_r{i:02d}c{j:02d}", chip.position + number, arrays, gsd_m, common)
  else:
    arrays = resize.resize_chip(*native, layout.size)
    yield _record(row.id, chip.position, arrays, _resized_gsd_m(grid, layout.size), common)


def _record(name, position, arrays, gsd_m, common):
  image, label, valid = arrays
  pixels = {"image": image, "label": label, "valid": valid.astype(np.uint8)}
  return {"id": name, "position": position, **pixels, "gsd_m": gsd_m, **common}


def _resized_gsd_m(grid, size: int) -> float:
  """Side of a pixel on the ground once the grid has size x size pixels: the mean of both axes; NaN without a grid."""
  if grid is None:
    return np.nan
  transform = grid.transform @ affine.Affine.scale(grid.width / size, grid.height / size)
  return dataclasses.replace(grid, transform=transform, height=size, width=size).gsd_m


def _encoding(row: folder.Row, header: Header) -> str | None:
  return sensors.identify(header.tags) if row.sensor == "auto" else row.sensor


def _has(row: folder.Row, header: Header, roles: Sequence[str]) -> bool:
  """Whether each role is played by at least one band; two that play one are for the reader to refuse."""
  known = sensors.get_sensor(_encoding(row, header) or "reflectance")

  def plays(description, role):
    try:
      return bool(sensors.find_bands((description,), (role,), known))
    except sensors.SensorError:
      return False

  return all(any(plays(description, role) for description in header.descriptions) for role in roles)


def lacks(row: folder.Row, header: Header, bands: Sequence[str]) -> str:
  """Which of these bands a chip lacks, as the reason to leave it out; "" if none."""
  if not _has(row, header, RGB):  # Then it is no image at all, and the reader says so.
    return ""
  missing = [band for band in bands if not _has(row, header, (band,))]
  return f"no band {' and '.join(missing)}" if missing else ""


def _notes_on_patches(chips: Sequence[Chip], layout: Layout) -> list[str]:
  if not layout.patches:
    return []
  size, pixels, dropped, filled = layout.size, 0, 0, 0
  for chip in chips:
    height, width = chip.header.height, chip.header.width
    rows, columns = resize.patch_counts(height, width, size)
    pixels += height * width
    dropped += height * width - min(height, rows * size) * min(width, columns * size)
    filled += height < size or width < size
  share = dropped / max(pixels, 1)
  notes = [f"patches: {dropped} of {pixels} pixels ({share:.1%}) are dropped, at the right and the bottom of images"]
  if filled:
    notes.append(f"patches: {filled} images are shorter than {size} pixels and filled up with invalid ones")
  return notes


class Tally:
  """Counts what goes into the records, split by split.

  Attributes:
    without_valid: ids of records without any valid pixel.
    without_mine: how many of the others show no mine.
  """

  def __init__(self):
    self.without_valid, self.without_mine = [], 0
    self._counts = collections.defaultdict(collections.Counter)
    self._kinds = {name: collections.defaultdict(collections.Counter) for name in ("climate_zone", "product")}

  def add(self, split: str, record: Mapping):
    counts, valid = self._counts[split], record["valid"]
    counts.update(images=1, pixels=valid.size, valid=int(valid.sum()), mine=int(record["label"].sum()))
    if not valid.any():
      self.without_valid.append(record["id"])
    elif not record["label"].any():
      self.without_mine += 1
    for name, kinds in self._kinds.items():
      if record[name]:
        kinds[record[name]][split] += 1

  def summary(self) -> dict:
    """Images, share of valid pixels and share of mine among these, a split; images a climate zone and product."""
    return {
      "splits": {
        split: {
          "images": c["images"],
          "valid_share": c["valid"] / c["pixels"],
          "mine_share": c["mine"] / max(c["valid"], 1),
        }
        for split, c in self._counts.items()
      },
      **{name: {kind: dict(kinds[kind]) for kind in sorted(kinds)} for name, kinds in self._kinds.items()},
    }
