"""GeoTIFFs gone wrong, by the thousand: python -m tests.mutants COUNT FOLDER reads them and prints what came of it.

Runs in a process of its own, so that an interpreter that crashes, hangs or eats the memory shows.
"""

import collections
import json
import pathlib
import re
import resource
import struct
import sys
import time

import affine
import numpy as np
import rasterio

from minec2f_jax.data import geotiff, grids
from tests.rasters import write_geotiff

RGB = ("red", "green", "blue")
_LIES = (0, 1, 2, 3, 7, 255, 1000, 65535, 65536, 10**6, 2**31 - 1, 2**31, 2**32 - 1)


def seeds(folder: pathlib.Path) -> list[bytes]:
  """Sound files of several layouts and codecs."""
  rng = np.random.default_rng(0)
  integers = rng.integers(1, 4000, (3, 48, 40)).astype(np.int16)
  floats = (integers / 1e4).astype(np.float32)
  kinds = (
    (integers, dict(compress="deflate", nodata=-1)),
    (integers, dict(compress="lzw", tiled=True, blockxsize=16, blockysize=16, interleave="band")),
    (integers, dict(mask=rng.random((48, 40)) > 0.1)),
    (floats, dict(compress="deflate", predictor=3, nodata=float("nan"), interleave="pixel")),
    (floats, dict(compress="zstd", tiled=True, blockxsize=16, blockysize=16)),
    ((integers[:1] > 2000).astype(np.uint8), dict(compress="packbits")),
    ((integers[:1] > 2000).astype(np.uint8), dict(bigtiff="YES")),
    (integers.astype(np.uint8), dict(compress="jpeg", tiled=True, blockxsize=16, blockysize=16, interleave="pixel")),
  )
  path = folder / "seed.tif"
  return [write_geotiff(path, bands, RGB[: len(bands)], **kwargs).read_bytes() for bands, kwargs in kinds]


def bomb(folder: pathlib.Path) -> bytes:
  """A few kB that declare 270 GB."""
  path = folder / "seed.tif"
  place = dict(crs="EPSG:32723", transform=affine.Affine(10, 0, 5e5, 0, -10, 8e6))
  shape = dict(count=3, height=300_000, width=300_000, dtype="uint8", blockxsize=8192, blockysize=8192)
  with rasterio.open(path, "w", driver="GTiff", tiled=True, sparse_ok=True, bigtiff=True, **shape, **place) as dst:
    dst.descriptions = RGB
  return path.read_bytes()


def mutate(rng: np.random.Generator, whole: bytes, seeds: list[bytes], bomb: bytes) -> tuple[str, bytes]:
  """(what was done, the bytes)."""
  kind = rng.choice(
    ["cut", "bits", "header", "lie", "lie", "splice", "vrt", "bomb"], p=[0.15, 0.2, 0.2, 0.1, 0.2, 0.1, 0.03, 0.02]
  )
  mutant = bytearray(whole)
  if kind == "cut":
    mutant = mutant[: rng.integers(len(whole))]
  elif kind == "bits":
    for place in rng.integers(len(whole), size=rng.integers(1, 9)):
      mutant[place] ^= 1 << rng.integers(8)
  elif kind == "header":
    for place in rng.integers(min(700, len(whole)), size=rng.integers(1, 5)):
      mutant[place] = rng.integers(256)
  elif kind == "lie" and len(whole) > 200 and whole[2] == 42:  # A classic TIFF: one value of its first directory.
    (start,) = struct.unpack_from("<I", whole, 4)
    (entries,) = struct.unpack_from("<H", whole, start)
    struct.pack_into("<I", mutant, start + 2 + 12 * rng.integers(entries) + rng.choice([4, 8]), int(rng.choice(_LIES)))
  elif kind == "splice":
    other = seeds[rng.integers(len(seeds))]
    place = rng.integers(min(len(whole), len(other)))
    mutant = bytearray(whole[:place] + other[place:])
  elif kind == "vrt":
    mutant = bytearray(
      b'<VRTDataset rasterXSize="40" rasterYSize="48"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
      b"<SourceFilename>/etc/passwd</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
  elif kind == "bomb":
    mutant = bytearray(bomb)
  return str(kind), bytes(mutant)


def main(count: int, folder: pathlib.Path):
  rng = np.random.default_rng(1)
  whole, huge = seeds(folder), bomb(folder)
  grid = grids.Grid("EPSG:32723", affine.Affine(7, 0, 5e5 + 30, 0, -7, 8e6 - 30), 30, 30)
  path = folder / "mutant.tif"
  readers = {
    "header": lambda: geotiff.read_header(path),
    "chip": lambda: geotiff.read_chip(path, roles=RGB, sensor="reflectance_x10000"),
    "auto": lambda: geotiff.read_chip(path, roles=RGB),
    "mask": lambda: geotiff.read_mask(path),
    "window": lambda: geotiff.read_on_grid([geotiff.Band(str(path), 1)], grid, sensor="reflectance_x10000"),
    "classes": lambda: geotiff.read_classes(geotiff.Band(str(path), 1), grid),
  }
  told, strange, slowest_s = collections.Counter(), [], 0.0
  for number in range(count):
    kind, mutant = mutate(rng, whole[number % len(whole)], whole, huge)
    path.write_bytes(mutant)
    for name, read in readers.items():
      began = time.monotonic()
      try:
        result = read()
        told[f"{kind} read"] += 1
        if name in ("chip", "auto", "window") and not np.isfinite(result[0]).all():
          strange.append(f"{number} {kind} {name}: not finite")
      except geotiff.GeoTiffError as err:
        told[f"{kind} refused"] += 1
        if err.path != str(path) or str(path) not in str(err) or "\n" in str(err):
          strange.append(f"{number} {kind} {name}: {err}")
      except BaseException as err:  # Whatever else comes out is what is looked for.
        strange.append(f"{number} {kind} {name}: {type(err).__name__} {err}")
      slowest_s = max(slowest_s, time.monotonic() - began)
  report = {"files": count, "told": dict(told), "strange": strange, "slowest_s": slowest_s, "rss_mib": _peak_mib()}
  print(json.dumps(report))


def _peak_mib() -> float:
  """The most memory that this process has held, in MiB."""
  status = pathlib.Path("/proc/self/status")
  if status.exists():  # ru_maxrss would count what the process that forked this one held at that moment.
    return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) / 2**10
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
  main(int(sys.argv[1]), pathlib.Path(sys.argv[2]))
