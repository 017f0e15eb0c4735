"""Maps of scenes of any size: probability, mask and validity as GeoTIFFs on exactly the scene's pixels.

output/NAME/probability.tif   stored as `data.encoding` says
output/NAME/mask.tif          1 where the probability is above the threshold, 0 elsewhere, 255 where not valid
output/NAME/valid.tif         1 where every band holds reflectance (and does so in what the network saw), 0 elsewhere
output/NAME/map.json          what they were made from, by what; written last: where it stands, the map is finished

Until then output/NAME/.partial holds what is done (`strips`), and the same command goes on from there; on a CPU it ends
with the same bytes as one that nobody disturbed. (In another process a GPU may choose other algorithms of the same
convolution: then strips differ by rounding, at most by one stored unit.)
"""

import functools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from minec2f_jax import __version__, console, files, host
from minec2f_jax.data import encoding as encodings
from minec2f_jax.data import rasterfile
from minec2f_jax.errors import UserError
from minec2f_jax.mapping import cog, scene_input
from minec2f_jax.mapping.scene_input import Grid, SceneInput
from minec2f_jax.mapping.strips import FOLDER, Strips, hash_of
from minec2f_jax.mapping.tiling import Probabilities, Tiling, map_strips

NOTE = "map.json"
INVALID = 255  # Of a mask.
_CACHE_BYTES = 24 * 2**20  # GDAL's, of decoded blocks: decoding some again costs little beside a network.
_SAME_SIZE = 0.1  # Training scales images by 30 %: pixels of nearly the right size need no resampling.


class Network(NamedTuple):
  """What a map needs of a network.

  Attributes:
    probabilities: see `tiling.Probabilities`.
    note: for map.json; plain JSON with "model_sha256" and "bands".
    sides_m: (height, width) on the ground of the pixels that it learnt from; None if unknown.
  """

  probabilities: Probabilities
  note: Mapping
  sides_m: tuple[float, float] | None


class Settings(NamedTuple):
  """How to map.

  Attributes:
    tile: side of a tile in pixels, as the network sees them.
    overlap: of neighbouring tiles in pixels, below `tile`.
    batch: tiles that go through the network at once.
    threshold: a mask is 1 above it; 0 <= threshold < 1.
    dtype: key of `encoding.ENCODINGS`.
  """

  tile: int
  overlap: int
  batch: int
  threshold: float = 0.5
  dtype: str = "uint16"


def check_settings(settings: Settings):
  """Raises one UserError about every value that cannot be."""
  tile, overlap, batch, threshold, dtype = settings
  wrong = {
    f"tile={tile}: give at least 1 pixel": tile < 1,
    f"overlap={overlap}: give 0 to tile - 1 = {tile - 1} pixels": not 0 <= overlap < max(tile, 1),
    f"batch={batch}: give at least 1 tile": batch < 1,
    f"threshold={threshold}: give a probability from 0 to below 1": not 0 <= threshold < 1,
    f"dtype={dtype!r}: give one of {tuple(encodings.ENCODINGS)}": dtype not in encodings.ENCODINGS,
  }
  if found := [text for text, is_wrong in wrong.items() if is_wrong]:
    raise UserError(f"a map cannot be made with {'; '.join(found)}.")


def map_scenes(
  scenes: Sequence[SceneInput],
  output,
  network: Network,
  settings: Settings,
  *,
  name_of: Callable[[str], str] = str,
  broken: Mapping[str, str] | None = None,
) -> list[pathlib.Path]:
  """Maps scene after scene; finished ones are passed over, and what cannot be mapped is told at the end.

  Args:
    scenes: of `scene_input.find`.
    output: folder of the maps; held against a second process.
    network: that maps.
    settings: how.
    name_of: name of a scene -> name of a folder, another one for each.
    broken: what could not be opened -> why.

  Returns:
    The folders of the maps.

  Raises:
    UserError: `output` cannot be written or another process is at work there; or, after all others are mapped, what
      could not be.
  """
  check_settings(settings)
  broken, finished = dict(broken or {}), []
  with files.held(pathlib.Path(output), "--output"), rasterfile.bounded_cache(_CACHE_BYTES):
    for scene in scenes:
      folder = pathlib.Path(output) / name_of(scene.name)
      try:
        map_scene(scene, folder, network, settings)
        finished.append(folder)
      except UserError as error:
        if len(scenes) + len(broken) == 1:
          raise
        console.say(f"[{scene.name}] cannot be mapped: {error}")
        broken[scene.name] = str(error)
  if finished:
    console.say(f"{len(finished)} map{'s' * (len(finished) != 1)}, a folder each, in {output}")
  if broken:
    listed = "".join(f"\n  {name}: {why}" for name, why in sorted(broken.items()))
    raise UserError(f"{len(broken)} of {len(broken) + len(finished)} scenes cannot be mapped:{listed}")
  return finished


