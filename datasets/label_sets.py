"""Sets of labels, wherever they are: a folder with index.csv, a prepared TFDS dataset, a NumPy file."""

import collections
import math
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minec2f_jax.errors import UserError


class Masks(NamedTuple):
  """A set of labels not yet read: `read(i)` gives id, label [H, W], valid [H, W] and gsd_m of mask i of `total`.

  gsd_m is the side of a pixel on the ground in metres, NaN where nobody knows.
  """

  source: str
  total: int
  read: Callable[[int], tuple[str, np.ndarray, np.ndarray, float]]


def open_masks(path, *, domain: str, split: str | None = None, channel: int | None = None) -> Masks:
  """The masks of a set.

  Args:
    path: folder with index.csv, version folder of a prepared TFDS dataset, or .npy or .npz file.
    domain: chips of a folder, "coarse" or "fine".
    split: "train", "validation" or "test", or None for all; arrays have none.
    channel: which mask of an array [N, K, H, W], else None.

  Raises:
    UserError: no such set, or nothing in it.
  """
  from minec2f_jax.data import tfds_source

  path = pathlib.Path(path).expanduser()
  is_array = path.suffix in (".npy", ".npz")
  if is_array and split is not None:
    raise UserError(f"{path}: --split={split} asked of an array, which has no splits; leave it out")
  if not is_array and channel is not None:
    raise UserError(f"{path}: channel {channel} asked of a set whose images have one mask each; leave it out")
  if is_array and path.is_file():
    masks = _open_array(path, channel)
  elif tfds_source.is_prepared(path):
    masks = _open_tfds(path, split)
  elif (path / "index.csv").is_file():
    masks = _open_folder(path, domain, split)
  else:
    raise UserError(
      f"{path} is no set of labels; give a folder with index.csv, a TFDS version folder with dataset_info.json, or a "
      ".npy or .npz file"
    )
  if not masks.total:
    raise UserError(f"{masks.source}: holds no mask; give a set with at least one")
  return masks


def _open_folder(path, domain, split):
  from minec2f_jax.data import folder, geotiff

  index = folder.read_index(path, domain=domain)
  rows = [row for row in index if row.domain == domain]
  unnamed = sum(not row.split for row in rows)
  if split and unnamed:
    raise UserError(
      f"{path}: --split={split}, but {unnamed} of {len(rows)} {domain} rows of index.csv name no split; fill the "
      "column split, or leave --split out"
    )
  chosen = [row for row in rows if split in (None, row.split)]
  if not chosen:
    seen = dict(collections.Counter(f"{row.domain} {row.split}".strip() for row in index))
    wanted = f"{domain} {split or ''}".strip()
    raise UserError(f"{path}: index.csv has no {wanted!r} chip, only {seen}; choose another domain or --split")
  source = f"{path}, {domain} chips" + (f" of {split}" if split else "")

  def read(i):
    row = chosen[i]
    return row.id, *geotiff.read_mask(row.mask), _gsd_m(geotiff.read_header(row.mask))

  return Masks(source, len(chosen), read)


def _gsd_m(header):
  return header.grid.gsd_m if header.grid else math.nan


def _open_tfds(path, split):
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(os.fspath(path))
  stored = sorted(name for name, info in builder.info.splits.items() if info.num_examples)
  missing = {"id", "label", "valid"} - set(builder.info.features)
  if missing:
    raise UserError(f"{path}: records have no {sorted(missing)}; give a dataset prepared by this project")
  if split not in (None, *stored):
    raise UserError(f"{path}: --split={split}, but it only has {stored}; name one of them")
  chosen = [split] if split else stored
  sources = {name: builder.as_data_source(name) for name in chosen}
  places = [(name, i) for name in chosen for i in range(builder.info.splits[name].num_examples)]

  def read(i):
    name, place = places[i]
    try:
      record = sources[name][place]
    except Exception as err:  # A damaged file: Riegeli, protobuf and NumPy each raise types of their own.
      raise UserError(f"record {place} of {name}: not readable ({err}); prepare the dataset again") from err
    gsd_m = float(record.get("gsd_m", math.nan))
    return record["id"].decode(), record["label"], record["valid"].astype(bool), gsd_m

  return Masks(f"{path}" + (f", {split}" if split else ""), len(places), read)


def _open_array(path, channel):
  masks, ids = _load_array(path)
  source = str(path)
  if masks.ndim == 4:
    if channel is None or not 0 <= channel < masks.shape[1]:
      raise UserError(
        f"{path}: array {list(masks.shape)} has {masks.shape[1]} masks an image and channel is {channel}; choose one "
        f"of 0 to {masks.shape[1] - 1} with --first_channel or --second_channel"
      )
    masks, source = masks[:, channel], f"{path}, channel {channel}"
  elif channel is not None:
    raise UserError(f"{path}: channel {channel} asked of an array {list(masks.shape)}, one mask an image; leave it out")

  def read(i):
    name = str(i if ids is None else ids[i])
    strange = np.setdiff1d(masks[i], (0, 1))
    if strange.size:
      listed = ", ".join(f"{value:g}" for value in strange[:8])
      raise UserError(f"mask {name}: values {listed} are no labels; 0 is background, 1 mining")
    return name, masks[i], np.ones(masks[i].shape, bool), math.nan

  return Masks(source, len(masks), read)


def _load_array(path):
  """Masks [N, H, W] or [N, K, H, W], and their ids [N] or None."""
  try:
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(loaded, np.ndarray):
      arrays = {"masks": loaded}
    else:
      arrays = {name: loaded[name] for name in loaded.files if name in ("masks", "ids") or "masks" not in loaded.files}
  except Exception as err:  # Hostile bytes: zip, zlib and NumPy each raise types of their own.
    raise UserError(f"{path}: not readable as NumPy file ({type(err).__name__}: {err}); write it again") from err
  found = [name for name, array in arrays.items() if array.ndim in (3, 4) and array.dtype.kind in "biuf"]
  if "masks" not in found and len(found) != 1:
    seen = {name: list(array.shape) for name, array in arrays.items()}
    raise UserError(f"{path}: holds {seen}; masks are numbers [N, H, W] or [N, K, H, W], name that array 'masks'")
  masks = arrays["masks" if "masks" in found else found[0]]
  ids = arrays.get("ids")
  return masks, ids if ids is not None and ids.shape == masks.shape[:1] else None
