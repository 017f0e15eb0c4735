"""Signals that ask a run to end: at once where nothing would be lost, else as soon as it has saved.

Python runs its handlers when the main thread comes back from where it is, which may be XLA at work on a step, or for a
minute on a program. So the system's own handler puts each signal into a pipe, and a thread waits at the other end.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # The last when a terminal goes.


class Interrupted(BaseException):
  """A run has saved and leaves, because a signal asked it to. As KeyboardInterrupt, no error that one may handle."""

  def __init__(self, signum: int, place: str):
    """Of `signum`, at `place`: a phrase that follows "goes on ", such as "at step 7"."""
    super().__init__(signum, place)
    self.signum, self.place = signum, place


class _Watch:
  """What the thread that reads signals and the run have to agree on."""

  def __init__(self):
    self._lock, self._held, self.arrived, self._title = threading.Lock(), False, None, ""

  def install(self, title: str):
    self._title = title
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for signum in SIGNALS:
      if signal.getsignal(signum) != signal.SIG_IGN:  # nohup, or a shell's background.
        signal.signal(signum, lambda *_: None)
    threading.Thread(target=self._read, args=(reading,), name="signals", daemon=True).start()

  def hold(self):
    with self._lock:
      self._held = True

  def release(self, *, end: bool):
    with self._lock:
      self._held = False
      if end and self.arrived:
        self._end(self.arrived)

  def _read(self, pipe: int):
    while True:
      signum = os.read(pipe, 1)[0]
      if signum in SIGNALS:
        with self._lock:
          self._arrive(signum)

  def _arrive(self, signum: int):
    if self.arrived or not self._held:
      self._end(signum)
    self.arrived = signum
    self._say("asked to end; the step under way will be saved first (a second signal ends at once)")

  def _end(self, signum: int):
    self._say("interrupted; the same command goes on from what was last saved")
    # Not an exception: it would wait for the main thread, and a library's callback could swallow it.
    os._exit(128 + signum)

  def _say(self, text: str):
    with contextlib.suppress(OSError):  # A terminal may be gone, and a pipe closed.
      os.write(2, f"\n{self._title}: {text}.\n".encode())


_WATCH = _Watch()


def install(title: str):
  """Lets SIGINT, SIGTERM and SIGHUP end this process with status 128 + signal, unless its parent lets it ignore them.

  Call it once, in the main thread.

  Args:
    title: begins each line that tells of a signal.
  """
  _WATCH.install(title)


@contextlib.contextmanager
def held() -> Iterator[None]:
  """Inside, the first signal only sets `asked`, for the caller to save and raise `Interrupted`; else one ends at once.

  Whoever comes to the end without having asked must have saved: then the process ends there.
  """
  _WATCH.hold()
  try:
    yield
  except BaseException:
    _WATCH.release(end=False)
    raise
  _WATCH.release(end=True)


def asked() -> int | None:
  """The signal that has arrived inside `held`; None while there is none."""
  return _WATCH.arrived