def map_scene(scene: SceneInput, folder: pathlib.Path, network: Network, settings: Settings):
  """Makes the map of one scene in `folder`, or what it still lacks.

  Raises:
    UserError: the scene cannot be read, or the folder not be written.
  """
  say = lambda text: console.say(f"[{scene.name}] {text}")
  grid = _network_grid(scene, network.sides_m, say)
  tiling = Tiling(grid, settings.tile, settings.overlap, settings.batch)
  plan = _plan(scene, network, settings, grid)
  if _is_finished(folder, scene, plan):
    say(f"is mapped already: {folder}")
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    return
  if (folder / NOTE).exists():
    say("is mapped anew: the map that is there is of another model or setting, or older than the scene")
  strips = Strips(folder / FOLDER, plan, width=scene.place.width, dtype=settings.dtype)
  if strips.restarted:
    say(f"begins anew: what was there is of another {strips.restarted}")
  done = strips.count(tiling.count)
  if done:
    say(f"goes on after strip {done} of {tiling.count}")
  _map_strips(scene, tiling, network.probabilities, strips, settings, done)
  note = _write_files(scene, folder, strips, tiling, settings)
  files.write_json(folder / NOTE, _noted(scene, network, plan, note))
  strips.remove()


def _network_grid(scene: SceneInput, sides_m: tuple[float, float] | None, say: Callable[[str], None]) -> Grid:
  """The pixels that the network is to see: of the size that it knows, where that is known."""
  shape, own = (scene.place.height, scene.place.width), scene.sides_m
  if sides_m is None or own is None:
    whose = (
      "the network learnt from is not known (--pixel_size_m tells)" if sides_m is None else "the scene has is not known"
    )
    say(f"pixels are taken as they are: how large those are that {whose}")
    return Grid(shape, (1.0, 1.0))
  factors = tuple(round(wanted / side, 4) for wanted, side in zip(sides_m, own))
  factors = tuple(1.0 if abs(factor - 1) <= _SAME_SIZE else factor for factor in factors)
  if factors != (1.0, 1.0):
    say(f"pixels of {own[0]:.3g} x {own[1]:.3g} m are shown to the network as {sides_m[0]:.3g} x {sides_m[1]:.3g} m")
  return Grid(shape, factors)


def _plan(scene: SceneInput, network: Network, settings: Settings, grid: Grid) -> dict:
  """Everything that decides the map's bytes, as plain JSON."""
  place = scene.place
  return {
    "version": __version__,
    "scene": {"name": scene.name, "files": scene_input.identify(scene), "sensor": scene.sensor},
    "bands": [band.index for band in scene.bands],
    "place": [place.crs and str(place.crs), place.transform and list(place.transform)[:6], place.height, place.width],
    "network": dict(network.note),
    "settings": settings._asdict(),
    "factors": list(grid.factors),
  }


def _lasting(plan: Mapping) -> str:
  """Hash of a plan but for dates of files, which a copy has of its own."""
  plan = json.loads(json.dumps(plan))
  for file in plan["scene"]["files"]:
    del file["mtime_ns"]
  return hash_of(plan)


def _is_finished(folder: pathlib.Path, scene: SceneInput, plan: Mapping) -> bool:
  """Whether the map of this plan stands in `folder`, and no file of the scene is younger."""
  try:
    note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    youngest = max(os.stat(path).st_mtime_ns for path in scene.files)
    whole = all((folder / f"{name}.tif").is_file() for name in note["sha256"])
    return whole and note["plan"] == _lasting(plan) and youngest <= os.stat(folder / NOTE).st_mtime_ns
  except (OSError, ValueError, KeyError, TypeError):
    return False


