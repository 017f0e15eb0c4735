"""Preparing mining_fine or mining_coarse: check everything, write records, and say what came out of it."""

import collections
import dataclasses
import importlib
import json
import os
import pathlib
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Mapping

import tensorflow_datasets as tfds

from datasets import chip_builder, chip_records, hashing
from minec2f_jax import console, files
from minec2f_jax.data import folder, splits, tfds_source
from minec2f_jax.errors import UserError

BUILDERS = {"mining_fine": "MiningFine", "mining_coarse": "MiningCoarse"}
MANIFEST, SUMMARY = "manifest.json", "summary.json"
SHOWN = 20  # Ids of a kind on the console; all stand in the summary.
# What GDAL reads beside a file: a mask; nodata, band names and more.
_SIDECARS = (".msk", ".aux.xml")
# Of configs/fine_hybrid.py: what differs is part of the flags to train with.
_USUAL_BANDS, _USUAL_SIZE = chip_records.BANDS["rgb_nir_swir"], chip_records.SIZES[0]


@dataclasses.dataclass(frozen=True)
class Target:
  """What is to be prepared, and where: `path` is the version folder."""

  builder: type[chip_builder.ChipBuilder]
  config: chip_builder.ChipConfig
  path: pathlib.Path

  @property
  def name(self) -> str:
    return f"{self.builder.name}/{self.config.name}"

  @property
  def domain(self) -> str:
    return self.builder.name.removeprefix("mining_")


def find(dataset: str, data_dir) -> Target:
  """The `Target` of "mining_fine" or "mining_fine/rgb"; UserError lists the choices."""
  name, _, wanted = dataset.partition("/")
  if name not in BUILDERS:
    raise UserError(f"--dataset={dataset}: there is no {name!r}; choose one of {', '.join(BUILDERS)} or mining_demo")
  builder = getattr(importlib.import_module(f"datasets.{name}.{name}_dataset_builder"), BUILDERS[name])
  configs = {config.name: config for config in builder.BUILDER_CONFIGS}
  if wanted and wanted not in configs:
    raise UserError(f"--dataset={dataset}: {name} has no config {wanted!r}; choose one of {', '.join(configs)}")
  config = configs[wanted] if wanted else builder.BUILDER_CONFIGS[0]
  path = pathlib.Path(data_dir).expanduser().resolve() / name / config.name / str(builder.VERSION)
  return Target(builder, config, path)


def prepare(target: Target, manual_dir, *, sensor: str = "auto", skip_broken: bool = False) -> dict:
  """Makes the dataset, or finds it made from these very files; returns its summary.

  It is written beside its place and renamed when complete, so that a killed call leaves nothing that looks finished;
  the next one removes what is left. Two calls at once are told apart by a lock on the folder.

  Args:
    target: of `find`.
    manual_dir: folder with index.csv.
    sensor: encoding of rows that name none.
    skip_broken: leave chips out that cannot be used, instead of refusing all.

  Raises:
    UserError: the folder is not in order, the dataset is there already but was made otherwise, another call is making
      it, or there is no room.
  """
  manual_dir = pathlib.Path(manual_dir).expanduser()
  layout = target.config.layout
  settings = {"bands": layout.bands, "size": layout.size, "patches": layout.patches}
  settings |= {"sensor": sensor, "skip_broken": skip_broken}
  settings = json.loads(json.dumps(settings))  # As a manifest gives them back.
  if target.path.exists():
    _check_same(target, manual_dir, settings)
    return read_summary(target)
  plan = _sound_plan(target, manual_dir, sensor=sensor, skip_broken=skip_broken)
  inputs = _hash_inputs(manual_dir, plan.rows)
  target.path.parent.mkdir(parents=True, exist_ok=True)
  with files.locked(target.path.parent):
    if target.path.exists():
      console.say(f"{target.path} was finished by another call meanwhile")
      _check_same(target, manual_dir, settings)
      return read_summary(target)
    return _write(target, plan, {"dataset": target.name, "settings": settings, "inputs": inputs})


