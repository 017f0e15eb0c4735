"""Makes a data set of chips from polygons and satellite imagery.

  python -m datasets.chips --polygons=mines.gpkg --imagery=SCENES --output=CHIPS

Polygons: GeoPackage, GeoJSON, GeoParquet, shapefile. Imagery: a folder of GeoTIFFs or COGs, or STAC items with --stac.
Each polygon becomes images/ID.tif (float32 reflectance, bands named by role) and masks/ID.tif, from the best scene that
shows it without clouds; a polygon that gives none is listed in quarantine.csv with the reasons. index.csv deals whole
blocks of the globe to train, validation and test, with a buffer between them. The same command goes on where an earlier
one was interrupted, and the result is the same to the byte.
"""

import collections
import dataclasses
import functools
import os
import pathlib
import shlex
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent import futures

from absl import app, flags, logging

from minec2f_jax import console
from minec2f_jax.data import sensors, splits
from minec2f_jax.errors import UserError

SHEET_CHIPS = 40
SHOWN = 5  # Files that cannot be used, of which the console tells.
_RGB = ("red", "green", "blue")
_IN_PROCESS = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
# Flags that do not decide on what is in the set.
_FREE = ("output", "workers", "runner", "beam_options", "polygons", "keep_away")


def define_flags(to: flags.FlagValues):
  """Defines the command's flags; not on import, for other commands have flags of the same names."""
  text = functools.partial(flags.DEFINE_string, flag_values=to)
  number = functools.partial(flags.DEFINE_float, flag_values=to)
  whole = functools.partial(flags.DEFINE_integer, flag_values=to)
  switch = functools.partial(flags.DEFINE_boolean, flag_values=to)
  choice = functools.partial(flags.DEFINE_enum, flag_values=to)
  listed = functools.partial(flags.DEFINE_list, flag_values=to)
  text("polygons", None, "File of polygons.", required=True)
  text("layer", None, "Its layer, where it has several.")
  text("id_column", "", "Its column to name chips by; default: by place.")
  text("imagery", None, "Folder of GeoTIFFs, searched to its depth; with --stac item JSON files.", required=True)
  text("output", None, "Folder to make, or to go on with.", required=True)
  choice("domain", "coarse", ["coarse", "fine"], "What the polygons are.")
  switch("stac", False, "Whether --imagery names a STAC item, an item collection or a folder of items.")
  switch("allow_remote", False, "Whether STAC items may point to http(s) and s3 addresses.")
  text("sensor", "auto", "Encoding of the imagery, e.g. sentinel2_l2a; default: what each file says.")
  listed("drivers", ["GTiff"], "GDAL drivers that may open imagery, e.g. GTiff,JP2OpenJPEG.")
  listed("bands", list(sensors.ROLES), "Bands of a chip, by role.")
  number("gsd_m", 0.0, "Pixel size in metres, in UTM; 0 keeps the pixels of the imagery.", lower_bound=0.0)
  number("min_area_km2", 0.0, "Leaves smaller polygons out, though not of their neighbours' masks.", lower_bound=0.0)
  number("max_area_km2", None, "Leaves larger polygons out likewise; default: none.", lower_bound=0.0)
  number("margin", 0.25, "Ground around a polygon on each side, as a share of its longer extent.", lower_bound=0.0)
  number("min_margin_m", 200.0, "The same in metres, at least.", lower_bound=0.0)
  whole("min_size_px", 32, "Least height and width of a chip.", lower_bound=1)
  whole("max_size_px", 2048, "Largest height and width of a chip.", lower_bound=1)
  number("min_valid", 0.8, "Least share of pixels with data.", lower_bound=0.0, upper_bound=1.0)
  number("max_cloud", 0.2, "Largest share of clouds and their shadows.", lower_bound=0.0, upper_bound=1.0)
  switch("mask_clouds", True, "Whether the clouds that remain become invalid pixels.")
  number("block_km", 50.0, "Side of the blocks that are dealt to splits as a whole.", lower_bound=0.0)
  number("buffer_km", 5.0, "Least distance between chips of different splits, and to --keep_away.", lower_bound=0.0)
  text("keep_away", None, "File of polygons no chip may come near, e.g. those of the fine set.")
  text("keep_away_layer", None, "Its layer, where it has several.")
  whole("seed", 0, "Another seed deals the blocks otherwise.", lower_bound=0)
  whole("workers", None, "Threads; default: as many as there are processors.", lower_bound=1)
  choice("runner", "local", ["local", "beam"], "Threads here, or an Apache Beam pipeline.")
  text("beam_options", "", 'Options of that pipeline, e.g. "--runner=DataflowRunner --project=P".')


