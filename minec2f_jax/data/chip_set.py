"""The folder a set of chips lies in: settings first, then chips, and last what tells of the whole.

settings.json    what the set is made with; written first, so that two runs cannot mix two sets.
index.csv        one row a chip, in the format of `minec2f_jax.data.folder`.
quarantine.csv   one row a polygon that gave no chip, with the reason of every scene.
manifest.json    SHA-256 of every file above and of every chip; written last, and taken away before any of them changes:
                 a set with one is whole.

Beside the set lie .lock, which one run holds at a time, and sources/, see `chip_note`.
"""

import collections
import contextlib
import csv
import hashlib
import io
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from minec2f_jax import files
from minec2f_jax.data import chip_note, chips, folder, splits
from minec2f_jax.errors import UserError

INDEX_COLUMNS = tuple(
  dict.fromkeys(
    (
      *("id", "domain", "split", "location_group", "sensor"),
      *folder.METADATA,
      *("iso3", "area_km2", "lon", "lat"),
      *chips.MEASURED,
    )
  )
)
QUARANTINE_COLUMNS = ("id", "reason", "lon", "lat", "area_km2")
_SETTINGS = "settings.json"
_LOCK = ".lock"  # Of `files.locked`.


class ChipSetError(UserError):
  """An output folder that holds something else; the message says what and where to go instead."""


@contextlib.contextmanager
def held(output) -> Iterator[pathlib.Path]:
  """Makes the folder of a set and holds it against other runs; yields its path.

  Raises:
    ChipSetError: the folder holds files of somebody else. UserError: another run holds it.
  """
  output = pathlib.Path(output)
  _check_own(output)  # Before the lock, which writes a file and clears others.
  found = output.exists()
  output.mkdir(parents=True, exist_ok=True)
  with files.locked(output):
    try:
      yield output
    finally:
      if not found and not (output / _SETTINGS).exists():  # A run that ended before it began leaves no trace.
        with contextlib.suppress(OSError):
          (output / _LOCK).unlink()
          output.rmdir()


def check(output, settings: Mapping[str, object]):
  """Raises a ChipSetError where the folder holds chips of other settings, or files of somebody else; writes nothing."""
  output = pathlib.Path(output)
  _check_own(output)
  if (output / _SETTINGS).is_file():
    there = _read_settings(output / _SETTINGS)
    if any((output / "images").glob("*.tif")):  # Without, a typo would cost the folder.
      _check_settings(output, there, json.loads(json.dumps(settings)))


def claim(output, settings: Mapping[str, object]):
  """Makes the folder of a set, after a `check`, and writes its settings.

  Args:
    output: folder.
    settings: whatever decides on the content of the set, JSON values.
  """
  check(output, settings)
  output = pathlib.Path(output)
  for name in ("images", "masks"):
    (output / name).mkdir(parents=True, exist_ok=True)
  path, settings = output / _SETTINGS, json.loads(json.dumps(settings, sort_keys=True))
  if not path.is_file() or _read_settings(path) != settings:
    (output / chip_note.MANIFEST).unlink(missing_ok=True)
    files.write_json(path, settings)


def write_index(output, outcomes: Sequence[chips.Outcome]):
  """Writes index.csv and quarantine.csv, rows sorted by id, and takes away chips that are no longer in the set."""
  output = pathlib.Path(output)
  outcomes = sorted(outcomes, key=lambda outcome: outcome.id)
  made = [outcome for outcome in outcomes if outcome.hashes]
  refused = [outcome for outcome in outcomes if not outcome.hashes]
  # Rows first: what takes a chip away takes the manifest away before.
  _write_rows(output / "index.csv", INDEX_COLUMNS, [outcome.row for outcome in made])
  _write_rows(output / "quarantine.csv", QUARANTINE_COLUMNS, [{**o.row, "reason": _told(o)} for o in refused])
  for outcome in refused:  # Left of an earlier run, before scenes or neighbours changed.
    chip_note.remove(output, outcome.id)


def manifest(output, outcomes: Sequence[chips.Outcome], polygons: Mapping[str, object]) -> Mapping[str, object]:
  """What manifest.json says.

  Args:
    output: folder in which index, quarantine and settings stand.
    outcomes: of all jobs.
    polygons: what tells which polygons the set was made from.
  """
  output = pathlib.Path(output)
  own = {name: files.sha256(output / name) for name in (_SETTINGS, "index.csv", "quarantine.csv")}
  chip_hashes = {path: digest for outcome in outcomes for path, digest in outcome.hashes.items()}
  counts = collections.Counter(outcome.row.get("split", "") for outcome in outcomes if outcome.hashes)
  return {
    "counts": {
      "chips": {split: counts[split] for split in splits.SHARES},
      "quarantine": sum(not outcome.hashes for outcome in outcomes),
    },
    "polygons": dict(polygons),
    "settings": _read_settings(output / _SETTINGS),
    "sha256": dict(sorted({**own, **chip_hashes}.items())),
  }


def is_whole(output, content: Mapping[str, object]) -> bool:
  """Whether the folder's manifest says `content` already."""
  try:
    return json.loads((pathlib.Path(output) / chip_note.MANIFEST).read_text(encoding="utf-8")) == content
  except (OSError, ValueError):
    return False


def write_manifest(output, content: Mapping[str, object]):
  """Writes manifest.json; the set is whole."""
  files.write_json(pathlib.Path(output) / chip_note.MANIFEST, content)


def sha256(path) -> str:
  """SHA-256 of a file, in hexadecimal digits; of a folder (some vector formats are one), of those of its files."""
  path = pathlib.Path(path)
  if path.is_dir():
    held = sorted(file for file in path.rglob("*") if file.is_file())
    return hashlib.sha256("".join(map(files.sha256, held)).encode()).hexdigest()
  return files.sha256(path)


def _check_own(output):
  if not output.exists() or (output / _SETTINGS).is_file():
    return
  if not output.is_dir():
    raise ChipSetError(f"{output}: is a file; choose another --output")
  if any(entry.name != _LOCK for entry in output.iterdir()):
    raise ChipSetError(f"{output}: holds files but no settings.json, so no set of chips; choose an empty --output")


def _read_settings(path):
  try:
    there = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(there, dict):
      raise ValueError(f"a JSON {type(there).__name__}, not an object")
  except ValueError as err:
    raise ChipSetError(f"{path}: not readable ({err}); delete the folder or choose another --output") from err
  return there


def _check_settings(output, there, settings):
  differing = [name for name in sorted({*there, *settings}) if there.get(name) != settings.get(name)]
  if differing:
    listed = ", ".join(f"{name} ({there.get(name)!r} there, {settings.get(name)!r} now)" for name in differing)
    raise ChipSetError(f"{output}: holds chips made with other settings: {listed}; choose another --output")


def _told(outcome):
  return " | ".join(f"{scene}: {why}" if scene else why for scene, why in outcome.reasons)


def _write_rows(path, columns, rows):
  """Writes a table of the set; where that changes it, without a manifest that tells of another."""
  text = io.StringIO()
  writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  if not (path.is_file() and path.read_bytes() == text.getvalue().encode()):
    (path.parent / chip_note.MANIFEST).unlink(missing_ok=True)
    files.write_text(path, text.getvalue())
