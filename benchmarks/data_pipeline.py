"""Images per second: cutting chips, preparing a set and feeding training, beside PyTorch's DataLoader on rasterio.

Command:  python -m benchmarks.data_pipeline [--images=128] [--size=256] [--rounds=3]

All feeders decode the same GeoTIFFs (six uint16 bands, deflate, with a mask file) to float32 reflectance, shuffled, in
batches of 8. They take turns, round by round; the median round counts. The DataLoader's part needs torch
(`pip install torch`) and is left out without it. Results go to benchmarks/results/.
"""

import itertools
import os
import pathlib
import statistics
import tempfile
import time

import numpy as np
from absl import app, flags

from benchmarks import record

_IMAGES = flags.DEFINE_integer("images", 128, "Images of the training set.")
_SIZE = flags.DEFINE_integer("size", 256, "Height and width of an image in pixels.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Passes of each feeder.")

BANDS = ("red", "green", "blue", "nir", "swir1", "swir2")
BATCH = 8


def write_folder(root: pathlib.Path, count: int, size: int) -> pathlib.Path:
  """A folder of synthetic landscapes (mining_demo) as GeoTIFFs, all in the training split."""
  import affine

  from datasets.mining_demo import landscape
  from minec2f_jax.data import geotiff, grids

  place = affine.Affine(10, 0, 5e5, 0, -10, 8e6)
  grid = grids.Grid("EPSG:32719", place, size, size)
  for name in ("images", "masks"):
    (root / name).mkdir(parents=True)
  for number in range(count):
    scene = landscape.landscape(number % 16, size=size, gsd_m=10.0)  # 16 differ enough; drawing them takes longest.
    image = np.round(scene.image.transpose(2, 0, 1) * 1e4).astype(np.uint16)
    geotiff.write_geotiff(
      root / "images" / f"{number:04d}.tif",
      image,
      grid,
      descriptions=("blue", "green", "red", "nir", "swir1", "swir2"),
    )
    geotiff.write_geotiff(root / "masks" / f"{number:04d}.tif", scene.fine[None], grid, descriptions=("mine",))
  rows = [f"{n:04d},{'train' if n < count - 2 else ('validation', 'test')[n - count + 2]}" for n in range(count)]
  (root / "index.csv").write_text("\n".join(["id,split", *rows]) + "\n")
  return root


