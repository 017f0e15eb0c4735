"""Maps of scenes: memory on small and huge ones, and speed beside a plain sliding window in PyTorch.

Command:  python -m benchmarks.mapping [--part=memory|speed|all] [--sides=5000,30000] [--scene=1024] [--quick] [--out=F]

memory: the peak of a process that maps a sparse synthetic scene (GeoTIFF, six bands of uint16, a tenth of it seen) with
a network of one convolution, for each of --sides; and that of a process with the network alone.
speed: Mpx/s of the paper's network (random weights) and, with --quick, a small one, from file to file on a scene of
--scene pixels a side, with tiles of 256 pixels, half of which neighbours share; PyTorch's window reads, blends with the
same weights in whole arrays, and writes one GeoTIFF. The second of two maps counts: the first one compiles.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import rasterio
from absl import app, flags

from benchmarks import record

_PART = flags.DEFINE_enum("part", "all", ["memory", "speed", "all"], "What to measure.")
_SIDES = flags.DEFINE_list("sides", ["5000", "30000"], "Sides of the scenes whose memory is measured, in pixels.")
_SCENE = flags.DEFINE_integer("scene", 1024, "Side of the scene whose speed is measured, in pixels.")
_QUICK = flags.DEFINE_bool("quick", False, "A small network alone.")
_OUT = flags.DEFINE_string("out", None, "File for the figures; default: benchmarks/results/DATE_mapping.json.")
_CHILD = flags.DEFINE_string("child", None, "For the benchmark itself: one measurement in a process of its own.")

ROOT = pathlib.Path(__file__).resolve().parent.parent
BANDS = ("red", "green", "blue", "nir", "swir1", "swir2")
TILE, OVERLAP, BATCH = 256, 128, 8
_BLOCK = 512


def write_scene(path, side: int, *, share: float = 1.0):
  """Six bands of noise, in a `share` of the blocks, along the diagonal; the others are not even in the file."""
  rng, transform = np.random.default_rng(0), rasterio.Affine(10, 0, 5e5, 0, -10, 7.5e6)
  place = dict(driver="GTiff", width=side, height=side, count=len(BANDS), crs="EPSG:32719", transform=transform)
  form = dict(tiled=True, blockxsize=_BLOCK, blockysize=_BLOCK, compress="deflate", sparse_ok=True, bigtiff="yes")
  count = -(-side // _BLOCK)
  with rasterio.open(path, "w", dtype="uint16", nodata=0, **place, **form) as dst:
    dst.descriptions = BANDS
    for row in range(count):
      for column in range(count):
        if share == 1.0 or abs(row - column) <= share * count / 2:
          window = (
            (row * _BLOCK, min(row * _BLOCK + _BLOCK, side)),
            (column * _BLOCK, min(column * _BLOCK + _BLOCK, side)),
          )
          shape = [end - first for first, end in window]
          dst.write(rng.integers(200, 5000, (len(BANDS), *shape), np.uint16), window=window)


def one_convolution():
  """(image, valid) -> probability, compiled."""
  import jax

  kernel = np.random.default_rng(0).normal(size=(3, 3, len(BANDS), 1)).astype(np.float32)

  @jax.jit
  def probabilities(image, valid):
    image = image * valid[..., None]
    numbers = dict(window_strides=(1, 1), padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.sigmoid(jax.lax.conv_general_dilated(image, kernel, **numbers))[..., 0]

  return probabilities


def paper_network(case):
  """(image, valid) -> probability of the case's network with random weights."""
  import jax

  from benchmarks.peers import cases
  from minec2f_jax import experiment

  config = cases.make_config(case)
  wired, prior = experiment.wire(config), None
  for name in ("coarse", cases.STAGES[case.task]):
    prior = wired[name].method.init(jax.random.key(0), np.zeros((1, TILE, TILE, len(BANDS)), np.float32), prior)
  predict, model = wired[cases.STAGES[case.task]].predict, jax.device_put(prior)
  return lambda image, valid: jax.nn.sigmoid(predict(model, {"image": image, "valid": valid}))


def map_scene(scene, output, probabilities) -> float:
  """Seconds from file to files."""
  from minec2f_jax.mapping import predict, scene_input

  found, _ = scene_input.find([scene], roles=BANDS, sensor="reflectance_x10000")
  network = predict.Network(probabilities, {"model_sha256": "", "bands": list(BANDS)}, None)
  began = time.perf_counter()
  predict.map_scenes(found, output, network, predict.Settings(TILE, OVERLAP, BATCH))
  return time.perf_counter() - began


def _read_tile(src, y: int, x: int) -> np.ndarray:
  """[6, TILE, TILE] float32 reflectance, 0 beyond the scene."""
  tile = np.zeros((len(BANDS), TILE, TILE), np.float32)
  window = (y, min(y + TILE, src.height)), (x, min(x + TILE, src.width))
  values = src.read(window=window)
  tile[:, : values.shape[1], : values.shape[2]] = values / np.float32(1e4)
  return tile


