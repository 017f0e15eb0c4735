"""SHA-256 of many files, and what differs between two times."""

import pathlib
from collections.abc import Iterable, Mapping

from minec2f_jax import console, files


def sha256_of(root: pathlib.Path, paths: Iterable[pathlib.Path], *, title: str) -> dict[str, str]:
  """Path relative to `root` -> SHA-256, in the order of the paths; says how far it is under `title`."""
  paths = list(paths)
  tracked = console.track(paths, total=len(paths), unit="files", title=title)
  return {path.relative_to(root).as_posix(): files.sha256(path) for path in tracked}


def differences(before: Mapping[str, str], now: Mapping[str, str], *, limit: int = 10) -> str:
  """Lines that name files that are missing, new or changed; "" if there are none."""
  found = [f"\n  {name}: gone" for name in sorted(before.keys() - now.keys())]
  found += [f"\n  {name}: new" for name in sorted(now.keys() - before.keys())]
  found += [f"\n  {name}: changed" for name in sorted(before.keys() & now.keys()) if before[name] != now[name]]
  more = f"\n  ... and {len(found) - limit} more" if len(found) > limit else ""
  return "".join(found[:limit]) + more