def _sound_plan(target: Target, manual_dir: pathlib.Path, *, sensor: str, skip_broken: bool) -> chip_records.Plan:
  """A plan with chips, none of which is broken."""
  plan = target.builder.make_plan(target.config, manual_dir, sensor=sensor)
  broken = {**plan.broken, **_unreadable(plan)} if plan.chips else plan.broken
  if broken and not skip_broken:
    message = folder.describe_broken(manual_dir, broken, len(plan.rows))
    if len(broken) == len(plan.rows):
      raise UserError(message + "\n(What is config.data.sensor in training is --sensor here.)")
    raise UserError(message + "\nCorrect them, or leave them out with --skip_broken")
  if broken:
    skip = {name: f"broken: {_inside(manual_dir, why)}" for name, why in broken.items()}
    plan = target.builder.make_plan(target.config, manual_dir, sensor=sensor, skip=skip)
  if not plan.chips:
    raise UserError(f"{manual_dir}: {target.builder.why_nothing(target.config, plan)}")
  return plan


def _inside(root: pathlib.Path, message: str) -> str:
  """A message with the paths of files below `root` relative to it."""
  return message if root == pathlib.Path() else message.replace(os.path.join(root, ""), "")


def _unreadable(plan: chip_records.Plan) -> dict[str, str]:
  """id -> why, of chips whose pixels cannot be read although their headers are in order."""
  found = {}
  for chip in console.track(plan.chips, total=len(plan.chips), unit="images", title="check"):
    try:
      folder.read_row(chip.row, plan.layout.bands)
    except UserError as err:
      found[chip.row.id] = str(err)
  return found


def _hash_inputs(root: pathlib.Path, rows: Iterable[folder.Row]) -> dict[str, str]:
  """Relative path -> SHA-256, of the index and of all files that its rows name, with sidecars, and that are there."""
  named = [path for row in rows for path in (row.image, row.mask)]
  beside = [path.with_name(path.name + suffix) for path in named for suffix in _SIDECARS]
  paths = dict.fromkeys([root / "index.csv", *named, *beside])
  return hashing.sha256_of(root, (path for path in paths if path.is_file()), title="hash")


def _write(target: Target, plan: chip_records.Plan, manifest: dict) -> dict:
  """Writes the dataset into its locked folder."""
  for left in sorted(target.path.parent.glob("incomplete.*")):
    console.say(f"{left}: left by a call that was killed; removed")
    shutil.rmtree(left)
  tfds.disable_progress_bar()
  staging = pathlib.Path(tempfile.mkdtemp(prefix="incomplete.", dir=target.path.parent))
  try:
    builder = target.builder(plan=plan, data_dir=staging, config=target.config.name, file_format="array_record")
    try:
      builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=plan.root))
    except RuntimeError as err:  # So array_record tells of a disk that is full.
      raise OSError(" ".join(str(err).split())) from err
    made = pathlib.Path(builder.data_dir)
    summary = _summary(target, plan, builder.tally)
    files.write_json(made / SUMMARY, summary)
    outputs = hashing.sha256_of(made, sorted(made.iterdir()), title="hash")
    files.write_json(made / MANIFEST, {**manifest, "outputs": outputs})
    os.replace(made, target.path)
  except OSError as err:
    raise UserError(f"{target.path}: cannot be written ({err}); make room, or choose another --data_dir") from err
  finally:
    shutil.rmtree(staging, ignore_errors=True)
  return summary


def _summary(target: Target, plan: chip_records.Plan, tally: chip_records.Tally) -> dict:
  counted = tally.summary()
  notes = [f"no image is in split {split}" for split in splits.SHARES if split not in counted["splits"]]
  what = "patches" if plan.layout.patches else "images"
  if tally.without_valid:
    notes.append(f"{what} without any valid pixel: {_listed(tally.without_valid)}")
  if tally.without_mine:
    notes.append(f"{what} without any mine: {tally.without_mine}")
  return {
    "dataset": target.name,
    "bands": plan.layout.bands,
    "size": plan.layout.size,
    "patches": plan.layout.patches,
    **counted,
    "left_out": plan.left_out,
    "without_valid_pixel": tally.without_valid,
    "notes": [*plan.notes, *notes],
  }


