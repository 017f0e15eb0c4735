"""Where runs ended: whether two hold the same bits, and what a run left lying about."""

import json
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from minec2f_jax.training import manifest

_TIMED = ("images_per_s",)


def differences(workdir: pathlib.Path, other: pathlib.Path) -> list[str]:
  """In what two runs differ: the checkpoints that they kept, teachers, progress, scores, metrics and test scores."""
  found = []
  for folder in sorted(
    {path.parent.relative_to(root) for root in (workdir, other) for path in root.glob("*/stage.json")}
  ):
    ends = [_end(root / folder) for root in (workdir, other)]
    found += [f"{folder}/{name}" for name in sorted(ends[0].keys() | ends[1].keys()) if not _same(name, *ends)]
  results = [_results(root) for root in (workdir, other)]
  return found + ["results.json"] * (results[0] != results[1])


def _results(workdir: pathlib.Path) -> dict | None:
  path = workdir / "results.json"
  return json.loads(path.read_text()) if path.exists() else None


def _end(folder: pathlib.Path) -> dict:
  """Name -> arrays or JSON of all that a stage has at its end."""
  if not (folder / "stage.json").exists():
    return {}
  end = {"metrics.jsonl": metrics(folder), "stage.json": manifest.unseal(folder / "stage.json")["expects"]}
  if (folder / "finished.json").exists():
    end["finished.json"] = json.loads((folder / "finished.json").read_text())
  latest = max(kept := [place for place in (folder / "checkpoints").iterdir()], key=lambda place: int(place.name))
  best = max(kept, key=lambda place: (_score(place), -int(place.name)))
  for name, place in (("latest", latest), ("best", best)):
    if manifest.damage(place):
      raise AssertionError(f"{place} is damaged at the end of a run")
    end |= {f"{name}/score": [int(place.name), _score(place)]}
    end[f"{name}/progress.json"] = json.loads((place / "progress.json").read_text())
    end |= {f"{name}/{tree}": _arrays(place / tree) for tree in ("trainable", "extra", "opt_state", "scalars")}
  return {**end, "frozen": _arrays(folder / "frozen" / "arrays")}


def _score(place: pathlib.Path) -> float:
  score = manifest.unseal(place / manifest.NAME)["score"]
  return -np.inf if score is None else score


def _arrays(folder: pathlib.Path):
  return ocp.PyTreeCheckpointer().restore(folder) if folder.is_dir() else None


def _same(name: str, one: dict, other: dict) -> bool:
  if name not in one or name not in other:
    return False
  if name.endswith((".json", ".jsonl", "score")):
    return one[name] == other[name]
  leaves, others = (jax.tree.leaves(end[name]) for end in (one, other))
  same = (a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(leaves, others))
  return jax.tree.structure(one[name]) == jax.tree.structure(other[name]) and all(same)


def metrics(folder: pathlib.Path) -> list[dict]:
  """The lines of metrics.jsonl but for what a clock decides."""
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return [{name: value for name, value in json.loads(line).items() if name not in _TIMED} for line in lines]


def steps_on_disk(workdir: pathlib.Path) -> dict[str, int]:
  """Stage -> its latest checkpoint."""
  found = {}
  for path in workdir.glob("*/checkpoints/*"):
    if path.name.isdecimal():
      found[path.parts[-3]] = max(found.get(path.parts[-3], 0), int(path.name))
  return found


def damaged(workdir: pathlib.Path) -> list[str]:
  """What is wrong with any checkpoint in a run."""
  places = [path for path in sorted(workdir.glob("*/checkpoints/*")) if path.name.isdecimal()]
  return [fault for place in places for fault in manifest.damage(place)]


def debris(workdir: pathlib.Path) -> list[str]:
  """Names of what only a run under way may have."""
  names = [path.name for path in workdir.rglob("*")]
  return sorted(name for name in names if (name.startswith(".") and name != ".lock") or "partial" in name)