def grain_feed(source, num_threads: int):
  """Seconds for one pass over `source`, through the project's own pipeline."""
  from minec2f_jax.data import pipeline

  batches = pipeline.train_batches({"fine": source}, batch_size=BATCH, seed=0, num_threads=num_threads)
  began = time.perf_counter()
  for batch in itertools.islice(batches, len(source) // BATCH):
    batch["fine"]["image"].sum()
  return time.perf_counter() - began


def torch_feed(paths, num_workers: int):
  """Seconds for one pass over (image, mask) paths, as most people write it: rasterio inside a torch Dataset."""
  import rasterio
  import torch

  class Chips(torch.utils.data.Dataset):
    def __len__(self):
      return len(paths)

    def __getitem__(self, index):
      image, mask = paths[index]
      with rasterio.open(image) as src:
        dn = src.read()
      with rasterio.open(mask) as src:
        label = src.read(1)
      return torch.from_numpy(dn.astype(np.float32) * np.float32(1e-4)), torch.from_numpy(label)

  loader = torch.utils.data.DataLoader(Chips(), batch_size=BATCH, shuffle=True, num_workers=num_workers, drop_last=True)
  began = time.perf_counter()
  for image, _ in loader:
    image.sum()
  return time.perf_counter() - began


def feeders(root: pathlib.Path, size: int, prepared: pathlib.Path):
  """Name -> a function that makes one pass and returns its seconds."""
  from minec2f_jax.data import folder, pipeline, tfds_source

  options = dict(split="train", roles=BANDS, image_size=size)
  chips = folder.open_folder(root, domain="fine", sensor="reflectance_x10000", **options)
  records = tfds_source.TfdsSource(prepared, **options)
  cached = pipeline.CachedSource(chips)
  ours = {
    **{f"GeoTIFF folder, {n} threads": lambda n=n: grain_feed(chips, n) for n in (0, 2, 4)},
    **{f"prepared TFDS set, {n} threads": lambda n=n: grain_feed(records, n) for n in (0, 2, 4)},
    "held in memory": lambda: grain_feed(cached, 4),
  }
  try:
    import torch
  except ImportError:
    return ours, len(chips)
  torch.manual_seed(0)
  paths = [(row.image, row.mask) for row in chips.rows]
  peers = {f"rasterio + DataLoader, {n} workers": lambda n=n: torch_feed(paths, n) for n in (0, 2)}
  return {**ours, **peers}, len(chips)


def prepare(root: pathlib.Path, data_dir: pathlib.Path, size: int) -> tuple[pathlib.Path, float]:
  """(version folder, seconds) of `python -m datasets.prepare` on the folder."""
  from datasets import preparation

  began = time.perf_counter()
  suffix = "" if size == 256 else f"-{size}px"
  target = preparation.find(f"mining_fine/rgb_nir_swir{suffix}", data_dir)
  preparation.prepare(target, root, sensor="reflectance_x10000")
  return target.path, time.perf_counter() - began


def cut_chips(scratch: pathlib.Path, count: int) -> tuple[int, float]:
  """(chips, seconds) of cutting chips of some 200 pixels from one scene of 3,000 x 3,000 pixels in six bands."""
  import affine
  import shapely

  from datasets import chips as chips_command
  from minec2f_jax.data import chip_plan, chips, geotiff, grids, polygons, scene_folder, sensors

  grid = grids.Grid("EPSG:32719", affine.Affine(10, 0, 5e5, 0, -10, 7.6e6), 3000, 3000)
  rng = np.random.default_rng(0)
  bands = rng.integers(300, 4000, (6, 3000, 3000)).astype(np.uint16)  # Noise: the worst case of decoding.
  (scratch / "scenes").mkdir()
  geotiff.write_geotiff(scratch / "scenes" / "scene.tif", bands, grid, descriptions=sensors.ROLES)
  west, south, east, north = grid.lonlat_bounds()
  outlines = []
  for number in range(count):
    place = shapely.Point(rng.uniform(west + 0.02, east - 0.02), rng.uniform(south + 0.02, north - 0.02))
    outlines.append(polygons.Polygon(f"p{number:03d}", place.buffer(0.006), 1.4, {}))
  found = scene_folder.scan_folder(scratch / "scenes", roles=sensors.ROLES, sensor="sentinel2_l2a").scenes
  settings = chips.ChipSettings()
  plan = chip_plan.make_plan(outlines, outlines, found, settings, domain="coarse", block_km=1.0, buffer_km=0.0, seed=0)
  for name in ("images", "masks"):
    (scratch / "chips" / name).mkdir(parents=True)
  began = time.perf_counter()
  made = [o for o in chips_command.run_threads(plan.jobs, settings, scratch / "chips", os.cpu_count()) if o.hashes]
  return len(made), time.perf_counter() - began


def main(argv):
  del argv
  count, size = _IMAGES.value, _SIZE.value
  with tempfile.TemporaryDirectory() as scratch:
    root = write_folder(pathlib.Path(scratch) / "folder", count, size)
    made, chips_s = cut_chips(pathlib.Path(scratch), count)
    prepared, prepare_s = prepare(root, pathlib.Path(scratch) / "data", size)
    runs, passed = feeders(root, size, prepared)
    images = passed // BATCH * BATCH
    seconds = {name: [] for name in runs}
    for number in range(_ROUNDS.value + 1):
      for name, run in runs.items():
        taken = run()
        if number:  # The first round warms the file cache.
          seconds[name].append(taken)
  rates = {name: images / statistics.median(taken) for name, taken in seconds.items()}
  figures = {
    "images": count,
    "size": size,
    "rounds": _ROUNDS.value,
    "chips_per_s": made / chips_s,
    "prepare_images_per_s": count / prepare_s,
    "images_per_s": rates,
    "seconds": seconds,
  }
  path = record.write("data_pipeline", figures)
  print(f"chips: {made / chips_s:.1f} chips/s")
  print(f"prepare: {count / prepare_s:.1f} images/s")
  for name, rate in rates.items():
    print(f"{name:36s} {rate:8.1f} images/s")
  print(path)


if __name__ == "__main__":
  app.run(main)