def slide_torch(scene, output, task, device) -> float:
  """Seconds of the same map in plain PyTorch."""
  import torch

  from minec2f_jax.mapping import blending
  from minec2f_jax.mapping.windows import Axis

  began = time.perf_counter()
  with rasterio.open(scene) as src, torch.inference_mode():
    axes = Axis(src.height, TILE, OVERLAP), Axis(src.width, TILE, OVERLAP)
    of_row, of_column = map(blending.partition, axes)
    total = np.zeros([axis.start(axis.count - 1) + TILE for axis in axes], np.float32)
    places = list(np.ndindex(axes[0].count, axes[1].count))
    for first in range(0, len(places), BATCH):
      some = places[first : first + BATCH]
      corners = [(axes[0].start(row), axes[1].start(column)) for row, column in some]
      tiles = [_read_tile(src, y, x) for y, x in corners]
      image = torch.from_numpy(np.stack(tiles)).to(device)
      logits = task.logits(image, image[:, 0] > 0)
      for (row, column), (y, x), found in zip(some, corners, torch.sigmoid(logits).cpu().numpy()):
        total[y : y + TILE, x : x + TILE] += np.outer(of_row(row), of_column(column)) * found
    profile = {**src.profile, "count": 1, "compress": "deflate", "nodata": 65535}
    with rasterio.open(output, "w", **profile) as dst:
      dst.write(np.rint(total[: src.height, : src.width] * 65534).astype(np.uint16), 1)
  return time.perf_counter() - began


def _case(small: bool):
  from benchmarks.peers import cases

  more = dict(blocks=(1, 1, 1, 1), levels=("c5",)) if small else {}
  return cases.Case("task2", BATCH, TILE, **more)


def _child(what: str, scene: str) -> dict:
  """One measurement, in a process of its own."""
  with tempfile.TemporaryDirectory(dir=pathlib.Path(scene).parent) as scratch:
    if what in ("alone", "memory"):
      run = one_convolution()
      run(np.zeros((BATCH, TILE, TILE, len(BANDS)), np.float32), np.ones((BATCH, TILE, TILE), bool)).block_until_ready()
      if what == "memory":
        seconds = map_scene(scene, f"{scratch}/maps", run)
      peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
      return {"peak_bytes": peak, **({"seconds": seconds} if what == "memory" else {})}
    program, size = what.split("-")
    case = _case(size == "small")
    if program == "ours":
      run = paper_network(case)
      found = [map_scene(scene, f"{scratch}/{i}", run) for i in range(2)]
    else:
      import torch

      from benchmarks.peers import torch_peer

      device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
      task = torch_peer.Task(case).eval().to(device, memory_format=torch.channels_last)
      found = [slide_torch(scene, f"{scratch}/{i}.tif", task, device) for i in range(2)]
    return {"seconds": found[-1], "first_seconds": found[0]}


def _measure(what: str, scene) -> dict:
  command = [sys.executable, "-m", "benchmarks.mapping", f"--child={what},{scene}"]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
  if done.returncode:
    raise RuntimeError(f"{what}: {done.stderr[-2000:]}")
  return json.loads(done.stdout.splitlines()[-1])


def memory(folder: pathlib.Path, sides: list[int]) -> dict:
  """Peaks of the scenes, and of the network alone."""
  found = {}
  for side in sides:
    scene = folder / f"{side}.tif"
    write_scene(scene, side, share=0.1)
    found[str(side)] = _measure("memory", scene)
    print(side, found[str(side)], flush=True)
  found["alone"] = _measure("alone", scene)
  low, high = (found[str(side)]["peak_bytes"] for side in (min(sides), max(sides)))
  return {**found, "ratio": high / low, "beyond_network_bytes": high - found["alone"]["peak_bytes"]}


def speed(folder: pathlib.Path, side: int, *, quick: bool) -> dict:
  """Mpx/s of both programs, one network after the other."""
  scene, found = folder / "scene.tif", {"scene": side, "tile": TILE, "overlap": OVERLAP, "batch": BATCH}
  write_scene(scene, side)
  for size in ["small"] if quick else ["small", "paper"]:
    for program in ("ours", "torch"):
      seconds = _measure(f"{program}-{size}", scene)
      found[f"{program}-{size}"] = {**seconds, "mpx_per_s": side**2 / 1e6 / seconds["seconds"]}
      print(program, size, found[f"{program}-{size}"], flush=True)
  return found


def main(argv):
  del argv
  if _CHILD.value:
    print(json.dumps(_child(*_CHILD.value.split(",", 1))))
    return
  figures = {}
  with tempfile.TemporaryDirectory() as scratch:
    if _PART.value in ("memory", "all"):
      figures["memory"] = memory(pathlib.Path(scratch), [int(side) for side in _SIDES.value])
    if _PART.value in ("speed", "all"):
      figures["speed"] = speed(pathlib.Path(scratch), _SCENE.value, quick=_QUICK.value)
  if _OUT.value:
    pathlib.Path(_OUT.value).write_text(json.dumps({"machine": record.machine(), **figures}, indent=2) + "\n")
  else:
    print(record.write("mapping", figures))


if __name__ == "__main__":
  app.run(main)
