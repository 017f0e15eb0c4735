"""A data set as a folder: index.csv, images/ID.tif, masks/ID.tif.

index.csv has one row a chip. Column `id` is needed, these are optional, others are ignored:

  image, mask     paths relative to the folder; default images/{id}.tif and masks/{id}.tif.
  domain          coarse | fine. Without the column every chip belongs to whichever is asked for.
  split           train | validation | test, or blank.
  location_group  chips of one place; default: every chip is a place of its own.
  sensor          a key of `sensors.SENSORS`, for folders that mix products; blank: the argument.
  area_km2        of the mine, a number; blank: unknown.
  mine, mine_id, country, commodity, climate_zone, region, product
                  what is known of the mine, as text; blank: unknown. `product` is the sensor family,
                  e.g. "Sentinel 2"; `sensor` is the encoding of the numbers.

Splits. Within a domain a group lies in one split. Where a domain's rows name both validation and
test, they are taken as they are (blank: train). Where one of the two is not named, it is dealt from
the other groups, see `splits.deal_groups`; rows that say validation or test keep it, and a group that the
other domain holds out is held out here too, so a teacher never sees the student's test sites.
"""

import csv
import dataclasses
import math
import operator
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from minec2f_jax.data import geotiff, resize, sensors, splits
from minec2f_jax.errors import UserError

DOMAINS = ("coarse", "fine")
METADATA = ("mine", "mine_id", "country", "commodity", "climate_zone", "region", "product")


class FolderError(UserError):
  """A folder that does not hold what its index says; the message names rows and remedy."""


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of the index; `split` is "" where it names none, `metadata` has all keys of METADATA, "" = unknown."""

  id: str
  image: pathlib.Path
  mask: pathlib.Path
  domain: str
  split: str
  group: str
  sensor: str
  metadata: Mapping[str, str]
  area_km2: float  # NaN = unknown.


@dataclasses.dataclass(frozen=True)
class FolderSource:
  """Random access to chips: `source[i]` reads one sample, in the order of the index.

  A sample is {"image": [H, W, C] float32 reflectance, "label": [H, W] uint8 in {0, 1},
  "valid": [H, W] bool}; a pixel is valid where both its reflectance and its label are known, image
  and label are 0 elsewhere. Nothing stays open between two reads: safe to share among threads.
  """

  rows: tuple[Row, ...]
  roles: tuple[str, ...]
  image_size: int | None = None
  coarsen: Callable[[np.ndarray, str], np.ndarray] | None = None
  gsd_m: float = 0.0

  @property
  def ids(self) -> tuple[str, ...]:
    return tuple(row.id for row in self.rows)

  @property
  def groups(self) -> tuple[str, ...]:
    return tuple(row.group for row in self.rows)

  def __len__(self):
    return len(self.rows)

  def __getitem__(self, index):
    row = self.rows[operator.index(index)]
    image, label, valid = read_row(row, self.roles, coarsen=self.coarsen)
    if self.image_size is not None:
      image, label, valid = resize.resize_chip(image, label, valid, self.image_size)
    return {"image": image, "label": label, "valid": valid}

  def details(self, index) -> dict:
    """What index and files tell of sample `index`, see `pipeline.details`; `self.gsd_m` is of files that do not."""
    row = self.rows[operator.index(index)]
    told = {name: text for name, text in row.metadata.items() if text}
    if not math.isnan(row.area_km2):
      told["area_km2"] = row.area_km2
    sides = geotiff.read_sides(row.image) or (self.gsd_m, self.gsd_m)
    if all(side > 0 for side in sides):
      told["gsd_m"] = self._resized(row, sides)
    return {**told, "location_group": row.group, "image": row.image}

  def _resized(self, row: Row, sides: tuple[float, float]) -> tuple[float, float]:
    """Sides of a pixel of the sample, given those of the file's."""
    if self.image_size is None:
      return sides
    header = geotiff.read_header(row.image)
    return sides[0] * header.height / self.image_size, sides[1] * header.width / self.image_size

  def stored(self, index) -> tuple[bytes, ...]:
    """What sample `index` is decoded from: its row's sensor, and the bytes of its files."""
    row = self.rows[operator.index(index)]
    return row.sensor.encode(), row.image.read_bytes(), row.mask.read_bytes()


