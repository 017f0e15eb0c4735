"""What `datasets.chips` starts from: its flags, checked before anything is read, its polygons and its imagery."""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Sequence

from absl import flags

from minec2f_jax import console
from minec2f_jax.data import sensors
from minec2f_jax.errors import UserError

SHOWN = 5  # Files that cannot be used, of which the console tells.


def check_flags(options: flags.FlagValues, names: Iterable[str]):
  """Raises a UserError that names the flag, where one of `names` has a value that cannot be meant."""
  from minec2f_jax.data import scenes

  for name in names:
    value = getattr(options, name)
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f"--{name}={value}: give a finite number")
  bands = options.bands
  if not bands or len(set(bands)) != len(bands) or not set(bands) <= set(sensors.ROLES):
    raise UserError(f"--bands={','.join(bands)}: name each band once, out of {','.join(sensors.ROLES)}")
  if options.sensor not in sensors.CHOICES:
    raise UserError(f"--sensor={options.sensor}: unknown; choose one of {', '.join(sensors.CHOICES)}")
  try:
    scenes.suffixes(options.drivers)
  except scenes.SceneError as err:
    raise UserError(f"--drivers={','.join(options.drivers)}: {err}") from err
  if not options.block_km > 0:
    raise UserError(f"--block_km={options.block_km:g}: must be above 0")
  for low, high in (("min_area_km2", "max_area_km2"), ("min_size_px", "max_size_px")):
    least, most = getattr(options, low), getattr(options, high)
    if most is not None and least > most:
      raise UserError(f"--{low}={least:g} is above --{high}={most:g}; exchange them")
  _check_search(options)
  if not options.stac_collections:
    _check_apart(options.imagery, options.output)


def chip_settings(options: flags.FlagValues):
  """`chips.ChipSettings` of the flags."""
  from minec2f_jax.data import chips

  names = {field.name for field in dataclasses.fields(chips.ChipSettings)} - {"roles", "drivers"}
  values = {name: getattr(options, name) for name in names}
  return chips.ChipSettings(roles=tuple(options.bands), drivers=tuple(options.drivers), **values)


def read_polygons(path, **kwargs):
  """`polygons.read_polygons` of a file that holds some, after a line on what was mended."""
  from minec2f_jax.data import polygons

  found, notes = polygons.read_polygons(path, **kwargs)
  for reason, count in notes.items():
    console.say(f"{path}: {count} rows: {reason}")
  if not found:
    raise UserError(f"{path}: holds no polygon; give a file that does, or another layer")
  return found


def find_scenes(options: flags.FlagValues, wanted):
  """The scenes that may serve the polygons `wanted`, after a line on what was found and left out."""
  from minec2f_jax.data import polygons, scene_folder

  reading = dict(roles=tuple(options.bands), sensor=options.sensor, drivers=tuple(options.drivers))
  if options.stac_collections:
    from minec2f_jax.data import stac

    place = polygons.extent(wanted)
    asked = dict(collections=options.stac_collections, datetime=options.stac_datetime, max_items=options.max_items)
    found = stac.search(options.imagery, bbox=place, **asked, **reading)
  elif options.stac:
    from minec2f_jax.data import stac

    found = stac.read_items(options.imagery, allow_remote=options.allow_remote, **reading)
  else:
    found = scene_folder.scan_folder(options.imagery, **reading)
  told = {path: reason for path, reason in found.rejected.items() if reason != scene_folder.NO_WANTED_BAND}
  console.say(f"imagery: {len(found.scenes)} scenes in {options.imagery}; not usable: {len(told)}")
  for path, reason in list(told.items())[:SHOWN]:
    console.say(f"  {path}: {reason}")
  if not found.scenes:
    raise UserError(f"{options.imagery}: no usable scene{'; the reasons stand above' if told else ''}")
  return found.scenes


def tell_apart(wanted, scenes: Sequence):
  """Says where polygons and imagery lie, and whether they would meet with longitude and latitude exchanged."""
  import shapely

  from minec2f_jax.data import polygons

  console.say("no polygon meets the imagery:")
  console.say(f"  polygons at {_place(polygons.extent(wanted))}")
  console.say(f"  imagery at {_place(shapely.total_bounds([scene.footprint for scene in scenes]))}")
  swapped = shapely.transform([polygon.geometry for polygon in wanted], lambda lonlat: lonlat[:, ::-1])
  if shapely.STRtree([scene.footprint for scene in scenes]).query(swapped, predicate="intersects").size:
    console.say("  with longitude and latitude exchanged they would meet; store longitude first")


def _check_search(options):
  extra = [name for name in ("stac_datetime", "max_items") if getattr(options, name) is not None]
  if extra and not options.stac_collections:
    raise UserError(f"--{extra[0]} is for the search of a STAC API; give --stac_collections, too")
  if options.stac_collections and not options.stac:
    raise UserError("--stac_collections searches a STAC API; give --stac, too")
  if options.stac_collections and not options.allow_remote:
    raise UserError(f"--imagery={options.imagery}: searched for in the network; allow it with --allow_remote")


def _check_apart(imagery, output):
  """A set among the scenes would be scanned with them, and scenes in the set would be somebody else's files there."""
  inside, outside = pathlib.Path(imagery).resolve(), pathlib.Path(output).resolve()
  if inside.is_relative_to(outside) or outside.is_relative_to(inside):
    raise UserError(f"--output={output} and --imagery={imagery} lie one in the other; choose another --output")


def _place(bounds):
  west, south, east, north = bounds
  return f"longitude {west:.5g} to {east:.5g}, latitude {south:.5g} to {north:.5g}"