def _check_same(target: Target, manual_dir: pathlib.Path, settings: Mapping):
  """Raises unless the prepared dataset was made from the same files with the same settings."""
  remedy = f"give another --data_dir, or delete {target.path}"
  manifest = _read_manifest(target)
  for name, value in settings.items():
    if manifest["settings"].get(name) != value:
      raise UserError(f"{target.path} was made with {name}={manifest['settings'].get(name)!r}, not {value!r}; {remedy}")
  rows = folder.read_index(manual_dir, domain=target.domain, sensor=settings["sensor"])
  now = _hash_inputs(manual_dir, [row for row in rows if row.domain == target.domain])
  differing = hashing.differences(manifest["inputs"], now)
  if differing:
    raise UserError(f"{target.path} was made from other files than {manual_dir} holds now:{differing}\n{remedy}")
  console.say(f"{target.name} is there already, made from these very files: {len(now)}, none has changed")


def verify(target: Target):
  """Hashes a prepared dataset's files again; UserError names those that differ from the manifest."""
  names = _read_manifest(target)["outputs"]
  here = (path for path in sorted(target.path.iterdir()) if path.name != MANIFEST)
  differing = hashing.differences(names, hashing.sha256_of(target.path, here, title="verify"))
  if differing:
    raise UserError(f"{target.path} is damaged:{differing}\ndelete it and prepare it again")
  console.say(f"{target.name}: all {len(names)} files are as they were written")


def _read_manifest(target: Target) -> dict:
  if not target.path.exists():
    raise UserError(f"{target.path}: nothing is prepared there; leave --verify out and give --manual_dir")
  if not tfds_source.is_prepared(target.path):
    raise UserError(f"{target.path} exists but is no complete dataset: delete that folder and start again")
  try:
    return json.loads((target.path / MANIFEST).read_text())
  except (OSError, ValueError) as err:
    raise UserError(
      f"{target.path}/{MANIFEST} cannot be read ({err}), so nobody knows what this was made from; give another "
      "--data_dir, or delete that folder"
    ) from err


def read_summary(target: Target) -> dict:
  """The summary that was written beside the records."""
  return json.loads((target.path / SUMMARY).read_text())


def describe(target: Target, summary: Mapping) -> str:
  """A summary for people; the last line holds the flags of launch.py that take the dataset."""
  size, what = summary["size"], "patches" if summary["patches"] else "images"
  lines = [f"{target.name}: {what} of {size} x {size} pixels, {' '.join(summary['bands'])}"]
  lines.append(f"  {'split':<12}{what:>8}{'valid':>9}{'mine':>9}   (mine: share of the valid pixels)")
  for split in splits.SHARES:
    if split in summary["splits"]:
      said = summary["splits"][split]
      lines.append(f"  {split:<12}{said['images']:>8}{said['valid_share']:>9.1%}{said['mine_share']:>9.1%}")
  for name, title in (("climate_zone", "climate zones"), ("product", "products")):
    if summary[name]:
      counts = (f"{kind} {'/'.join(str(by.get(s, 0)) for s in splits.SHARES)}" for kind, by in summary[name].items())
      lines.append(f"  {title} ({'/'.join(splits.SHARES)}): {', '.join(counts)}")
  reasons = collections.defaultdict(list)
  for chip, reason in summary["left_out"].items():
    reasons[reason.partition(":")[0]].append(chip)
  lines += [f"  left out, {reason}: {_listed(chips)}" for reason, chips in reasons.items()]
  lines += [f"  note: {note}" for note in summary["notes"]]
  return "\n".join([*lines, "To train on it, give launch.py:", _flags(target, summary)])


def _listed(names: list[str]) -> str:
  more = f", ... all in {SUMMARY}" if len(names) > SHOWN else ""
  return f"{len(names)} ({', '.join(names[:SHOWN])}{more})"


def _flags(target: Target, summary: Mapping) -> str:
  flags = [f"--config.data.{target.domain}.path={target.path}"]
  if tuple(summary["bands"]) != _USUAL_BANDS:
    names = ", ".join(f'"{band}"' for band in summary["bands"])  # Apostrophes would be hard to read once quoted.
    flags.append(f"--config.data.bands=({names})")
  if summary["size"] != _USUAL_SIZE:
    flags.append(f"--config.data.image_size={summary['size']}")
  return shlex.join(flags)
