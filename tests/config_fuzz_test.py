"""Five hundred broken configs through the check, and some through the command line: refused by name, no traceback."""

import concurrent.futures
import pathlib
import subprocess
import sys
import tempfile

from absl.testing import absltest, parameterized

from tests.faults import config_fuzz

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEMO = "--config=configs/fine_hybrid.py:demo"
OWN = "from configs import fine_hybrid\n\n\ndef get_config(arg=''):\n  config = fine_hybrid.get_config(arg)\n"

# What is typed, and what the answer must hold.
COMMANDS = (
  (("--config=configs/suites/table3.py",), "the config is a suite, .*--mode=suite"),
  ((DEMO, "--config.data.batchsize=3"), "--config.data.batchsize: .*did you mean --config.data.batch_size"),
  ((DEMO, "--config.batch_size=3"), "--config.batch_size: .*did you mean --config.data.batch_size"),
  ((DEMO, "--config.sed=1", "--config.data.xyz.abc=1"), "--config.sed: .*--config.seed.*--config.data.xyz.abc: "),
  ((DEMO, "--config.data.batch_size=many"), "--config.data.batch_size=many: .*'many'; the config's file has 8 there"),
  ((DEMO, "--config.data=3"), "--config.data=3: .*not a dict"),
  ((DEMO, "--config.data.batch-size=3"), "--config.data.batch-size: there is no such field"),
  (("--config=configs/nowhere.py",), "--config=configs/nowhere.py: there is no such file"),
  ((DEMO, "--workdir="), "--workdir is empty: give a folder"),
  ((DEMO, "--config.optimizer.learning_rate=nan"), "config.optimizer.learning_rate=nan: give a number from"),
  ((DEMO, "--config.fine.init_from_prior=maybe"), "--config.fine.init_from_prior=maybe: .*has True there"),
  (("--config.seed=3", DEMO), "--config.seed=3 .*before a value for --config"),
  (("--config=configs/no where.py",), "there is no such file|cannot be loaded"),
  ((DEMO, "--process_id=1"), "--process_id need --coordinator_address=HOST:PORT"),
  ((DEMO, "--coordinator_address=a:1", "--num_processes=2", "--process_id=2"), "--process_id=2: .*the last is 1"),
  ((DEMO, "--coordinator_address=a:1", "--num_processes=2"), "--coordinator_address=a:1 needs .*--process_id"),
  ((DEMO, "--coordinator_address=auto", "--num_processes=2"), "--coordinator_address=auto finds out --num_processes"),
  ((DEMO, "--coordinator_address=a:1", "--mode=doctor"), "--mode=doctor runs in one process"),
  ((DEMO, "--output=x"), "--output is not for --mode=train, which writes into --workdir"),
  ((DEMO, "--mode=doctor", "--predictions"), "--mode=doctor makes no predictions: leave out --predictions"),
  ((DEMO, "--min_area_m2=5"), "--min_area_m2 is for --mode=vectorize; leave it out with --mode=train"),
  (("--mode=vectorize",), "--mode=vectorize needs --input. .*a folder that predict wrote"),
  (("--mode=area", "--input=a", "--reference=b"), "--workdir is not for --mode=area; leave it out"),
  (("--mode=evaluate",), "run: there is no run .no config.json.; give the folder of one"),
  (("--mode=evaluate", "--config.seed=1"), "launch.py: .*run: there is no run"),
  ((DEMO, "--workdirs=x"), "Unknown command line flag 'workdirs'. Did you mean: workdir"),
)
# What stands in one's own file.
FILES = (
  ("def get_config(:\n", "line 1: SyntaxError"),
  ("import no_such_module\n", "line 1: ModuleNotFoundError: No module named 'no_such_module'"),
  (OWN + "  return 1 / 0\n", "line 6: ZeroDivisionError: division by zero"),
  (OWN + "  config.optimizr.learning_rate = 1.0\n", "line 6: AttributeError: .*Did you mean .optimizer."),
  (OWN + "  config.data.batch_size = 'x'\n", "line 6: TypeError: .*'batch_size'"),
  (OWN + "  return {'seed': 0}\n", "the config is a dict: let get_config"),
  ("SEED = 0\n", "the config's file cannot be loaded: .*no attribute 'get_config'"),
)


def _launch(arguments, workdir) -> subprocess.CompletedProcess:
  command = [sys.executable, "launch.py", f"--workdir={workdir}", *arguments]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


class ConfigFuzzTest(parameterized.TestCase):
  def test_each_of_500_broken_configs_is_refused_by_name_and_value_and_each_sound_one_accepted(self):
    counts = config_fuzz.run(500, seed=0, traced=6)
    self.assertEmpty(counts["wrong"])
    self.assertEqual(counts["refused"] + counts["legal"], 500)
    self.assertGreater(counts["refused"], 300)
    self.assertGreater(counts["legal"], 50)
    self.assertEqual(counts["traced"], 6)
    self.assertGreater(min(counts["kinds"].values()), 50)

  def test_the_same_seed_breaks_the_same_configs(self):
    one, two, other = (config_fuzz.run(50, seed=seed) for seed in (3, 3, 4))
    self.assertEqual(one, two)
    self.assertNotEqual(one["refused"], other["refused"])

  def test_a_check_that_says_nothing_is_found_out(self):
    with self.enterContext(absltest.mock.patch.object(config_fuzz.checks, "check_config")):
      counts = config_fuzz.run(100, seed=0)
    self.assertLen(counts["wrong"], counts["refused"])

  def test_a_check_that_raises_something_else_is_found_out(self):
    with self.enterContext(absltest.mock.patch.object(config_fuzz.checks, "check_config", side_effect=KeyError("x"))):
      counts = config_fuzz.run(20, seed=0)
    self.assertLen(counts["wrong"], 20)
    self.assertIn("TRACEBACK", counts["wrong"][0])


class LaunchTest(parameterized.TestCase):
  def _check(self, result: subprocess.CompletedProcess, pattern: str):
    self.assertEqual(result.returncode, 1, result.stderr)
    self.assertEqual(result.stdout, "")
    self.assertNotIn("Traceback", result.stderr)
    lines = [line for line in result.stderr.splitlines() if line.startswith("launch.py: ")]
    self.assertLen(lines, 1, result.stderr)
    self.assertTrue(result.stderr.endswith(lines[0] + "\n"), result.stderr)
    self.assertRegex(lines[0], pattern)

  def test_what_is_wrong_on_the_command_line_gets_one_line_and_status_1(self):
    workdir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "run"
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      for (_, pattern), result in zip(COMMANDS, pool.map(lambda case: _launch(case[0], workdir), COMMANDS)):
        self._check(result, pattern)
    self.assertFalse(workdir.exists())

  def test_what_is_wrong_in_a_config_file_is_told_with_its_place(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    paths = [folder / f"config{i}.py" for i in range(len(FILES))]
    for path, (text, _) in zip(paths, FILES):
      path.write_text(text)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      results = pool.map(lambda path: _launch([f"--config={path}"], folder / "run"), paths)
      for (_, pattern), result in zip(FILES, results):
        self._check(result, pattern)


if __name__ == "__main__":
  absltest.main()