def make_set(options: flags.FlagValues):
  """Makes the set that the flags describe, or goes on with it, and says what became of it.

  Raises:
    UserError: inputs, settings or output are not in order.
  """
  from minec2f_jax.data import chip_plan, chip_set, polygons

  began = time.monotonic()
  settings, output = _chip_settings(options), pathlib.Path(options.output)
  every = _read_polygons(options.polygons, layer=options.layer, id_column=options.id_column)
  keep_away = _read_polygons(options.keep_away, layer=options.keep_away_layer) if options.keep_away else ()
  recorded = _recorded(options)
  chip_set.check(output, recorded)
  largest = float("inf") if options.max_area_km2 is None else options.max_area_km2
  wanted = polygons.filter_by_area(every, min_km2=options.min_area_km2, max_km2=largest)
  console.say(f"polygons: {len(every)} in {options.polygons}, {len(wanted)} of the wanted area")
  if not wanted:
    raise UserError(f"{options.polygons}: no polygon of the wanted area; change --min_area_km2 or --max_area_km2")
  dealing = {name: getattr(options, name) for name in ("domain", "block_km", "buffer_km", "seed")}
  plan = chip_plan.make_plan(wanted, every, _scan(options, settings), settings, keep_away=keep_away, **dealing)
  chip_set.claim(output, recorded)
  if options.runner == "beam":
    outcomes = run_beam(plan.jobs, settings, output, options.beam_options)
  else:
    outcomes = run_threads(plan.jobs, settings, output, options.workers or os.cpu_count())
  outcomes = sorted((*outcomes, *plan.left_out), key=lambda outcome: outcome.id)
  chip_set.write_index(output, outcomes)
  text = chip_set.manifest(output, outcomes, {"file": pathlib.Path(options.polygons).name, "wanted": len(wanted)})
  if not (chip_set.is_whole(output, text) and (output / "contact_sheet.png").is_file()):
    draw_contact_sheet(output, outcomes, settings.roles)
    chip_set.write_manifest(output, text)
  _summarize(output, outcomes, options.domain, time.monotonic() - began)


def run_threads(jobs, settings, output, workers: int) -> Iterator:
  """Yields the outcome of every job, in the order in which threads finish them."""
  from minec2f_jax.data import chips

  with futures.ThreadPoolExecutor(workers) as pool:
    pending = [pool.submit(chips.make_chip, job, settings, output) for job in jobs]
    try:
      for done in console.track(futures.as_completed(pending), total=len(pending), unit="chips", title="chips"):
        yield done.result()
    finally:
      pool.shutdown(cancel_futures=True)


def run_beam(jobs, settings, output, beam_options: str) -> list:
  """The outcome of every job, each made by `chips.make_chip` as an element of an Apache Beam pipeline.

  Any runner will do (Flink, Spark, Dataflow): jobs are pickled. Imagery and output must lie under paths that all
  workers and this process see, e.g. a network file system, and workers need this package installed. Without a --runner
  among the options the pipeline runs in this process.
  """
  from minec2f_jax.data import chips

  beam, pipeline = _open_pipeline(beam_options)
  lines = pathlib.Path(output).absolute() / "outcomes"
  shutil.rmtree(lines, ignore_errors=True)
  with pipeline:
    outcomes = pipeline | beam.Create(jobs) | beam.Reshuffle() | beam.Map(chips.make_chip, settings, str(lines.parent))
    outcomes | beam.Map(chips.Outcome.to_json) | beam.io.WriteToText(str(lines / "part"))
  told = [line for part in sorted(lines.glob("part*")) for line in part.read_text(encoding="utf-8").splitlines()]
  shutil.rmtree(lines, ignore_errors=True)
  return [chips.Outcome.from_json(line) for line in told]


def draw_contact_sheet(output, outcomes, roles: Sequence[str]):
  """Writes contact_sheet.png: up to SHEET_CHIPS chips, evenly spaced in the order of their area."""
  import numpy as np

  from minec2f_jax.data import contact_sheet, geotiff

  made = sorted((o for o in outcomes if o.hashes), key=lambda o: (float(o.row["area_km2"]), o.id))
  shown = [roles.index(role) for role in _RGB] if set(_RGB) <= set(roles) else [i % len(roles) for i in range(3)]
  pictures = []
  for index in contact_sheet.evenly_spaced(len(made), SHEET_CHIPS):
    row = made[index].row
    image, valid = geotiff.read_chip(output / "images" / f"{row['id']}.tif", roles=roles, sensor="reflectance")
    label, _ = geotiff.read_mask(output / "masks" / f"{row['id']}.tif")
    size = f"{row['height']} x {row['width']} px of {float(row['gsd_m']):.3g} m"
    note = f"{float(row['area_km2']):.3g} km2, {size}"
    pictures.append(contact_sheet.Chip(row["id"], note, row["split"], np.take(image, shown, -1), valid, label))
  title = f"{len(pictures)} of {len(made)} chips, by area; {', '.join(roles[i] for i in shown)}"
  contact_sheet.save(output / "contact_sheet.png", contact_sheet.draw(pictures, title=title))


