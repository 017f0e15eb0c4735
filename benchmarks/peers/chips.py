"""Made-up chips, the same for every peer: blobs brighter than the noise around them, as digital numbers."""

import csv
import pathlib

import numpy as np

SCALE = np.float32(1e-4)  # Reflectance of a digital number.
# Bands in the order of the paper's config, with the mean and the deviation there, in reflectance.
BANDS = ("red", "green", "blue", "nir", "swir1", "swir2")


def draw(number: int, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Chip `number`: ([6, size, size] uint16 digital numbers, [size, size] uint8 label)."""
  rng = np.random.default_rng(number)
  rows, columns = np.mgrid[:size, :size]
  distance = np.hypot(rows - rng.uniform(0.3, 0.7) * size, columns - rng.uniform(0.3, 0.7) * size)
  label = (distance < rng.uniform(0.2, 0.35) * size).astype(np.uint8)
  image = rng.integers(300, 3000, (len(BANDS), size, size)).astype(np.uint16)
  return image + np.uint16(1500) * label, label


class Chips:
  """Random access to decoded chips, as `minec2f_jax.data.pipeline.Source` asks for."""

  def __init__(self, count: int, size: int, start: int = 0):
    self.ids = tuple(f"chip{start + i:04d}" for i in range(count))
    self._samples = [_decode(*draw(start + i, size)) for i in range(count)]

  def __len__(self) -> int:
    return len(self.ids)

  def __getitem__(self, index: int) -> dict:
    return self._samples[index]


def _decode(image, label) -> dict:
  image = np.ascontiguousarray(image.transpose(1, 2, 0)).astype(np.float32) * SCALE
  return {"image": image, "label": label, "valid": np.ones(label.shape, bool)}


def batch(count: int, size: int) -> dict:
  """One batch {"image" [B, H, W, 6], "label", "valid" [B, H, W]}."""
  chips = Chips(count, size)
  return {name: np.stack([chip[name] for chip in chips]) for name in ("image", "label", "valid")}


def write_folder(root: pathlib.Path, train: int, validation: int, size: int):
  """The first `train` chips, the next `validation` ones and one for the test split as a folder of GeoTIFFs."""
  import affine

  from minec2f_jax.data import geotiff, grids

  grid = grids.Grid("EPSG:32719", affine.Affine(10, 0, 5e5, 0, -10, 8e6), size, size)
  for name in ("images", "masks"):
    (root / name).mkdir(parents=True)
  splits = ["train"] * train + ["validation"] * validation + ["test"]
  with open(root / "index.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(("id", "split"))
    for number, split in enumerate(splits):
      image, label = draw(number, size)
      geotiff.write_geotiff(root / "images" / f"chip{number:04d}.tif", image, grid, descriptions=BANDS)
      geotiff.write_geotiff(root / "masks" / f"chip{number:04d}.tif", label[None], grid, descriptions=("mine",))
      rows.writerow((f"chip{number:04d}", split))
