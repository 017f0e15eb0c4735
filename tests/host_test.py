import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from absl.testing import absltest

PROGRAM = """
import os, sys
from minec2f_jax import host
print("start", flush=True)
host.use_huge_pages()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], sys.flags.dev_mode)
"""


@unittest.skipUnless(sys.platform == "linux", "only glibc knows the setting")
class UseHugePagesTest(absltest.TestCase):
  def _run(self, *options, **environment):
    script = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "a script.py"
    script.write_text(PROGRAM)
    root = str(pathlib.Path(__file__).resolve().parent.parent)
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"} | {"PYTHONPATH": root, **environment}
    command = [sys.executable, *options, str(script), "--flag=a b", "x"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()

  def test_the_process_starts_anew_once_with_its_flags_and_arguments(self):
    expected = ["start", "start", "glibc.malloc.hugetlb=1 ['--flag=a b', 'x'] True"]
    self.assertEqual(self._run("-X", "dev"), expected)

  def test_a_setting_of_the_users_is_left_alone(self):
    output = self._run(GLIBC_TUNABLES="glibc.malloc.check=0")
    self.assertEqual(output, ["start", "glibc.malloc.check=0 ['--flag=a b', 'x'] False"])


if __name__ == "__main__":
  absltest.main()