def read_row(row: Row, roles: Sequence[str], *, coarsen: Callable[[np.ndarray, str], np.ndarray] | None = None):
  """One chip at its own size: image [H, W, C] float32, label [H, W] uint8, valid [H, W] bool, as `FolderSource` says.

  Args:
    row: of `read_index`.
    roles: wanted band roles in channel order.
    coarsen: (label [H, W] uint8, id) -> label, or None.

  Raises:
    UserError: a file that cannot be read, or a mask of another size than its image.
  """
  image, seen = geotiff.read_chip(row.image, roles=roles, sensor=row.sensor)
  label, drawn = geotiff.read_mask(row.mask)
  if label.shape != seen.shape:  # Checked on opening, but files can change under a long run.
    raise FolderError(f"chip {row.id!r}: {_shapes(seen.shape, label.shape)}")
  if coarsen is not None:
    label = np.asarray(coarsen(label, row.id)).astype(np.uint8)
  valid = seen & drawn
  return resize.blank(image, label, valid)


def open_folder(
  path,
  *,
  domain: str,
  split: str,
  roles: Sequence[str],
  sensor: str = "auto",
  image_size: int | None = None,
  coarsen: Callable[[np.ndarray, str], np.ndarray] | None = None,
  skip: Sequence[str] = (),
  gsd_m: float = 0.0,
) -> FolderSource:
  """The chips of one domain and split, after a header-only check of all chips of that domain.

  Args:
    path: folder that holds index.csv.
    domain: "coarse" or "fine".
    split: "train", "validation" or "test".
    roles: wanted band roles in channel order.
    sensor: "auto" or a key of `sensors.SENSORS`, for rows that name none.
    image_size: target height and width in pixels; None keeps each chip as it is.
    coarsen: (label [H, W] uint8, id) -> label; applied to coarse labels at native resolution. The
      id is there to seed with: one seed for all chips would shift every outline the same way.
    skip: ids to leave out. Leaving one out moves no other chip to another split.
    gsd_m: side of a pixel in metres for files that do not tell it; 0 = unknown.

  Returns:
    A `FolderSource` with at least one chip.

  Raises:
    FolderError: index, files or pairs are not in order, or nothing is left.
  """
  if domain not in DOMAINS or split not in splits.SHARES:
    raise FolderError(f"domain={domain!r}, split={split!r}: must be of {DOMAINS}, {tuple(splits.SHARES)}")
  roles = sensors.check_roles(roles)
  skip = {skip} if isinstance(skip, str) else set(skip)
  rows = read_index(path, domain=domain, sensor=sensor)
  unknown = sorted(skip - {row.id for row in rows})
  if unknown:
    raise FolderError(f"{path}: config.data.{domain}.skip names ids that index.csv does not: {unknown}")
  split_of = split_groups(path, rows, domain)
  kept = [row for row in rows if row.domain == domain and row.id not in skip]
  _check_pairs(path, kept, roles, domain)
  chosen = tuple(row for row in kept if split_of[row.group] == split)
  if not chosen:
    counts = {s: sum(split_of[row.group] == s for row in kept) for s in splits.SHARES}
    raise FolderError(
      f"{path}: no {domain} chip in split {split!r} (there are {counts}); three or "
      "more location groups are needed to deal three splits"
    )
  return FolderSource(chosen, roles, image_size, coarsen if domain == "coarse" else None, gsd_m)


def read_index(path, *, domain: str, sensor: str = "auto") -> tuple[Row, ...]:
  """Checked rows of index.csv; `domain` and `sensor` stand in where a row names none."""
  index = pathlib.Path(path) / "index.csv"
  if not index.is_file():
    raise FolderError(f"{index}: no such file; a data folder needs one with at least a column 'id'")
  try:
    with open(index, newline="", encoding="utf-8-sig") as file:
      reader = csv.DictReader(file, strict=True)
      cells = [(reader.line_num, row) for row in reader]
  except (csv.Error, UnicodeDecodeError) as err:
    raise FolderError(f"{index}: not a UTF-8 CSV file ({err})") from err
  names = reader.fieldnames or ()
  if "id" not in names or len(set(names)) != len(names):
    raise FolderError(f"{index}: columns {list(names)} must hold 'id', and none twice")
  rows, lines = [], {}
  for line, row in cells:
    if None in row or None in row.values():
      raise FolderError(f"{index}, line {line}: not as many cells as the {len(names)} columns")
    rows.append(_parse(pathlib.Path(path), f"{index}, line {line}", row, domain, sensor))
    if rows[-1].id in lines:
      raise FolderError(
        f"{index}, line {line}: id {rows[-1].id!r} stands in line {lines[rows[-1].id]} already; ids must be unique"
      )
    lines[rows[-1].id] = line
  return tuple(rows)


