"""The other end of a worker: starts it, asks, and turns whatever goes wrong into one exception."""

import contextlib
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time

from minec2f_jax import host

ROOT = pathlib.Path(__file__).resolve().parents[2]


class WorkerError(Exception):
  """What kept a worker from answering, as a row of the table says it."""

  def __init__(self, reason: str, out_of_memory: bool = False):
    super().__init__(reason)
    self.out_of_memory = out_of_memory


class Client:
  """A running worker; leaving the `with` block ends it."""

  def __init__(self, peer: str, *, device: str, cache: pathlib.Path, limit_s: float = 900.0):
    """Starts the process.

    Args:
      peer: a key of PEERS.
      device: "cpu", "gpu", or "auto" for whatever JAX finds.
      cache: folder for compiled programs; an empty one makes a cold start.
      limit_s: seconds that one answer may take.
    """
    cache.mkdir(parents=True, exist_ok=True)
    self._limit_s, self._log = limit_s, open(cache / "stderr.txt", "w+", encoding="utf-8", errors="replace")
    self.began = time.perf_counter()
    self._process = subprocess.Popen(
      [sys.executable, "-m", "benchmarks.peers.worker", peer],
      cwd=ROOT,
      env=environment(device, cache),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._log,
      text=True,
      start_new_session=True,  # Its children, compilers and loaders, end and are counted with it.
    )
    self._lines = queue.Queue()
    threading.Thread(target=self._read, daemon=True).start()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()
    with contextlib.suppress(BrokenPipeError):  # What it has not read any more.
      self._process.stdin.close()
    self._log.close()

  def ask(self, do: str, **values) -> dict:
    """The worker's answer.

    Raises:
      WorkerError: it says that it failed, is gone, or takes too long.
    """
    try:
      print(json.dumps({"do": do, **values}), file=self._process.stdin, flush=True)
      line = self._lines.get(timeout=self._limit_s)
    except queue.Empty:
      raise WorkerError(f"no answer to {do!r} within {self._limit_s:.0f} s") from None
    except BrokenPipeError:
      line = ""
    if not line:
      raise self._died(do)
    reply = json.loads(line)
    if "error" in reply:
      raise WorkerError(f"{do}: {reply['error']}", reply["out_of_memory"])
    return reply

  def load(self) -> tuple[float, float]:
    """Processor time of this worker with its children, and of the whole machine, in clock ticks since their start."""
    return _session_ticks(self._process.pid), _machine_ticks()

  def _read(self):
    for line in self._process.stdout:
      self._lines.put(line)
    self._lines.put("")

  def _died(self, do: str) -> WorkerError:
    status = self._process.wait()
    if status == -9:  # What Linux does to the process that asks for more memory than there is.
      return WorkerError(f"{do}: killed by the system, most likely out of memory", out_of_memory=True)
    self._log.seek(0)
    said = [line.strip() for line in self._log.read().splitlines() if line.strip()]
    return WorkerError(f"{do}: ended with status {status}: {(said or ['no message'])[-1][:300]}")


def environment(device: str, cache: pathlib.Path) -> dict:
  """The environment of a worker: both sides' caches in `cache`, no memory taken in advance."""
  env = {
    **os.environ,
    **host.HUGE_PAGES,  # As launch.py does, and for the others too: it is the networks that are compared.
    "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
    "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
    "TRITON_CACHE_DIR": str(cache / "triton"),
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "KERAS_BACKEND": "jax",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
  }
  env.pop("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", None)
  if device == "cpu":
    env |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
  return env


def _session_ticks(session: int) -> int:
  """Of all processes of a session; 0 where the system does not tell."""
  ticks = 0
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    with contextlib.suppress(OSError):  # It may have ended by now.
      fields = path.read_text().rpartition(")")[2].split()
      ticks += int(fields[11]) + int(fields[12]) if int(fields[3]) == session else 0
  return ticks


def _machine_ticks() -> int:
  """Of all cores, idle time left out; 0 where the system does not tell."""
  try:
    user, nice, system, _, _, *interrupts = map(int, pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
  except (OSError, ValueError):
    return 0
  return user + nice + system + sum(interrupts)
