"""One peer at one case in a process of its own: `python -m benchmarks.peers.worker PEER`.

Speaks JSON lines: a line of the form {"do": NAME, ...} comes in on stdin, one line goes out on stdout for each. It
ends with stdin. What libraries print goes to stderr.
"""

import importlib
import json
import os
import pathlib
import sys
import time

from benchmarks import peers
from benchmarks.peers import cases

_STATUS = pathlib.Path("/proc/self/status")
# How the libraries say that memory has run out.
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "can't allocate memory", "OutOfMemoryError", "MemoryError")


def peak_bytes() -> int | None:
  """The largest resident memory of this process so far; None where the system does not tell."""
  try:
    lines = _STATUS.read_text().splitlines()
  except OSError:
    return None
  found = [line for line in lines if line.startswith("VmHWM:")]
  return int(found[0].split()[1]) * 1024 if found else None


class Worker:
  """Carries out what the lines ask for."""

  def __init__(self, name: str):
    self._variant = peers.PEERS[name].variant
    self._module = importlib.import_module(peers.PEERS[name].module)
    self._peer, self._imported_bytes = None, peak_bytes()

  def hello(self) -> dict:
    return self._module.describe()

  def build(self, case: dict) -> dict:
    """Makes the networks and takes the first step."""
    self._peer = self._module.make(cases.from_json(case), self._variant)
    self._peer.train(1)
    return {"parameters": self._peer.parameters()}

  def train(self, steps: int) -> dict:
    return self._time(self._peer.train, steps)

  def infer(self, steps: int) -> dict:
    return self._time(self._peer.infer, steps)

  def epoch(self) -> dict:
    return {"seconds": self._peer.epoch()}

  def memory(self) -> dict:
    """The peak so far, and what of a process' own the imports alone took."""
    return {"imported_bytes": self._imported_bytes, "process_bytes": peak_bytes(), **self._peer.memory()}

  def cost(self) -> dict:
    return self._peer.cost()

  def ceilings(self) -> dict:
    return self._module.ceilings()

  def _time(self, run, steps: int) -> dict:
    """The first step of a turn is not timed: caches and memory have been others' meanwhile."""
    run(1)
    began = time.perf_counter()
    run(steps)
    return {"seconds": time.perf_counter() - began}


def describe_error(error: BaseException) -> dict:
  text = f"{type(error).__name__}: {error}".strip()
  if any(sign in text for sign in _OUT_OF_MEMORY):
    return {"error": "out of memory", "out_of_memory": True}
  return {"error": text.splitlines()[0][:300], "out_of_memory": False}


def main():
  lines = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # From here on prints, those of C libraries too, cannot disturb the lines.
  worker = None
  for line in sys.stdin:
    order = json.loads(line)
    try:
      worker = worker or Worker(sys.argv[1])
      reply = getattr(worker, order.pop("do"))(**order)
    except Exception as error:  # Whatever it is becomes a row of the table.
      print(repr(error), file=sys.stderr, flush=True)
      reply = describe_error(error)
    print(json.dumps(reply), file=lines, flush=True)
  os._exit(0)  # Trainer and loaders may have threads that wait for ever.


if __name__ == "__main__":
  main()
