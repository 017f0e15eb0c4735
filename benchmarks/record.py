"""What every benchmark writes beside its figures: the machine, the date, the versions."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform

_LIBRARIES = ("jax", "flax", "grain", "rasterio", "tensorflow-datasets", "torch", "numpy")


def machine() -> dict:
  """Processor, cores, system and versions of what is installed."""
  processor = platform.processor()
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  if cpuinfo.exists():
    names = [
      line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
    ]
    processor = names[0] if names else processor
  versions = {}
  for name in _LIBRARIES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      versions[name] = None
  return {
    "processor": processor,
    "cores": os.cpu_count(),
    "system": platform.platform(terse=True),
    "python": platform.python_version(),
    "versions": versions,
  }


def write(name: str, figures: dict, folder=pathlib.Path(__file__).parent / "results") -> pathlib.Path:
  """Writes `figures` as results/DATE_NAME.json and returns its path."""
  folder.mkdir(parents=True, exist_ok=True)
  today = datetime.date.today().isoformat()
  path = folder / f"{today}_{name}.json"
  path.write_text(json.dumps({"date": today, "machine": machine(), **figures}, indent=2) + "\n")
  return path