def _open_pipeline(beam_options):
  """(the module apache_beam, a pipeline of these options)."""
  try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
  except ImportError as err:
    raise UserError("--runner=beam needs Apache Beam: pip install -e '.[beam]'") from err
  try:
    # Beam's own default, the DirectRunner, would download a program to run the pipeline with.
    options = [f"--runner={_IN_PROCESS}", *shlex.split(beam_options)]
    return beam, beam.Pipeline(options=PipelineOptions(options))
  except (ValueError, ImportError, AttributeError) as err:
    raise UserError(f"--beam_options={beam_options!r}: Beam refuses them: {err}") from err


def _chip_settings(options):
  from minec2f_jax.data import chips

  names = {field.name for field in dataclasses.fields(chips.ChipSettings)} - {"roles", "drivers"}
  values = {name: getattr(options, name) for name in names}
  return chips.ChipSettings(roles=sensors.check_roles(options.bands), drivers=tuple(options.drivers), **values)


def _recorded(options):
  """What settings.json says: every flag that decides on the set, files by their content."""
  from minec2f_jax.data import chip_set

  own = flags.FlagValues()
  define_flags(own)
  values = {name: getattr(options, name) for name in own if name not in _FREE}
  files = {"polygons": options.polygons, "keep_away": options.keep_away}
  return values | {f"{name}_sha256": path and chip_set.sha256(path) for name, path in files.items()}


def _read_polygons(path, **kwargs):
  from minec2f_jax.data import polygons

  found, notes = polygons.read_polygons(path, **kwargs)
  for reason, count in notes.items():
    console.say(f"{path}: {count} rows: {reason}")
  return found


def _scan(options, settings):
  """Scenes of the imagery, after a line on what was found and left out."""
  from minec2f_jax.data import scenes

  reading = dict(roles=settings.roles, sensor=options.sensor, drivers=settings.drivers)
  if options.stac:
    from minec2f_jax.data import stac

    found = stac.read_items(options.imagery, allow_remote=options.allow_remote, **reading)
  else:
    found = scenes.scan_folder(options.imagery, **reading)
  told = {path: reason for path, reason in found.rejected.items() if reason != scenes.NO_WANTED_BAND}
  console.say(f"imagery: {len(found.scenes)} scenes in {options.imagery}; not usable: {len(told)}")
  for path, reason in list(told.items())[:SHOWN]:
    console.say(f"  {path}: {reason}")
  if not found.scenes:
    raise UserError(f"{options.imagery}: no usable scene{'; the reasons stand above' if told else ''}")
  return found.scenes


def _summarize(output, outcomes, domain, busy_s):
  made = [outcome for outcome in outcomes if outcome.hashes]
  refused = [outcome for outcome in outcomes if not outcome.hashes]
  kept = sum(outcome.reused for outcome in made)
  counts = collections.Counter(outcome.row["split"] for outcome in made)
  shares = ", ".join(f"{split} {counts[split]}" for split in splits.SHARES)
  console.say(f"chips: {len(made)} ({shares}), {kept} of them from an earlier run, {console.duration(busy_s)} in all")
  if refused:
    kinds = collections.Counter(outcome.reasons[0][1].partition(":")[0] for outcome in refused)
    listed = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    console.say(f"quarantine: {len(refused)} polygons ({listed}), see {output / 'quarantine.csv'}")
  lacking = [split for split in splits.SHARES if not counts[split]]
  if made and lacking:
    console.say(f"no chip in {', '.join(lacking)}: lower --block_km, or add imagery of other places")
  if made:
    console.say(f"look at {output / 'contact_sheet.png'}")
    place = shlex.quote(str(output))
    console.say(f"pack them: python -m datasets.prepare --dataset=mining_{domain} --manual_dir={place}")
    console.say(f"or train at once: --config.data.{domain}.path={place}")
  else:
    console.say(f"no chip could be made; the reasons are in {output / 'quarantine.csv'}")


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.ERROR)  # GDAL tells at length of a corrupt file, Beam of everything.
  try:
    # Rasterio mutes this one while it works in memory, but not for the threads beside it.
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")
    make_set(flags.FLAGS)
  except UserError as err:
    sys.exit(f"datasets.chips: {err}")


def _stop(signum, frame):
  """Ends the process at once. Files are written beside their place and renamed, so none can be half."""
  del frame
  # Not an exception: threads that read imagery would be waited for.
  os.write(2, b"\ndatasets.chips: interrupted; the same command goes on with the chips that are missing.\n")
  os._exit(128 + signum)


if __name__ == "__main__":
  signal.signal(signal.SIGINT, _stop)
  signal.signal(signal.SIGTERM, _stop)
  define_flags(flags.FLAGS)
  app.run(main)
