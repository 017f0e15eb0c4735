"""Data-parallel training: on one device and on eight, in one process and in two. A minute: five processes start JAX."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile

import jax
from absl.testing import absltest, parameterized

from minec2f_jax import devices
from minec2f_jax.errors import UserError
from tests.faults import tiny

ROOT = pathlib.Path(__file__).resolve().parent.parent


def _start(*arguments, count: int) -> subprocess.Popen:
  """`tests.device_runs` in a process with `count` simulated devices."""
  settings = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
  command = [sys.executable, "-m", "tests.device_runs", *map(str, arguments)]
  pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **settings}, **pipes)


def _free_port() -> int:
  with contextlib.closing(socket.socket()) as found:
    found.bind(("localhost", 0))
    return found.getsockname()[1]


class EightDevicesTest(parameterized.TestCase):
  def test_losses_and_statistics_are_those_of_one_device(self):
    process = _start("compare", count=8)
    output, errors = process.communicate()
    self.assertEqual(process.returncode, 0, errors)
    found = json.loads(output.splitlines()[-1])
    self.assertEqual(set(found), {"coarse", "fine"})  # The first streamed, the other resident.
    for run in found.values():
      self.assertEqual((run["devices"], run["shards"]), (8, 8))
      self.assertLess(run["losses"], 1e-5, found)
      self.assertLess(run["statistics"], 1e-5, found)
      self.assertLess(run["gradient"], 1e-4, found)
      self.assertGreater(run["statistics"], 0.0, found)  # Sums of eight parts: else nothing was cut.


class TwoProcessesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def _run_both(self, name: str, *, interrupt: int | None = None) -> list[tuple[int, str, str]]:
    """(status, output, errors) of two processes of a device each; one may get a SIGTERM after its first epoch."""
    port = _free_port()
    processes = [_start("train", self.folder / name, i, 2, port, count=1) for i in range(2)]
    if interrupt is not None:
      next(line for line in processes[interrupt].stdout if "epoch 1/" in line)
      processes[interrupt].send_signal(signal.SIGTERM)
    ends = [process.communicate() for process in processes]
    return [(process.returncode, *end) for process, end in zip(processes, ends)]

  def test_two_processes_come_to_the_bits_of_one_and_stop_and_go_on_together(self):
    alone = _start("train", self.folder / "alone", 0, 1, 0, count=2)
    output, errors = alone.communicate()
    self.assertEqual(alone.returncode, 0, errors)
    first, second = self._run_both("both", interrupt=1)
    self.assertEqual((first[0], second[0]), (128 + signal.SIGTERM,) * 2, (first, second))
    first, second = self._run_both("both")
    self.assertEqual((first[0], second[0]), (0, 0), (first, second))
    self.assertIn("goes on after epoch", first[1])
    self.assertEqual(output.splitlines()[-1], first[1].splitlines()[-1])
    self.assertEqual(first[1].splitlines()[-1], second[1].splitlines()[-1])
    ends = [tiny.latest(self.folder / name) for name in ("alone", "both")]
    jax.tree.map(self.assertEqual, *(jax.tree.map(lambda x: x.tobytes(), end[0]) for end in ends))
    self.assertEqual(ends[0][1], ends[1][1])
    lines = [(self.folder / name / "metrics.jsonl").read_text().splitlines() for name in ("alone", "both")]
    self.assertLen(lines[1], len(lines[0]))


class MeshTest(parameterized.TestCase):
  def test_one_device_is_what_it_was(self):
    mesh = devices.make_mesh(3)
    self.assertEqual(mesh.size, 1)
    self.assertIsInstance(devices.sharding(mesh), jax.sharding.SingleDeviceSharding)

  @parameterized.parameters((8, 8), (6, 6), (7, 7), (11, 1), (12, 6), (4, 4))
  def test_as_many_devices_share_a_batch_as_divide_it(self, batch_size, used):
    many = jax.devices() * 8
    with (
      absltest.mock.patch.object(jax, "local_device_count", lambda: 8),
      absltest.mock.patch.object(devices, "Mesh", lambda found, axes: found),
      absltest.mock.patch.object(jax, "devices", lambda: many),
    ):
      self.assertLen(devices.make_mesh(batch_size), used)

  def test_a_batch_that_the_processes_cannot_share_is_refused(self):
    with (
      absltest.mock.patch.object(jax, "process_count", lambda: 3),
      self.assertRaisesRegex(UserError, "multiple of 3"),
    ):
      devices.make_mesh(8)


if __name__ == "__main__":
  absltest.main()
