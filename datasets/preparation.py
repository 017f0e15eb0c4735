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
from minec2f_jax import console
from minec2f_jax.data import folder, splits, tfds_source
from minec2f_jax.errors import UserError

BUILDERS = {"mining_fine": "MiningFine", "mining_coarse": "MiningCoarse"}
MANIFEST, SUMMARY = "manifest.json", "summary.json"
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

  It is written beside its place and renamed when complete, so that a killed call leaves nothing that looks finished.

  Args:
    target: of `find`.
    manual_dir: folder with index.csv.
    sensor: encoding of rows that name none.
    skip_broken: leave chips out that cannot be used, instead of refusing all.

  Raises:
    UserError: the folder is not in order, or the dataset is there already but was made otherwise.
  """
  manual_dir = pathlib.Path(manual_dir).expanduser()
  layout = target.config.layout
  settings = {"bands": layout.bands, "size": layout.size, "patches": layout.patches}
  settings |= {"sensor": sensor, "skip_broken": skip_broken}
  if target.path.exists():
    _check_same(target, manual_dir, json.loads(json.dumps(settings)))
    return read_summary(target)
  plan = target.builder.make_plan(target.config, manual_dir, sensor=sensor)
  broken = {**plan.broken, **_unreadable(plan)} if plan.chips else plan.broken
  if broken and not skip_broken:
    message = folder.describe_broken(manual_dir, broken, len(plan.rows))
    if len(broken) == len(plan.rows):
      raise UserError(message + "\n(What is config.data.sensor in training is --sensor here.)")
    raise UserError(message + "\nCorrect them, or leave them out with --skip_broken")
  if broken:
    skip = {name: f"broken: {why}" for name, why in broken.items()}
    plan = target.builder.make_plan(target.config, manual_dir, sensor=sensor, skip=skip)
  if not plan.chips:
    raise UserError(f"{manual_dir}: {chip_builder.nothing_left(plan)}")
  inputs = _hash_inputs(manual_dir, plan.rows)
  return _write(target, plan, {"dataset": target.name, "settings": settings, "inputs": inputs})


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
  """Relative path -> SHA-256, of the index and of all files that its rows name and that are there."""
  paths = [root / "index.csv", *(path for row in rows for path in (row.image, row.mask))]
  return hashing.sha256_of(root, (path for path in paths if path.is_file()), title="hash")


def _write(target: Target, plan: chip_records.Plan, manifest: dict) -> dict:
  target.path.parent.mkdir(parents=True, exist_ok=True)
  left = sorted(target.path.parent.glob("incomplete.*"))
  if left:
    console.say(f"left by calls that were killed, or by one that is at work: {', '.join(map(str, left))}")
  tfds.disable_progress_bar()
  staging = pathlib.Path(tempfile.mkdtemp(prefix="incomplete.", dir=target.path.parent))
  try:
    builder = target.builder(plan=plan, data_dir=staging, config=target.config.name, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=plan.root))
    made = pathlib.Path(builder.data_dir)
    summary = _summary(target, plan, builder.tally)
    hashing.write_json(made / SUMMARY, summary)
    outputs = hashing.sha256_of(made, sorted(made.iterdir()), title="hash")
    hashing.write_json(made / MANIFEST, {**manifest, "outputs": outputs})
    os.replace(made, target.path)
  except OSError:  # The rename fails where another call was faster.
    if not tfds_source.is_prepared(target.path):
      raise
    console.say(f"{target.path} was finished by another call meanwhile; that one is kept")
    return read_summary(target)
  finally:
    shutil.rmtree(staging, ignore_errors=True)
  return summary


def _summary(target: Target, plan: chip_records.Plan, tally: chip_records.Tally) -> dict:
  counted = tally.summary()
  empty = [f"no image is in split {split}" for split in splits.SHARES if split not in counted["splits"]]
  return {
    "dataset": target.name,
    "bands": plan.layout.bands,
    "size": plan.layout.size,
    "patches": plan.layout.patches,
    **counted,
    "left_out": plan.left_out,
    "notes": [*plan.notes, *empty],
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
    reasons[reason].append(chip)
  for reason, chips in reasons.items():
    more = f", ... all in {SUMMARY}" if len(chips) > 20 else ""
    lines.append(f"  left out, {reason}: {len(chips)} ({', '.join(chips[:20])}{more})")
  lines += [f"  note: {note}" for note in summary["notes"]]
  return "\n".join([*lines, "To train on it, give launch.py:", _flags(target, summary)])


def _flags(target: Target, summary: Mapping) -> str:
  flags = [shlex.quote(f"--config.data.{target.domain}.path={target.path}")]
  if tuple(summary["bands"]) != _USUAL_BANDS:
    flags.append(f'--config.data.bands="{tuple(summary["bands"])}"')
  if summary["size"] != _USUAL_SIZE:
    flags.append(f"--config.data.image_size={summary['size']}")
  return " ".join(flags)
