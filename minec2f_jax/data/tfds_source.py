"""Reads a prepared TFDS dataset (ArrayRecord) as samples; no TensorFlow, no builder code."""

import math
import os
import pathlib

import numpy as np

from minec2f_jax.data import resize
from minec2f_jax.data.pipeline import Sample
from minec2f_jax.errors import UserError

_ARRAYS = ("image", "label", "valid")
# What records tell of a mine as text, and what builders without that feature call it.
_TEXTS = {
  **{name: name for name in ("mine", "country", "commodity", "region")},
  **{"climate_zone": "climate", "product": "sensor"},
}


def is_prepared(path) -> bool:
  """Whether `path` is the version folder of a prepared TFDS dataset."""
  return (pathlib.Path(path) / "dataset_info.json").is_file()


class TfdsSource:
  """One split of a prepared dataset, as `datasets/mining_fine`, `mining_coarse` and `mining_demo` make them.

  Samples stand in the order of feature "position", that of the folder they come from: both train alike. Without it
  they stand as stored.

  Features "id", "image" [H, W, bands], "label" and "valid" [H, W] are needed; "bands" and "reflectance_scale" stand in
  the dataset's metadata.

  Args:
    path: version folder, e.g. data/mining_demo/fine/1.0.0.
    split: "train", "validation" or "test".
    roles: bands to return, in this order.
    image_size: side in pixels to which whole images are resized.
    gsd_m: side in metres of a pixel of the files that records were made of, for those that do not tell it; 0 = unknown.

  Raises:
    UserError: if the dataset lacks the split or a band.
  """

  def __init__(self, path, *, split: str, roles: tuple[str, ...], image_size: int, gsd_m: float = 0.0):
    import tensorflow_datasets as tfds  # Here, because it is slow and a folder of GeoTIFFs does without it.

    builder = tfds.builder_from_directory(os.fspath(path))
    if split not in builder.info.splits:
      raise UserError(f"{path} has no split {split!r}, only {sorted(builder.info.splits)}")
    stored = tuple(builder.info.metadata["bands"])
    missing = [role for role in roles if role not in stored]
    if missing:
      raise UserError(f"{path} has no bands {missing}, only {stored}: change config.data.bands")
    self._scale = builder.info.metadata["reflectance_scale"]
    self._bands = [stored.index(role) for role in roles]
    self._image_size, self._gsd_m, self._common = image_size, gsd_m, dict(builder.info.metadata)
    self._shape = builder.info.features["label"].shape
    self._records = builder.as_data_source(split)
    self._told = {name: feature for name, feature in builder.info.features.items() if name not in _ARRAYS}
    # Without the arrays, which take long to unpack.
    self._brief = builder.as_data_source(split, decoders=dict.fromkeys(_ARRAYS, tfds.decode.SkipDecoding()))
    places = sorted(self._place(i) for i in range(len(self._brief)))
    self._order = tuple(stored for _, stored, _ in places)
    self.ids = tuple(name for *_, name in places)

  def _place(self, stored: int) -> tuple[int, int, str]:
    record = self._brief[stored]
    return int(record.get("position", stored)), stored, record["id"].decode()

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Sample:
    record = self._records[self._order[index]]
    valid = record["valid"].astype(bool)
    image = record["image"][..., self._bands].astype(np.float32) * np.float32(self._scale)
    image, label, valid = resize.resize_chip(image, record["label"], valid, self._image_size)
    return {"image": image, "label": label, "valid": valid}

  def stored(self, index: int) -> tuple[bytes]:
    """The record of sample `index`, as it lies in its file."""
    return (self._records.data_source[self._order[index]],)

  def metadata(self, index: int) -> dict:
    """What the record tells besides its arrays: text as str, class labels by name, numbers as Python's own."""
    record = self._brief[self._order[index]]
    return {name: _plain(record[name], feature) for name, feature in self._told.items()}

  def details(self, index: int) -> dict:
    """What the record tells of sample `index`, see `pipeline.details`."""
    told = self.metadata(index)
    texts = {name: told.get(name, told.get(other, "")) for name, other in _TEXTS.items()}
    found = {name: text for name, text in texts.items() if text}
    # Patches of one image, and images of one mine, are of one place.
    stem = told["id"].rpartition("_r")[0] if self._common.get("patches") else told["id"]
    found["location_group"] = f"{found['mine']}, {found.get('country', '')}" if "mine" in found else stem
    sides = self._sides(told)
    return {**found, "gsd_m": sides} if all(side > 0 for side in sides) else found

  def _sides(self, told: dict) -> tuple[float, float]:
    """(height, width) of a pixel of the sample in metres, the mean of both in what records say; NaN or 0 = unknown."""
    side = float(told.get("gsd_m", self._common.get("gsd_m", math.nan)))
    sides = (side, side)
    if math.isnan(side):
      whole = "source_height" in told and not self._common.get("patches")
      stored = (told["source_height"], told["source_width"]) if whole else self._shape
      sides = tuple(self._gsd_m * source / size for source, size in zip(stored, self._shape))
    return tuple(side * size / self._image_size for side, size in zip(sides, self._shape))


def _plain(value, feature):
  if isinstance(value, bytes):
    return value.decode()
  return feature.names[int(value)] if hasattr(feature, "names") else np.asarray(value).item()