def _parse(root, where, cells, domain, sensor):
  cells = {name: value.strip() for name, value in cells.items()}
  if not cells["id"]:
    raise FolderError(f"{where}: no id")
  choices = {"domain": DOMAINS, "split": ("", *splits.SHARES), "sensor": ("", *sensors.CHOICES)}
  for column, allowed in choices.items():
    if column in cells and cells[column] not in allowed:
      raise FolderError(f"{where}: {column}={cells[column]!r} must be one of {allowed}")
  paths = {}
  for column, folder in (("image", "images"), ("mask", "masks")):
    relative = pathlib.PurePosixPath(cells.get(column) or f"{folder}/{cells['id']}.tif")
    if relative.is_absolute() or ".." in relative.parts:
      raise FolderError(
        f"{where}: {column} path '{relative}' leaves the folder; paths in an index are relative and hold no '..'"
      )
    paths[column] = root / relative
  return Row(
    cells["id"],
    paths["image"],
    paths["mask"],
    cells.get("domain", domain),
    cells.get("split", ""),
    cells.get("location_group") or cells["id"],
    cells.get("sensor") or sensor,
    {name: cells.get(name, "") for name in METADATA},
    _parse_area(where, cells.get("area_km2", "")),
  )


def _parse_area(where, text):
  try:
    area = float(text or "nan")
  except ValueError:
    area = -1.0
  if text and not 0 <= area < math.inf:
    raise FolderError(f"{where}: area_km2={text!r} must be a number of square kilometres, or blank")
  return area


def split_groups(path, rows: Sequence[Row], domain: str, *, deal_rest: bool = False) -> dict[str, str]:
  """Group -> split for the groups of a domain, see the top of this file.

  Args:
    path: the folder, for messages.
    rows: of all domains.
    domain: "coarse" or "fine".
    deal_rest: deal groups that name no split to all three, around those that do, whatever these name.

  Raises:
    FolderError: a group in two splits.
  """
  named, held_out_elsewhere, sizes = {}, {}, {}
  for row in rows:
    if row.domain != domain:
      if row.split in ("validation", "test"):
        held_out_elsewhere[row.group] = row.split
      continue
    sizes[row.group] = sizes.get(row.group, 0) + 1
    if row.split and named.setdefault(row.group, row.split) != row.split:
      raise FolderError(
        f"{path}: {domain} location group {row.group!r} lies in both "
        f"{named[row.group]} and {row.split}; put all its chips into one split"
      )
  missing = [s for s in ("validation", "test") if deal_rest or s not in named.values()]
  if missing and not deal_rest:  # Rows that say train are what is dealt from.
    named = {group: split for group, split in named.items() if split != "train"}
  return splits.deal_groups(sizes, {**held_out_elsewhere, **named}, missing=missing)


def why_broken(row: Row, roles: Sequence[str]) -> str:
  """Why a chip cannot be used, as far as the headers of its files show it; "" if nothing is wrong."""
  try:
    image = geotiff.read_header(row.image, roles=roles, sensor=row.sensor)
    mask = geotiff.read_header(row.mask)
  except geotiff.GeoTiffError as err:
    return str(err)
  shapes = (image.height, image.width), (mask.height, mask.width)
  return _shapes(*shapes) if shapes[0] != shapes[1] else ""


def describe_broken(path, broken: Mapping[str, str], total: int, *, limit: int | None = None) -> str:
  """The message about broken chips, id -> why; of at most `limit`, and of one where all `total` are broken."""
  # All of them: then it is the configuration, and one chip tells it.
  shown = list(broken.items())[: 1 if len(broken) == total else limit]
  listed = "".join(f"\n  {name}: {why}" for name, why in shown)
  rest = f"\n  ... and {len(broken) - len(shown)} more" if len(broken) > len(shown) else ""
  return f"{path}: {len(broken)} of {total} chips cannot be used:{listed}{rest}"


def _check_pairs(path, rows, roles, domain):
  """Raises one error that lists every chip whose files or bands are not in order."""
  broken = {row.id: why for row in rows if (why := why_broken(row, roles))}
  if not broken:
    return
  message = describe_broken(path, broken, len(rows), limit=5)
  if len(broken) < len(rows):
    message += f'\nCorrect them, or leave them out with --config.data.{domain}.skip="{tuple(broken)}"'
  raise FolderError(message)


def _shapes(image, mask):
  return f"image has {image[0]} x {image[1]} pixels, its mask {mask[0]} x {mask[1]}"
