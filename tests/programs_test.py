"""Programs that outlive their process: found again, never taken for another, never needed."""

import collections
import copy
import pathlib
import re
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from ml_collections import ConfigDict

from configs import fine_hybrid
from minec2f_jax import experiment, programs
from minec2f_jax.experiment import stages
from minec2f_jax.training import state, trainer
from tests import toy
from tests.toy_folder import run_config, write_folder


class Counted:
  """`function`, and how often it has been traced."""

  def __init__(self, function):
    self.function, self.traced = function, 0

  def __call__(self, *arguments):
    self.traced += 1
    return self.function(*arguments)


Pair = collections.namedtuple("Pair", ("first", "second"))


class ProgramTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "new folder"

  def _wrap(self, *facts, name="square", **options):
    function = Counted(lambda pair, scale: {"out": (scale * pair.first**2, pair.second)})
    return function, programs.Programs(self.folder, programs.identity(*facts)).wrap(name, function, **options)

  def _run(self, program, size=3):
    pair = Pair(jnp.arange(size, dtype=jnp.float32), np.ones(2, np.float32))
    result = program(pair, np.float32(2))
    np.testing.assert_array_equal(result["out"][0], 2 * np.arange(size, dtype=np.float32) ** 2)
    self.assertIsInstance(result["out"], tuple)

  def test_it_is_traced_once_for_all_processes(self):
    for expected in (1, 0, 0):
      function, program = self._wrap()
      self._run(program)
      self._run(program)
      self.assertEqual(function.traced, expected)

  def test_without_a_folder_it_is_a_jitted_function(self):
    function = Counted(lambda x: x + 1)
    program = programs.NOT_KEPT.wrap("plus", function)
    self.assertEqual([int(program(np.int32(n))) for n in (1, 2)], [2, 3])
    self.assertEqual(int(program.compile(np.int32(1))(np.int32(3))), 4)
    self.assertEqual(function.traced, 1)

  def test_other_shapes_names_and_facts_have_programs_of_their_own(self):
    self._run(self._wrap()[1])
    for facts, name, size in (((), "square", 4), ((), "other", 3), (("fact",), "square", 3)):
      function, program = self._wrap(*facts, name=name)
      self._run(program, size)
      self.assertEqual(function.traced, 1, (facts, name, size))

  def test_other_code_versions_settings_and_devices_make_another_identity(self):
    here = programs.identity("config")
    self.assertEqual(here, programs.identity("config"))
    device = mock.Mock(platform="gpu", device_kind="H100")
    for place, name, value in (
      (programs, "source_sha256", lambda: "edited"),
      (programs.importlib.metadata, "version", lambda name: "0.0"),
      (jax, "devices", lambda: [device]),
    ):
      with mock.patch.object(place, name, value):
        self.assertNotEqual(programs.identity("config"), here, name)
    with jax.default_matmul_precision("float32"):
      self.assertNotEqual(programs.identity("config"), here)

  @parameterized.parameters(0, 40, -1)
  def test_a_damaged_file_is_written_anew(self, place):
    self._run(self._wrap()[1])
    (path,) = self.folder.iterdir()
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1
    path.write_bytes(damaged)
    for expected in (1, 0):
      function, program = self._wrap()
      self._run(program)
      self.assertEqual(function.traced, expected)

  def test_a_folder_that_cannot_be_written_costs_only_time(self):
    self.folder.write_text("a file")
    for _ in range(2):
      function, program = self._wrap()
      self._run(program)
      self.assertEqual(function.traced, 1)

  def test_what_no_file_can_hold_runs_all_the_same(self):
    double = lambda x: jax.pure_callback(lambda x: 2 * np.asarray(x), jax.ShapeDtypeStruct((), np.float32), x)
    program = programs.Programs(self.folder, "name").wrap("callback", double)
    self.assertEqual(float(program(np.float32(3))), 6)

  def test_a_donated_argument_is_gone(self):
    for _ in range(2):
      program = programs.Programs(self.folder, "name").wrap("add", lambda x, y: x + y, donate=True)
      x, y = jnp.ones(1000), jnp.ones(1000)
      jax.block_until_ready(program(x, y))
      self.assertTrue(x.is_deleted())
      self.assertFalse(y.is_deleted())

  def test_a_check_that_has_passed_is_not_run_again(self):
    place, runs = programs.Programs(self.folder, "name"), []
    with self.assertRaises(ZeroDivisionError):
      place.once("check", lambda: 1 // 0)
    for _ in range(2):
      place.once("check", lambda: runs.append(1))
      programs.NOT_KEPT.once("check", lambda: runs.append(2))
    self.assertEqual(runs, [1, 2, 2])


class RunTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def test_a_second_run_traces_nothing_and_ends_with_the_same_bits(self):
    write_folder(self.root / "data")
    config = run_config(self.root / "data")
    experiment.train(config, self.root / "plain")
    experiment.train(config, self.root / "first", cache=self.root / "programs")
    with mock.patch.object(programs.Program, "_trace", side_effect=AssertionError("traced again")):
      experiment.train(config, self.root / "second", cache=self.root / "programs")
    read = lambda name: (self.root / name / "results.json").read_text()
    self.assertEqual(read("first"), read("second"))
    self.assertEqual(read("plain"), read("first"))

  def test_two_configs_of_one_name_have_the_same_program(self):
    """Whatever `programs_of` leaves out must not be in a program: fields are changed one by one."""
    config = toy.shrink(fine_hybrid.get_config())
    name = stages.programs_of(config, self.root).name
    before = _steps_as_text(config)
    shared = []
    for field, value in _fields(config):
      changed = copy.deepcopy(config)
      with changed.unlocked():
        changed.update_from_flattened_dict({field: _other(value)})
      if stages.programs_of(changed, self.root).name == name:
        shared.append(field)
    self.assertContainsSubset(["seed", "data.cache_gb", "data.fine.path"], shared)
    left_out = (
      r"(seed|teacher|pretrained(_sha256)?|checkpoint_minutes"
      r"|data\.(coarse|fine|data_dir|cache_gb|device_gb|read_threads|gsd_m)\b.*)"
    )
    self.assertEqual([field for field in shared if not re.fullmatch(left_out, field)], [])
    changed = copy.deepcopy(config)
    changed.seed, changed.data.cache_gb = config.seed + 1, 1.0
    self.assertEqual(_steps_as_text(changed), before)

  def test_the_length_of_an_epoch_has_programs_of_its_own(self):
    config = toy.shrink(fine_hybrid.get_config())
    wired = experiment.wire(config, programs=programs.Programs(self.root, "name"))["coarse"]
    make = lambda count: experiment.make_stage(config, "coarse", wired, toy.ArraySource(count), toy.ArraySource(2))
    self.assertEqual(make(4).programs.name, make(5).programs.name)
    self.assertNotEqual(make(4).programs.name, make(8).programs.name)


def _fields(config):
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      yield from ((f"{name}.{inner}", found) for inner, found in _fields(value))
    else:
      yield name, value


def _other(value):
  if isinstance(value, bool):
    return not value
  if isinstance(value, (int, float)):
    return value + 1
  if isinstance(value, (tuple, list)):
    return (*value, "more")
  return f"{value} more"


def _steps_as_text(config) -> str:
  """The train steps of the toy teacher in StableHLO."""
  source = toy.ArraySource(4)
  stage = experiment.make_stage(config, "coarse", experiment.wire(config)["coarse"], source, source)
  variables = trainer.start(stage, jax.random.key(0), None)
  steps = trainer.make_train_steps(stage.method.loss, stage.optimizer, stage.prepare, stage.feed.take)
  inputs = jax.tree.map(lambda x: x[None], next(stage.feed.inputs(0)))
  arguments = state.init_state(variables, stage.optimizer), variables.frozen, stage.feed.held, inputs, jax.random.key(0)
  return steps.lower(*arguments).as_text()


if __name__ == "__main__":
  absltest.main()