def _map_strips(scene, tiling: Tiling, probabilities, strips: Strips, settings: Settings, done: int):
  """Makes strips from `done` on, with their pace on the console."""
  left = tiling.scene_rows(done)[0] if done < tiling.count else tiling.grid.scene[0]
  total = (tiling.grid.scene[0] - left) * tiling.grid.scene[1] / 1e6
  keep = functools.partial(_keep, strips, settings=settings)
  # `map` as a loop would hold on to a strip, as wide as the scene, while the next one is made.
  sizes = map(keep, map_strips(scene, tiling, probabilities, done=done))
  for _ in console.track(sizes, total=total, unit="Mpx", title=scene.name, amount=lambda size: size / 1e6):
    host.give_back_memory()  # Of four threads' images malloc keeps the more the longer a scene takes.


def _keep(strips: Strips, strip: tuple[int, np.ndarray, np.ndarray], *, settings: Settings) -> int:
  """Writes a strip of `map_strips` as it is stored; how many pixels it has."""
  (index, probability, valid), encoding = strip, encodings.ENCODINGS[settings.dtype]
  stored = np.full(valid.shape, encoding.nodata, encoding.dtype)
  for row, held in enumerate(valid):  # Row by row, as copies of a strip would count.
    stored[row, held] = encodings.encode(probability[row, held], settings.threshold, encoding)
  strips.write(index, stored)
  return stored.size


def _write_files(scene: SceneInput, folder: pathlib.Path, strips: Strips, tiling: Tiling, settings: Settings) -> dict:
  """Puts the three rasters in place of any others; what map.json says of them."""
  place = scene.place
  blocks = functools.partial(strips.blocks, tiling.count, cog.BLOCK)
  sums = cog.write_layers(strips.folder, _layers(settings), place, blocks)
  (folder / NOTE).unlink(missing_ok=True)
  try:
    for name in sums:
      os.replace(strips.folder / f"{name}.tif", folder / f"{name}.tif")
  except OSError as error:
    raise UserError(f"{folder}: cannot be written ({error}); choose another --output") from error
  return {
    "pixels": {"mine": sums["mask"], "valid": sums["valid"], "all": place.height * place.width},
    "sha256": {name: files.sha256(folder / f"{name}.tif") for name in sums},
  }


def _layers(settings: Settings) -> list[cog.Layer]:
  encoding = encodings.ENCODINGS[settings.dtype]
  cut = encodings.highest_below(settings.threshold, encoding)
  mask = lambda stored: np.where(stored == encoding.nodata, np.uint8(INVALID), (stored > cut).astype(np.uint8))
  told = {"scale": encoding.describe()}
  above = {"threshold": f"1 where the probability is above {settings.threshold:g}; {INVALID} = not valid"}
  return [
    cog.Layer("probability", np.asarray, settings.dtype, encoding.nodata, "probability of a mine", told, "AVERAGE"),
    cog.Layer("mask", mask, "uint8", INVALID, "mine", above, "NEAREST"),
    cog.Layer("valid", lambda stored: stored != encoding.nodata, "uint8", None, "valid", {}, "NEAREST"),
  ]


def _noted(scene: SceneInput, network: Network, plan: Mapping, files_note: Mapping) -> dict:
  """The content of map.json: no clock, no path."""
  own, settings = scene.sides_m, plan["settings"]
  seen = own and [side * factor for side, factor in zip(own, plan["factors"])]
  note = {
    **network.note,
    **settings,
    **files_note,
    "version": __version__,
    "scene": scene.name,
    "files": [{key: value for key, value in file.items() if key != "mtime_ns"} for file in plan["scene"]["files"]],
    "sensor": scene.encoding,
    "date": scene.date,
    "pixel_size_m": own and list(own),
    "network_pixel_size_m": seen,
    "plan": _lasting(plan),
  }
  return json.loads(json.dumps(note, sort_keys=True))
