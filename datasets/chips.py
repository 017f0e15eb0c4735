"""Makes a data set of chips from polygons and satellite imagery.

  python -m datasets.chips --polygons=mines.gpkg --imagery=SCENES --output=CHIPS

Polygons: GeoPackage, GeoJSON, GeoParquet, shapefile. Imagery: a folder of GeoTIFFs or COGs, or STAC items with --stac.
Each polygon becomes images/ID.tif (float32 reflectance, bands named by role) and masks/ID.tif, from the best scene that
shows it without clouds; a polygon that gives none is listed in quarantine.csv with the reasons. index.csv deals whole
blocks of the globe to train, validation and test, with a buffer between them. The same command goes on where an earlier
one was interrupted, and the result is the same to the byte; chips of scenes whose files changed, or were touched, are
made again.
"""

import argparse
import functools
import json
import os
import pathlib
import shlex
import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from concurrent import futures

from absl import app, flags, logging

from datasets import command
from minec2f_jax import console
from minec2f_jax.data import sensors
from minec2f_jax.errors import UserError

_IN_PROCESS = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
_OUTCOMES = "outcomes"  # Folder in the set through which Beam's workers answer; gone when they have.
# Flags that do not decide on what is in the set; polygons count by their content, imagery in the note of every chip.
_FREE = (
  *("output", "workers", "runner", "beam_options", "polygons", "keep_away"),
  *("imagery", "stac", "stac_collections", "stac_datetime", "max_items"),
)


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
  text("imagery", None, "Folder of GeoTIFFs, searched to its depth; with --stac JSON files or an API.", required=True)
  text("output", None, "Folder to make, or to go on with.", required=True)
  choice("domain", "coarse", ["coarse", "fine"], "What the polygons are.")
  switch("stac", False, "Whether --imagery names a STAC item, an item collection or a folder of items.")
  listed("stac_collections", [], "Collections to search; --imagery is then the address of a STAC API. Needs --stac.")
  text("stac_datetime", None, 'Dates to search, e.g. "2021-06-01/2021-08-31"; default: all.')
  whole("max_items", None, "Most items to take from the search; default: all.", lower_bound=1)
  switch("allow_remote", False, "Whether STAC APIs may be asked, and items point to http(s) and s3 addresses.")
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
  number("min_valid", 0.8, "Least share of pixels with data, clouds among them.", lower_bound=0.0, upper_bound=1.0)
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
  from datasets import chip_inputs
  from minec2f_jax.data import chip_set

  chip_inputs.check_flags(options, _names())
  with chip_set.held(options.output) as output:
    _make_set(options, output)


def _make_set(options, output):
  from datasets import chip_inputs, chip_report
  from minec2f_jax.data import chip_set, contact_sheet

  began, settings = time.monotonic(), chip_inputs.chip_settings(options)
  recorded, wanted, plan = _plan(options, settings, output)
  chip_set.claim(output, recorded)
  shutil.rmtree(output / _OUTCOMES, ignore_errors=True)  # Left of a killed run.
  if options.runner == "beam":
    outcomes = run_beam(plan.jobs, settings, output, options.beam_options)
  else:
    outcomes = run_threads(plan.jobs, settings, output, options.workers or os.cpu_count())
  outcomes = sorted((*outcomes, *plan.left_out), key=lambda outcome: outcome.id)
  chip_set.write_index(output, outcomes)
  told = {"file": pathlib.Path(options.polygons).name, "wanted": wanted}
  manifest = chip_set.manifest(output, outcomes, told)
  if not (chip_set.is_whole(output, manifest) and (output / "contact_sheet.png").is_file()):
    contact_sheet.draw_set(output, [outcome.row for outcome in outcomes if outcome.hashes], roles=settings.roles)
    chip_set.write_manifest(output, manifest)
  chip_report.say_counts(output, outcomes, time.monotonic() - began)
  chip_report.say_next(output, outcomes, domain=options.domain, roles=settings.roles)


