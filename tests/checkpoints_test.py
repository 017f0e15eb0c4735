"""Tests of minec2f_jax.training.checkpoints. Kills and flips take 7 s each, orbax' files 0.1 s a save: 30 s in all."""

import contextlib
import errno
import io
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import threading
from unittest import mock

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
from absl.testing import absltest, parameterized

from minec2f_jax.methods import Variables
from minec2f_jax.training import checkpoints, manifest, optimizers
from tests.faults import flips, stage

ROOT = pathlib.Path(__file__).resolve().parent.parent


def _run(code: str, *before: str) -> subprocess.CompletedProcess:
  return subprocess.run([*before, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


class CheckpointsCase(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "with a space"

  def _open(self, **options) -> checkpoints.Checkpoints:
    return self.enterContext(contextlib.closing(checkpoints.Checkpoints(self.folder, **options)))

  def _place(self, step: int) -> pathlib.Path:
    return self.folder / "checkpoints" / str(step)

  def _steps(self) -> list[str]:
    return sorted(path.name for path in (self.folder / "checkpoints").iterdir())

  def _flip(self, path: pathlib.Path):
    flips.strike(path, "flip", np.random.default_rng(0))

  def _resume(self, template=None):
    """What `restore_latest` gives, and what it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
      restored = self._open().restore_latest(template or stage.state_at(0))
    return restored, said.getvalue()

  def _kernel(self, step: int | None = None) -> float:
    return self._open(read_only=True).restore_variables(stage.variables(), step).trainable["layer"]["kernel"][0, 0]


class SaveAndRestoreTest(CheckpointsCase):
  def test_state_and_progress_come_back_bit_for_bit_as_numpy(self):
    stage.save(self.folder, [0.1, 0.2])
    for restored in (self._open().restore_state(stage.state_at(0), 2), self._open().restore_latest(stage.state_at(0))):
      self.assertTrue(stage.is_step(restored, 2))
      self.assertEqual({type(leaf) for leaf in jax.tree.leaves(restored[0])}, {np.ndarray})

  @parameterized.parameters(
    np.float16, ml_dtypes.bfloat16, np.float64, np.int8, np.uint32, np.bool_, ml_dtypes.float8_e4m3fn, np.complex64
  )
  def test_any_dtype_and_shape_comes_back(self, dtype):
    arrays = {"a": {"scalar": np.ones((), dtype), "b/c": (np.arange(3).astype(dtype), [np.zeros((2, 1, 3), dtype)])}}
    saved = stage.state_at(1)._replace(trainable=arrays)
    saver = self._open()
    saver.write_spec({}, {})
    saver.save(saved, stage.progress_at(1), 0.5)
    restored, _ = saver.restore_latest(saved)
    self.assertTrue(stage.same(restored, saved))

  @parameterized.parameters({}, {"batch_stats": {}})
  def test_a_model_without_statistics_comes_back(self, **extra):
    saved = stage.state_at(1)._replace(extra=extra)
    saver = self._open()
    saver.write_spec({}, {})
    saver.save(saved, stage.progress_at(1), 0.5)
    self.assertTrue(stage.same(saver.restore_latest(saved)[0], saved))
    variables = Variables(saved.trainable, {}, extra)
    self.assertTrue(stage.same(saver.restore_variables(variables), variables))

  def test_nothing_saved_is_nothing_to_go_on_from(self):
    saver = self._open()
    self.assertIsNone(saver.restore_latest(stage.state_at(0)))
    self.assertEqual((saver.latest_step(), saver.best_step()), (None, None))
    self.assertFalse(checkpoints.has_checkpoints(self.folder))

  def test_the_best_and_the_latest_stay_while_the_score_falls(self):
    stage.save(self.folder, [0.1, 0.9, 0.5, 0.4, 0.3])
    saver = self._open(read_only=True)
    self.assertEqual((saver.best_step(), saver.latest_step()), (2, 5))
    self.assertEqual(self._steps(), ["2", "4", "5"])
    self.assertEqual(self._kernel(), 2.0)

  def test_of_equal_scores_the_first_is_the_best(self):
    stage.save(self.folder, [0.5, 0.5, 0.5, 0.5])
    self.assertEqual(self._open(read_only=True).best_step(), 1)

  def test_a_step_saved_again_with_its_score_replaces_the_one_without(self):
    stage.save(self.folder, [0.1, None])
    self.assertEqual(self._open().best_step(), 1)
    stage.save(self.folder, [0.2], first=2)
    self.assertEqual((self._open().best_step(), self._steps()), (2, ["1", "2"]))

  def test_a_step_saved_again_without_a_score_keeps_the_one_it_has(self):
    stage.save(self.folder, [0.1, 0.9])
    stage.save(self.folder, [None], first=2)
    self.assertEqual(self._open().best_step(), 2)
    (self._place(2) / "progress.json").unlink()  # Nothing to keep.
    stage.save(self.folder, [None], first=2)
    self.assertEqual((self._open().latest_step(), self._open().best_step()), (2, 1))

  def test_without_any_score_there_is_no_best_to_use(self):
    stage.save(self.folder, [None])
    with self.assertRaisesRegex(checkpoints.CheckpointError, "holds no finished checkpoint"):
      self._kernel()

  def test_a_course_that_was_left_leaves_no_later_checkpoint(self):
    stage.save(self.folder, [0.1, 0.2, 0.9])
    stage.save(self.folder, [0.3], first=2)
    self.assertEqual((self._steps(), self._kernel()), (["2"], 2.0))

  def test_frozen_parameters_come_back(self):
    stage.save(self.folder, [0.1])
    variables = self._open(read_only=True).restore_variables(stage.variables())
    np.testing.assert_array_equal(variables.frozen["params"]["kernel"], 7.0)

  @parameterized.parameters(({"params": {"kernel": np.full(2, 3.0, np.float32)}},), ({},))
  def test_a_start_that_saved_no_checkpoint_leaves_no_old_teacher_behind(self, other):
    saver = self._open()
    saver.write_spec({"bands": ["red"]}, stage.variables().frozen)
    saver.write_spec({"bands": ["blue"]}, other)
    saver.save(stage.state_at(1), stage.progress_at(1), 0.1)
    restored = saver.restore_variables(stage.variables()._replace(frozen=other))
    self.assertTrue(stage.same(restored.frozen, other))
    self.assertEqual((saver.spec(), (self.folder / "frozen").exists()), ({"bands": ["blue"]}, bool(other)))

  def test_a_finished_stage_says_so(self):
    self.assertFalse(self._open().finished())
    self._open().mark_finished(optimizers.Progress())
    self.assertTrue(self._open().finished())

  def test_save_returns_before_the_disk_and_the_state_may_be_donated(self):
    disk, write = threading.Event(), checkpoints._write_trees

    def slow(*arguments):
      self.assertTrue(disk.wait(30))
      write(*arguments)

    saver = self._open()
    saver.write_spec({}, {})
    saved = jax.device_put(stage.state_at(1))
    with mock.patch.object(checkpoints, "_write_trees", slow):
      saver.save(saved, stage.progress_at(1), 0.1)
      jax.jit(lambda tree: jax.tree.map(lambda x: x * 0, tree), donate_argnums=0)(saved)
      self.assertEqual(self._steps(), [".1.partial"])
      disk.set()
      saver.save(stage.state_at(2), stage.progress_at(2), 0.1)  # Waits for the first.
      self.assertIn("1", self._steps())
    self.assertTrue(stage.is_step(saver.restore_state(stage.state_at(0), 1), 1))


class RefuseTest(CheckpointsCase):
  @parameterized.named_parameters(
    ("shape", dict(width=4), r"trainable: 'layer/kernel' holds \(2, 3\) float32.*expects \(2, 4\) float32"),
    ("bfloat16", dict(dtype=jnp.bfloat16), r"kernel' holds \(2, 3\) float32.*\(2, 3\) bfloat16"),
    ("float16", dict(dtype=np.float16), "float32.*float16"),
    ("int32", dict(dtype=np.int32), "float32.*int32"),
  )
  def test_another_array_is_refused_by_name(self, changed, message):
    stage.save(self.folder, [0.1])
    with self.assertRaisesRegex(checkpoints.CheckpointError, message + ".*Use the configuration"):
      self._open(read_only=True).restore_variables(stage.variables(**changed))
    with self.assertRaisesRegex(checkpoints.CheckpointError, message):
      self._open().restore_latest(stage.state_at(0, **changed))

  @parameterized.named_parameters(
    ("missing_in_trainable", lambda s: s._replace(trainable={"layer": {}}), "kernel' holds .*expects nothing"),
    ("more_in_extra", lambda s: s._replace(extra={**s.extra, "x": np.ones(1)}), r"extra: 'x' holds nothing.*\(1,\)"),
    ("other_optimizer", lambda s: s._replace(opt_state=s.opt_state[:1]), "opt_state: .*expects nothing"),
    ("other_moments", lambda s: s._replace(opt_state=jax.tree.map(np.float16, s.opt_state)), "opt_state: .*float16"),
    ("scalars", lambda s: s._replace(lr_scale=np.ones((), np.float64)), r"scalars: 'lr_scale' holds \(\) float32"),
    ("bfloat16", lambda s: s._replace(trainable=jax.tree.map(np.float32, s.trainable)), "half' holds .*bfloat16"),
  )
  def test_any_difference_in_any_part_is_refused(self, change, message):
    stage.save(self.folder, [0.1])
    with self.assertRaisesRegex(checkpoints.CheckpointError, message):
      self._open().restore_latest(change(stage.state_at(0)))

  @parameterized.parameters(({},), ({"params": {"kernel": np.ones(3, np.float32)}},), ({"other": np.ones(2)},))
  def test_another_teacher_is_refused(self, frozen):
    stage.save(self.folder, [0.1])
    with self.assertRaisesRegex(
      checkpoints.CheckpointError, "frozen/arrays: .params/kernel. holds|frozen/arrays: .oth"
    ):
      self._open().restore_variables(stage.variables()._replace(frozen=frozen))

  def test_many_differences_are_one_short_sentence(self):
    saver = self._open()
    saver.write_spec({}, {})
    saver.save(stage.state_at(1)._replace(extra={str(n): np.ones(n + 1) for n in range(6)}), stage.progress_at(1), 0.1)
    with self.assertRaisesRegex(checkpoints.CheckpointError, "'0' .*'1' .*'2' .*; and 4 more. Use the"):
      saver.restore_latest(stage.state_at(1))

  @parameterized.parameters(True, False)
  def test_a_folder_without_checkpoints_is_refused(self, exists):
    if exists:
      self.folder.mkdir()
    with self.assertRaisesRegex(checkpoints.CheckpointError, "holds no checkpoints"):
      self._open(read_only=True)

  @parameterized.parameters(True, False)
  def test_the_layout_of_earlier_versions_is_told_and_left_alone(self, read_only):
    with ocp.CheckpointManager(self.folder / "checkpoints") as manager:
      manager.save(3, args=ocp.args.StandardSave({"a": np.ones(1)}))
    before = self._steps()
    with self.assertRaisesRegex(checkpoints.CheckpointError, "3 was written by an earlier version"):
      self._open(read_only=read_only)
    self.assertEqual(self._steps(), before)

  @parameterized.parameters("more", "fewer")
  def test_progress_of_another_version_is_told(self, how):
    saver, progress = self._open(), stage.progress_at(1)
    saver.write_spec({}, {})
    fields = {**vars(progress), "mood": 1} if how == "more" else {"epoch": 1}
    with mock.patch("dataclasses.asdict", return_value=fields):
      saver.save(stage.state_at(1), progress, 0.1)
    with self.assertRaisesRegex(checkpoints.CheckpointError, "progress.json was written by another version.*'.*'"):
      saver.restore_latest(stage.state_at(1))

  def test_json_that_is_damaged_is_told(self):
    for content, message in ((None, "No such file"), ("{", "Expecting"), ("\udcff", "codec|decode")):
      path = self.folder.parent / "x.json"
      if content is not None:
        path.write_bytes(content.encode(errors="surrogateescape"))
      with self.assertRaisesRegex(checkpoints.CheckpointError, f"x.json cannot be read.*({message})"):
        checkpoints.read_json(path)


class DamageTest(CheckpointsCase):
  def test_no_flip_truncation_or_deletion_of_any_file_loads_silently(self):
    self.folder.mkdir()
    counts = flips.strike_all(self.folder, flips=200)
    self.assertEqual((counts["silent"], counts["unnamed"], counts["flip"]), (0, 0, 200), counts)
    struck = counts["flip"] + counts["truncate"] + counts["delete"]
    self.assertEqual(counts["resumed_earlier"] + counts["stopped"], 2 * struck, counts)  # Resumed, and used.
    self.assertEqual(counts["truncate"], counts["delete"])
    self.assertGreater(counts["truncate"], 30)

  def test_resuming_takes_the_one_before_and_names_both(self):
    stage.save(self.folder, [0.3, 0.2, 0.1])
    path = next((self._place(3) / "opt_state").rglob("d/*"))
    self._flip(path)
    restored, said = self._resume()
    self.assertTrue(stage.is_step(restored, 2))
    self.assertRegex(said, f"^checkpoint 3 is damaged: {path} has another SHA-256 .*; checkpoint 2 is taken instead\n$")

  def test_the_run_that_went_on_replaces_the_damaged_one(self):
    stage.save(self.folder, [0.3, 0.2, 0.1])
    (self._place(3) / "manifest.json").unlink()
    saver = self._open()
    self.assertEqual(int(saver.restore_latest(stage.state_at(0))[0].step), 2)
    saver.save(stage.state_at(3), stage.progress_at(3), 0.1)
    saver.close()
    self.assertEqual((self._open().latest_step(), self._steps()), (3, ["1", "2", "3"]))
    self.assertEqual(self._resume()[1], "")

  def test_none_that_is_whole_is_an_error_that_names_each(self):
    stage.save(self.folder, [0.2, 0.1])
    for step in (1, 2):
      self._flip(self._place(step) / "progress.json")
    with self.assertRaisesRegex(
      checkpoints.CheckpointError, "no checkpoint in .*1/progress.json.*2/progress.json.*copy"
    ):
      self._resume()

  def test_another_than_the_best_is_never_used_without_a_word(self):
    stage.save(self.folder, [0.9, 0.2, 0.1])
    self._flip(self._place(1) / "trainable" / "_METADATA")
    restored, said = self._resume()
    self.assertTrue(stage.is_step(restored, 3))
    self.assertRegex(said, "checkpoint 1 is damaged: .*it is not needed to go on, but it is the best so far")
    with self.assertRaisesRegex(checkpoints.CheckpointError, "checkpoint 1 is damaged.*delete .*1 to use the best of"):
      self._kernel()
    self.assertEqual(self._kernel(self._open().latest_step()), 3.0)  # By name.
    manifest.remove(self._place(1))
    self.assertEqual(self._kernel(), 2.0)

  def test_one_whose_score_is_unknown_may_be_the_best_and_stays(self):
    stage.save(self.folder, [0.9, 0.2])
    self._flip(self._place(1) / "manifest.json")
    stage.save(self.folder, [0.2, 0.1, 0.0], first=3)
    self.assertEqual(self._steps(), ["1", "2", "4", "5"])
    with self.assertRaisesRegex(checkpoints.CheckpointError, "1/manifest.json is not as it was written.*delete"):
      self._kernel()

  def test_a_damaged_best_stays_until_a_better_one_replaces_it(self):
    stage.save(self.folder, [0.9, 0.2])
    self._flip(self._place(1) / "progress.json")
    saver = self._open()
    self.assertIsNotNone(saver.restore_latest(stage.state_at(0)))
    for step, score in ((3, 0.3), (4, 0.95), (5, 0.1)):
      saver.save(stage.state_at(step), stage.progress_at(step), score)
      saver.wait()
      self.assertEqual(self._place(1).exists(), step < 4)
    self.assertEqual(self._kernel(), 4.0)

  @parameterized.parameters(
    "stage.json", "frozen/manifest.json", "frozen/arrays/_METADATA", "frozen/arrays/manifest.ocdbt"
  )
  def test_a_damaged_teacher_stops_both_in_one_sentence(self, name):
    stage.save(self.folder, [0.1])
    self._flip(self.folder / name)
    for use in (self._resume, self._kernel):
      with self.assertRaisesRegex(checkpoints.CheckpointError, f"{name} .*another workdir"):
        use()

  def test_the_frozen_folder_of_another_stage_is_refused(self):
    stage.save(self.folder, [0.1])
    other = self.folder.parent / "other"
    checkpoints.Checkpoints(other).write_spec({}, {"params": {"kernel": np.full(2, 8.0, np.float32)}})
    manifest.remove(self.folder / "frozen")
    (other / "frozen").rename(self.folder / "frozen")
    for use in (self._resume, self._kernel):
      with self.assertRaisesRegex(
        checkpoints.CheckpointError, "frozen is not the one that .*stage.json was written with"
      ):
        use()

  def test_a_damaged_spec_is_no_spec(self):
    stage.save(self.folder, [0.1])
    self._flip(self.folder / "stage.json")
    with self.assertRaisesRegex(checkpoints.CheckpointError, "stage.json is not as it was written. Put it back"):
      self._open().spec()


class SystemTest(CheckpointsCase):
  def _intact(self, steps):
    self.assertEqual(self._steps(), steps)
    restored, said = self._resume()
    self.assertTrue(stage.is_step(restored, int(steps[-1])))
    self.assertEqual(said, "")

  @parameterized.product(
    reason=[(errno.ENOSPC, "No space left on device"), (errno.EDQUOT, "Disk quota exceeded")],
    tell=["wait", "close", "save"],
  )
  def test_a_full_disk_is_told_at_the_next_word_and_leaves_the_rest(self, reason, tell):
    stage.save(self.folder, [0.1])
    saver = self._open()
    with mock.patch("os.posix_fallocate", side_effect=OSError(*reason)):
      saver.save(stage.state_at(2), stage.progress_at(2), 0.1)
      sentence = f"2 cannot be written .{reason[1]}.: make room, and the same command goes on from .* intact.$"
      with self.assertRaisesRegex(checkpoints.CheckpointError, sentence):
        getattr(saver, tell)(*[stage.state_at(3), stage.progress_at(3), 0.1] * (tell == "save"))
    self._intact(["1"])

  def test_after_an_error_the_next_save_works(self):
    saver = self._open()
    saver.write_spec({}, stage.variables().frozen)
    with mock.patch("os.posix_fallocate", side_effect=OSError(errno.ENOSPC, "x")):
      saver.save(stage.state_at(1), stage.progress_at(1), 0.1)
      with self.assertRaises(checkpoints.CheckpointError):
        saver.save(stage.state_at(2), stage.progress_at(2), 0.1)
    saver.save(stage.state_at(3), stage.progress_at(3), 0.1)
    saver.close()
    self._intact(["3"])

  @parameterized.parameters(True, False)
  def test_a_limit_on_the_size_of_files_is_told(self, asked):
    stage.save(self.folder, [0.1])
    saver, before = self._open(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:  # Without asking for room first, orbax meets the limit, in its own words.
      with contextlib.ExitStack() as stack:
        if not asked:
          stack.enter_context(mock.patch.object(manifest, "reserve"))
        saver.save(stage.state_at(2), stage.progress_at(2), 0.1)
        with self.assertRaisesRegex(checkpoints.CheckpointError, "2 cannot be written .File too large.: .*ulimit -f"):
          saver.wait()
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, before)
    self._intact(["1"])

  def test_a_real_full_disk_and_a_real_read_only_one_leave_the_last_checkpoint(self):
    unshare = ("unshare", "--mount", "--map-root-user")
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
      self.skipTest("this machine lets nobody mount")
    self.folder.mkdir()
    code = f"""
import contextlib, pathlib, subprocess
from minec2f_jax.training import checkpoints
from tests.faults import stage
folder = pathlib.Path({str(self.folder)!r})
def mount(*options):
  subprocess.run(["mount", *options, "none", str(folder)], check=True)
def tell(call):
  try:
    call()
    print("nothing")
  except checkpoints.CheckpointError as error:
    print(error)
mount("-t", "tmpfs", "-o", "size=900k")
stage.save(folder, [0.1])
(folder / "ballast").write_bytes(bytes(500_000))
tell(lambda: stage.save(folder, [0.2], first=2))
print([path.name for path in (folder / "checkpoints").iterdir()])
with contextlib.closing(checkpoints.Checkpoints(folder)) as saver:
  print(stage.is_step(saver.restore_latest(stage.state_at(0)), 1))
  (folder / "ballast").unlink()
  mount("-o", "remount,ro,size=900k")
  saver.save(stage.state_at(2), stage.progress_at(2), 0.2)
  tell(saver.wait)
tell(lambda: checkpoints.Checkpoints(folder))
with contextlib.closing(checkpoints.Checkpoints(folder, read_only=True)) as saver:
  print(stage.is_step(saver.restore_latest(stage.state_at(0)), 1))
"""
    result = _run(code, *unshare)
    full, steps, whole, read_only, opening, still_whole = result.stdout.splitlines() or [result.stderr] * 6
    self.assertRegex(full, "checkpoints/2 cannot be written .No space left on device.: make room, and the same command")
    self.assertEqual((steps, whole, still_whole), ("['1']", "True", "True"))
    self.assertRegex(
      read_only, "checkpoints/2 cannot be written .Read-only file system.: make it writable, and the same"
    )
    self.assertRegex(opening, "cannot be written .Read-only file system.: make it writable, or choose another workdir")
    self.assertNotIn("Traceback", result.stderr)

  @parameterized.parameters("", "checkpoints")
  def test_a_file_where_a_folder_should_be_is_told(self, name):
    (self.folder / name).parent.mkdir(exist_ok=True)
    (self.folder / name).touch()
    with self.assertRaisesRegex(
      checkpoints.CheckpointError, "cannot be written .(Not a dir|File ex).*: remove the file"
    ):
      self._open()

  def test_a_disk_that_is_full_at_the_start_is_told(self):
    with mock.patch("os.posix_fallocate", side_effect=OSError(errno.ENOSPC, "x")):
      with self.assertRaisesRegex(
        checkpoints.CheckpointError, "frozen cannot be written .*: make room, and start again"
      ):
        self._open().write_spec({}, stage.variables().frozen)
    self.assertEqual([path.name for path in self.folder.iterdir()], ["checkpoints"])

  def test_what_a_killed_run_left_is_removed_by_the_next_that_may_write(self):
    stage.save(self.folder, [0.1])
    left = [".2.partial", ".7.removed"]
    for name in left:
      (self._place(1).parent / name / "trainable").mkdir(parents=True)
    (self.folder / ".stage.json.x.partial").touch()
    self._open(read_only=True)
    self.assertEqual(self._steps(), [*left, "1"])
    self._open()
    self.assertEqual(self._steps(), ["1"])
    self.assertFalse((self.folder / ".stage.json.x.partial").exists())

  def test_kills_while_saving_cost_no_checkpoint_that_was_reported(self):
    code = f"from tests.faults import save_kills; print(save_kills.kill_saves({str(self.folder)!r}, kills=7))"
    self.folder.mkdir()
    result = _run(code)
    counts = dict(re.findall(r"'(\w+)': (\d+)", result.stdout))
    self.assertEqual((counts.get("wrong"), counts.get("killed")), ("0", "7"), result.stderr)
    self.assertGreater(int(counts["steps"]), 0)


if __name__ == "__main__":
  absltest.main()
