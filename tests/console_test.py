"""Tests of minec2f_jax.console."""

import contextlib
import io
import subprocess
import sys
from unittest import mock

from absl.testing import absltest, parameterized

from minec2f_jax import console


class ConsoleTest(parameterized.TestCase):
  @parameterized.parameters((41.6, "42s"), (185, "3m05s"), (7800, "2h10m"))
  def test_durations_read_as_people_write_them(self, seconds, text):
    self.assertEqual(console.duration(seconds), text)

  def test_tracking_tells_rate_and_time_left_and_passes_every_item_on(self):
    now, out = [0.0], io.StringIO()
    with mock.patch("time.monotonic", lambda: now[0]), contextlib.redirect_stdout(out):
      got = []
      for item in console.track("abcd", total=4, unit="chips", title="chips", every_s=2.5):
        got.append(item)
        now[0] += 5.0  # A log file hears every 10 s.
    self.assertEqual(got, list("abcd"))
    self.assertEqual(
      out.getvalue().splitlines(),
      ["[chips] 2/4 chips, 0.2 chips/s, 10s left", "[chips] 4 chips in 20s (0.2 chips/s)"],
    )

  def test_items_of_different_size_count_by_their_amount(self):
    now, out = [0.0], io.StringIO()
    with mock.patch("time.monotonic", lambda: now[0]), contextlib.redirect_stdout(out):
      for _ in console.track([0.5, 0.3, 0.2], total=1.0, unit="Mpx", title="a", every_s=2.5, amount=float):
        now[0] += 10.0
    lines = ["[a] 0.5/1.0 Mpx, 0.05 Mpx/s, 10s left", "[a] 0.8/1.0 Mpx, 0.04 Mpx/s, 5s left"]
    self.assertEqual(out.getvalue().splitlines(), [*lines, "[a] 1.0 Mpx in 30s (0.033 Mpx/s)"])

  def test_a_log_on_a_full_disk_costs_its_lines_and_nothing_more(self):
    code = "from minec2f_jax import console\nfor i in range(3): console.say('x')\nprint('end')"
    with open("/dev/full", "w") as full:
      result = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    self.assertEqual(result.returncode, 0, result.stderr)
    self.assertEqual(result.stderr.count("nothing more is said here"), 1)

  def test_of_several_processes_one_speaks(self):
    self.addCleanup(setattr, console, "_mute", False)
    console.mute()
    with contextlib.redirect_stdout(io.StringIO()) as out:
      console.say("x")
    self.assertEqual(out.getvalue(), "")


if __name__ == "__main__":
  absltest.main()