def _plan(options, settings, output):
  """(what settings.json will say, how many polygons are wanted, the plan of their chips)."""
  from datasets import chip_inputs
  from minec2f_jax.data import chip_plan, chip_set, polygons

  every = chip_inputs.read_polygons(options.polygons, layer=options.layer, id_column=options.id_column)
  keep_away = ()
  if options.keep_away:
    keep_away = chip_inputs.read_polygons(options.keep_away, layer=options.keep_away_layer)
  recorded = _recorded(options)
  chip_set.check(output, recorded)
  largest = float("inf") if options.max_area_km2 is None else options.max_area_km2
  wanted = polygons.filter_by_area(every, min_km2=options.min_area_km2, max_km2=largest)
  console.say(f"polygons: {len(every)} in {options.polygons}, {len(wanted)} of the wanted area")
  if not wanted:
    raise UserError(f"{options.polygons}: no polygon of the wanted area; change --min_area_km2 or --max_area_km2")
  scenes = chip_inputs.find_scenes(options, wanted)
  dealing = {name: getattr(options, name) for name in ("domain", "block_km", "buffer_km", "seed")}
  plan = chip_plan.make_plan(wanted, every, scenes, settings, keep_away=keep_away, **dealing)
  if plan.none_meets:
    chip_inputs.tell_apart(wanted, scenes)
  return recorded, len(wanted), plan


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
  lines = pathlib.Path(output).absolute() / _OUTCOMES
  try:
    with pipeline:
      told = pipeline | beam.Create(jobs) | beam.Reshuffle() | beam.Map(_line_of, settings, str(lines.parent))
      told | beam.io.WriteToText(str(lines / "part"))
    parts = [part.read_text(encoding="utf-8") for part in sorted(lines.glob("part*"))]
  finally:
    shutil.rmtree(lines, ignore_errors=True)
  told = [json.loads(line) for part in parts for line in part.splitlines()]
  failed = [outcome["error"] for outcome in told if "error" in outcome]
  if failed:
    raise UserError(min(failed) + (f" (and {len(failed) - 1} chips more)" if len(failed) > 1 else ""))
  return [chips.Outcome.from_dict(outcome) for outcome in told]


def _line_of(job, settings, output: str) -> str:
  """The outcome of a job as JSON, or the error that stops the run: what a worker raises arrives as a long text."""
  import dataclasses
  import json

  from minec2f_jax.data import chips
  from minec2f_jax.errors import UserError

  try:
    return json.dumps(dataclasses.asdict(chips.make_chip(job, settings, output)))
  except (UserError, OSError) as err:
    return json.dumps({"error": str(err)})


def _open_pipeline(beam_options):
  """(the module apache_beam, a pipeline of these options)."""
  try:
    import apache_beam as beam
    from apache_beam.options import pipeline_options
  except ImportError as err:
    raise UserError("--runner=beam needs Apache Beam: pip install -e '.[beam]'") from err
  refused = f"--beam_options={beam_options!r}: Beam refuses them"
  try:
    # Beam's own default, the DirectRunner, would download a program to run the pipeline with.
    words = [f"--runner={_IN_PROCESS}", *shlex.split(beam_options)]
    unknown = _unknown_options(pipeline_options, words)
    if unknown:
      raise UserError(f"{refused}: {' '.join(unknown)} unknown; see Beam's pipeline options")
    return beam, beam.Pipeline(options=pipeline_options.PipelineOptions(words))
  except UserError:
    raise
  except (argparse.ArgumentError, ValueError, ImportError, AttributeError) as err:
    raise UserError(f"{refused}: {err}") from err


def _unknown_options(pipeline_options, words) -> list[str]:
  """Those of `words` that no part of Beam claims: it would pass over them with a warning."""
  if not hasattr(pipeline_options, "_BeamArgumentParser"):  # Not public: another version may have none.
    return []
  parser = pipeline_options._BeamArgumentParser(allow_abbrev=False, conflict_handler="resolve", exit_on_error=False)
  for part in pipeline_options.PipelineOptions.__subclasses__():
    part._add_argparse_args(parser)  # As Beam does itself.
  return parser.parse_known_args(words)[1]


def _names() -> list[str]:
  """The flags of this command."""
  own = flags.FlagValues()
  define_flags(own)
  return list(own)


def _recorded(options):
  """What settings.json says: every flag that decides on the set, files by their content."""
  from minec2f_jax.data import chip_set

  values = {name: getattr(options, name) for name in _names() if name not in _FREE}
  files = {"polygons": options.polygons, "keep_away": options.keep_away}
  return values | {f"{name}_sha256": path and chip_set.sha256(path) for name, path in files.items()}


def main(argv):
  # Rasterio mutes this one while it works in memory, but not for the threads beside it.
  warnings.filterwarnings("ignore", message="Dataset has no geotransform")
  # GDAL tells at length of a corrupt file, Beam of everything.
  command.run(make_set, argv, name="datasets.chips", again="goes on", verbosity=logging.ERROR)


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
