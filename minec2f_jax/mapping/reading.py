"""Reads ahead in threads: what a network is to see next lies ready when it has done with what it has."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

THREADS = 4  # GDAL decodes outside of Python's lock.
_WAIT_S = 0.2


def read_ahead(read: Callable[[Sequence], Iterable], places: Sequence, *, threads: int = THREADS) -> Iterator:
  """What `read(places)` yields, in order: each thread reads every so many-th place, and one result waits of each.

  Args:
    read: called once in each thread, with its share of the places; yields one result a place.
    places: what to read.
    threads: how many read.
  """
  threads = max(1, min(threads, len(places)))
  stopped, waiting = threading.Event(), [queue.Queue(maxsize=1) for _ in range(threads)]
  readers = [
    threading.Thread(target=_fill, args=(read, places[i::threads], out, stopped), name="map reader", daemon=True)
    for i, out in enumerate(waiting)
  ]
  for reader in readers:
    reader.start()
  try:
    for index in range(len(places)):
      result, error = waiting[index % threads].get()
      if error is not None:
        raise error
      yield result
  finally:
    stopped.set()
    for reader in readers:
      reader.join()


def _fill(read: Callable, places: Sequence, out: queue.Queue, stopped: threading.Event):
  try:
    for result in read(places):
      if not _put(out, (result, None), stopped):
        return
  except BaseException as error:  # The one who waits raises it.
    _put(out, (None, error), stopped)


def _put(out: queue.Queue, item, stopped: threading.Event) -> bool:
  while not stopped.is_set():
    with contextlib.suppress(queue.Full):
      out.put(item, timeout=_WAIT_S)
      return True
  return False
