"""What a run notes of its surroundings, so that it can be told later what it learnt from and what it ran on.

Two files in a workdir:
  data.json   {domain: {split: digest}}, see `data.digest`; a run that goes on is refused if the data have changed
  run.json    {"environments": [...], "teacher": hash or null}: every environment that a session of the run has had,
              in order and each once, see `environment`; and the `model_sha256` of a teacher out of another run
"""

import hashlib
import importlib.metadata
import os
import pathlib
import platform

import jax
import numpy as np

from minec2f_jax import __version__, files, programs
from minec2f_jax.data import digest, pipeline
from minec2f_jax.errors import UserError
from minec2f_jax.experiment.data import DOMAINS, open_source
from minec2f_jax.methods import Variables
from minec2f_jax.models import factory
from minec2f_jax.training import checkpoints

_PACKAGES = ("flax", "grain", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint", "pillow", "rasterio")
_SETTINGS = (
  "JAX_DEFAULT_MATMUL_PRECISION",
  "JAX_DEFAULT_PRNG_IMPL",
  "JAX_DISABLE_MOST_OPTIMIZATIONS",
  "JAX_ENABLE_X64",
  "JAX_THREEFRY_PARTITIONABLE",
  "NVIDIA_TF32_OVERRIDE",
  "XLA_FLAGS",
)
_DIGEST = {"images", "of", "ids", "sha256"}

Places = dict[tuple[str, str], dict]  # (domain, split) -> digest


def environment(config) -> dict:
  """What the bits of a run depend on besides its config and data, as plain JSON.

  "platform" and "device" are the machine kind; CPUs are told apart by "processor" and "cores". "code" is a hash over
  the sources of this package.
  """
  devices = jax.devices()
  return {
    "code": programs.source_sha256(),
    "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    "device": devices[0].device_kind,
    "devices": len(devices),
    "dtype": factory.resolve_dtype(config.model.get("dtype", "float32")),
    "packages": {"minec2f_jax": __version__, **{name: importlib.metadata.version(name) for name in _PACKAGES}},
    "platform": devices[0].platform,
    "processes": jax.process_count(),
    "processor": _processor(),
    "python": platform.python_version(),
    "settings": {name: os.environ.get(name, "") for name in _SETTINGS},
  }


def model_sha256(model: Variables) -> str:
  """SHA-256 over paths, types, shapes and values of what a stage has learnt: parameters and statistics."""
  learnt = jax.tree.leaves_with_path({"trainable": model.trainable, "extra": model.extra})
  leaves = {jax.tree_util.keystr(path): np.ascontiguousarray(leaf) for path, leaf in learnt}
  hashed = hashlib.sha256()
  for path, array in sorted(leaves.items()):
    hashed.update(f"{path} {array.dtype} {array.shape}\n".encode())
    hashed.update(array.tobytes())
  return hashed.hexdigest()


def digest_data(config, workdir, sources: dict[tuple[str, str], pipeline.Source]) -> dict:
  """What data.json is to hold for a run in `workdir` that starts or goes on; hashes what data.json has hashed before.

  Args:
    config: of the run.
    workdir: of the run; need not exist.
    sources: of `open_sources(config)`.

  Raises:
    UserError: the data of a stage that has started are not those it started with. The message names every domain and
      split that differs, and in what.
  """
  recorded = _held(config, workdir)
  different, found = compare_data(config, recorded, sources)
  if different:
    raise UserError(
      f"{workdir}: the data are not those that the run there has learnt from: {'; '.join(different)}. Restore them "
      "(config.data.*.path says where they lie), or give another --workdir"
    )
  merged = {**recorded, **found}
  return {domain: {split: merged[domain, split] for d, split in sorted(merged) if d == domain} for domain in DOMAINS}


def compare_data(config, recorded: Places, sources: dict[tuple[str, str], pipeline.Source]) -> tuple[list[str], Places]:
  """(one sentence for each of `sources` that is not as recorded, the digests of all `sources`)."""
  kinds = {key: recorded.get(key, {"of": digest.natural_kind(source)})["of"] for key, source in sources.items()}
  readable = {
    key: open_source(config, *key) if kinds[key] == "stored" and digest.natural_kind(source) != "stored" else source
    for key, source in sources.items()
  }
  found = digest.digests(readable, kinds, num_threads=max(1, config.data.read_threads))
  differences = {key: digest.difference(recorded[key], found[key]) for key in found if key in recorded}
  return [f"{domain} {split} has {what}" for (domain, split), what in differences.items() if what], found


def read_data(workdir) -> Places:
  """The digests in data.json.

  Raises:
    UserError: the file is absent or damaged.
  """
  path = pathlib.Path(workdir) / "data.json"
  try:
    plain = {
      (domain, split): entry
      for domain, splits in checkpoints.read_json(path).items()
      for split, entry in splits.items()
    }
  except AttributeError:
    plain = {("", ""): {}}
  if not plain or any(not isinstance(entry, dict) or set(entry) != _DIGEST for entry in plain.values()):
    raise UserError(f"{path}: is not what a run writes; restore the file, or start in another workdir")
  return plain


def write(workdir, config, data: dict, teacher: Variables | None):
  """Writes data.json and run.json at the start of a session.

  Args:
    workdir: of the run; exists.
    config: of the run.
    data: of `digest_data`.
    teacher: out of another run (config.teacher), or None.

  Raises:
    UserError: a student there has started from another teacher.
  """
  workdir, now = pathlib.Path(workdir), environment(config)
  found = {"environments": [now], "teacher": None if teacher is None else model_sha256(teacher)}
  if (workdir / "run.json").exists():
    known = read_run(workdir)["environments"]
    found["environments"] = known if now in known else [*known, now]
    require_same_teacher(workdir, config, found["teacher"])
  files.write_json(workdir / "data.json", data)
  files.write_json(workdir / "run.json", found)


def require_same_teacher(workdir, config, found: str | None):
  """Raises a UserError if a student in `workdir` has started from a teacher whose `model_sha256` is not `found`."""
  workdir = pathlib.Path(workdir)
  if not set(_started(config, workdir)) - {"coarse"} or not (workdir / "run.json").exists():
    return
  if (noted := read_run(workdir)["teacher"]) != found:
    raise UserError(
      f"config.teacher={config.teacher}: its weights are not those that the student in {workdir} learns from (SHA-256 "
      f"{found}, {noted} when it began): the teacher was trained again. Restore it, or give another --workdir."
    )


def read_run(workdir) -> dict:
  """The content of run.json.

  Raises:
    UserError: the file is absent or damaged.
  """
  path = pathlib.Path(workdir) / "run.json"
  plain = checkpoints.read_json(path)
  if not isinstance(plain, dict) or set(plain) != {"environments", "teacher"}:
    raise UserError(f"{path}: is not what a run writes; restore the file, or start in another workdir")
  return plain


def _started(config, workdir) -> list[str]:
  names = dict.fromkeys((*DOMAINS, *config.stages))
  return [name for name in names if checkpoints.has_checkpoints(pathlib.Path(workdir) / name)]


def _held(config, workdir) -> Places:
  """The recorded digests that a run must not depart from: those of all it has learnt from or is scored on.

  Like config.data.fine, the fine set may still be another until a stage after Task 1 has started.
  """
  started = _started(config, workdir)
  if not started or not (pathlib.Path(workdir) / "data.json").exists():  # Early versions wrote none.
    return {}
  return {key: entry for key, entry in read_data(workdir).items() if started != ["coarse"] or key[0] == "coarse"}


def _processor() -> str:
  """The processor's name; Python's own function knows it on few systems."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return platform.processor()
  return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
