"""The folder a set of chips lies in: settings first, then chips, and last what tells of the whole.

settings.json    what the set is made with; written first, so that two runs cannot mix two sets.
index.csv        one row a chip, in the format of `minec2f_jax.data.folder`.
quarantine.csv   one row a polygon that gave no chip, with the reason of every scene.
manifest.json    SHA-256 of every file above and of every chip; written last: a set with one is whole.
"""

import collections
import csv
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

from minec2f_jax.data import chips, splits
from minec2f_jax.errors import UserError

# What an attribute of a polygon may tell a data set; see `minec2f_jax.data.folder`.
METADATA = ("mine", "mine_id", "country", "commodity", "climate_zone", "region")
INDEX_COLUMNS = (
  *("id", "domain", "split", "location_group", "sensor"),
  *METADATA,
  *("iso3", "area_km2", "lon", "lat"),
  *chips.MEASURED,
)
QUARANTINE_COLUMNS = ("id", "reason", "lon", "lat", "area_km2")


class ChipSetError(UserError):
  """An output folder that holds something else; the message says what and where to go instead."""


def check(output, settings: Mapping[str, object]):
  """Raises a ChipSetError where the folder holds a set of other settings, or files of somebody else."""
  output = pathlib.Path(output)
  path = output / "settings.json"
  if path.is_file():
    _check_settings(path, json.loads(json.dumps(settings)))
  elif output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise ChipSetError(f"{output}: holds files but no settings.json, so no set of chips; choose an empty --output")


def claim(output, settings: Mapping[str, object]):
  """Makes the folder of a set, after a `check`, and writes its settings.

  Args:
    output: folder.
    settings: whatever decides on the content of the set, JSON values.
  """
  check(output, settings)
  output = pathlib.Path(output)
  for folder in ("images", "masks"):
    (output / folder).mkdir(parents=True, exist_ok=True)
  _write(output / "settings.json", _json(settings))


def write_index(output, outcomes: Sequence[chips.Outcome]):
  """Writes index.csv and quarantine.csv, rows sorted by id, and takes away chips that are no longer in the set."""
  output = pathlib.Path(output)
  outcomes = sorted(outcomes, key=lambda outcome: outcome.id)
  made = [outcome for outcome in outcomes if outcome.hashes]
  refused = [outcome for outcome in outcomes if not outcome.hashes]
  for outcome in refused:  # Left of an earlier run, before scenes or neighbours changed.
    for folder in ("images", "masks"):
      (output / folder / f"{outcome.id}.tif").unlink(missing_ok=True)
  _write(output / "index.csv", _csv(INDEX_COLUMNS, [outcome.row for outcome in made]))
  _write(output / "quarantine.csv", _csv(QUARANTINE_COLUMNS, [{**o.row, "reason": _told(o)} for o in refused]))


def manifest(output, outcomes: Sequence[chips.Outcome], polygons: Mapping[str, object]) -> str:
  """The text of manifest.json.

  Args:
    output: folder in which index, quarantine and settings stand.
    outcomes: of all jobs.
    polygons: what tells which polygons the set was made from.
  """
  output = pathlib.Path(output)
  own = {name: sha256(output / name) for name in ("settings.json", "index.csv", "quarantine.csv")}
  chip_hashes = {path: digest for outcome in outcomes for path, digest in outcome.hashes.items()}
  counts = collections.Counter(outcome.row.get("split", "") for outcome in outcomes if outcome.hashes)
  return _json(
    {
      "polygons": dict(polygons),
      "settings": json.loads((output / "settings.json").read_text(encoding="utf-8")),
      "counts": {
        "chips": {split: counts[split] for split in splits.SHARES},
        "quarantine": sum(not outcome.hashes for outcome in outcomes),
      },
      "sha256": dict(sorted({**own, **chip_hashes}.items())),
    }
  )


def is_whole(output, text: str) -> bool:
  """Whether the folder's manifest is `text` already."""
  path = pathlib.Path(output) / "manifest.json"
  return path.is_file() and path.read_text(encoding="utf-8") == text


def write_manifest(output, text: str):
  """Writes manifest.json."""
  _write(pathlib.Path(output) / "manifest.json", text)


def sha256(path) -> str:
  """SHA-256 of a file, in hexadecimal digits; of a folder (some vector formats are one), of those of its files."""
  path = pathlib.Path(path)
  if path.is_dir():
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _check_settings(path, settings):
  try:
    there = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as err:
    raise ChipSetError(f"{path}: not readable ({err}); delete the folder or choose another --output") from err
  differing = [name for name in sorted({*there, *settings}) if there.get(name) != settings.get(name)]
  if differing:
    listed = ", ".join(f"{name} ({there.get(name)!r} there, {settings.get(name)!r} now)" for name in differing)
    raise ChipSetError(f"{path.parent}: holds chips made with other settings: {listed}; choose another --output")


def _told(outcome):
  return " | ".join(f"{scene}: {why}" if scene else why for scene, why in outcome.reasons)


def _csv(columns, rows):
  text = io.StringIO()
  writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()


def _json(value):
  return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _write(path, text):
  """Writes a text file, whole or not at all; one that says so already keeps its date."""
  if path.is_file() and path.read_text(encoding="utf-8") == text:
    return
  partial = path.with_name(f"{path.name}.partial")
  partial.write_text(text, encoding="utf-8")
  os.replace(partial, path)
