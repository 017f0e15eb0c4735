"""Tests of minec2f_jax.files."""

import hashlib
import json
import os
import pathlib
import stat
import subprocess
import sys
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized

from minec2f_jax import files
from minec2f_jax.errors import UserError


class FilesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.path = self.folder / "a b.json"

  def test_a_failed_write_leaves_the_old_file_and_nothing_else(self):
    files.write_bytes(self.path, b"old")
    with mock.patch("os.replace", side_effect=OSError("no room")):
      with self.assertRaisesRegex(UserError, "a b.json: cannot be written .no room.*make room"):
        files.write_bytes(self.path, b"new")
    self.assertEqual([p.name for p in self.folder.iterdir()], ["a b.json"])
    self.assertEqual(self.path.read_bytes(), b"old")

  def test_a_folder_that_is_none_is_told(self):
    for folder in (self.folder / "absent", self.path):
      self.path.touch()
      with self.assertRaisesRegex(UserError, "cannot be written"):
        files.write_text(folder / "x", "y")

  def test_a_limit_of_file_size_is_noticed(self):
    code = (
      "import resource, signal; from minec2f_jax import files\n"
      "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
      f"files.write_bytes({str(self.path)!r}, bytes(4096))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    self.assertIn("cannot be written ([Errno 27]", result.stderr)
    self.assertEqual(list(self.folder.iterdir()), [])

  def test_others_may_read_what_is_written_as_any_new_file(self):
    files.write_text(self.path, "x")
    (self.folder / "plain").touch()
    modes = [stat.S_IMODE(os.stat(p).st_mode) for p in (self.path, self.folder / "plain")]
    self.assertEqual(modes[0], modes[1])

  def test_the_same_text_keeps_its_date(self):
    files.write_text(self.path, "ü")
    os.utime(self.path, (1, 1))
    files.write_text(self.path, "ü")
    self.assertEqual(self.path.stat().st_mtime, 1)
    files.write_text(self.path, "u")
    self.assertGreater(self.path.stat().st_mtime, 1)

  def test_json_knows_no_nan(self):
    files.write_json(self.path, {"a": [float("nan"), 1.5, (float("inf"),)], "b": None})
    self.assertEqual(json.loads(self.path.read_text(), parse_constant=self.fail), {"a": [None, 1.5, [None]], "b": None})

  def test_hash_is_hashlibs(self):
    self.path.write_bytes(b"abc" * 100_000)
    self.assertEqual(files.sha256(self.path), hashlib.sha256(b"abc" * 100_000).hexdigest())

  def test_a_second_process_is_refused_while_the_first_lives(self):
    code = f"from minec2f_jax import files\nwith files.locked({str(self.folder)!r}): print('in', flush=True); input()"
    (self.folder / ".x.tif.abc.partial").touch()
    first = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with first:
      self.assertEqual(first.stdout.readline(), "in\n")
      self.assertEqual([p.name for p in self.folder.iterdir()], [".lock"])  # What a killed run left is gone.
      with self.assertRaisesRegex(UserError, rf"process {first.pid} is at work there \(on .+ since 20\d\d-"):
        with files.locked(self.folder):
          self.fail("two in one folder")
      first.kill()
    with files.locked(self.folder):
      self.assertStartsWith((self.folder / ".lock").read_text(), f"{os.getpid()}\n")


if __name__ == "__main__":
  absltest.main()
