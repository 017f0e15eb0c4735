"""Tests of minec2f_jax.training.manifest."""

import ast
import errno
import hashlib
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
from unittest import mock

import hypothesis
from absl.testing import absltest, parameterized
from hypothesis import strategies as st

from minec2f_jax.training import manifest
from tests.faults import folder_kills

ROOT = pathlib.Path(__file__).resolve().parent.parent
JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
  max_leaves=5,
)


class ManifestTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "with a space"
    self.folder.mkdir()
    self.place = self.folder / "7"

  def _make(self, content: bytes = b"new"):
    folder_kills.make(self.place, content)

  def _content(self) -> bytes:
    self.assertEqual(manifest.damage(self.place), [])
    return (self.place / "deep" / "a").read_bytes()

  @hypothesis.given(content=st.dictionaries(st.text(), JSON, max_size=4))
  def test_what_is_sealed_comes_back(self, content):
    path = self.folder / "sealed"
    path.write_bytes(manifest.seal(content))
    self.assertEqual(manifest.unseal(path), content)

  def test_everything_is_on_the_disk_before_it_gets_its_name_and_the_name_before_all_is_said_to_be_done(self):
    if not pathlib.Path("/proc/self/fd").is_dir():
      self.skipTest("this system does not tell the path of an open file")
    calls, fsync, rename = [], os.fsync, pathlib.Path.rename

    def spy_on_fsync(descriptor):
      calls.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
      fsync(descriptor)

    def spy_on_rename(path, target):
      calls.append(("rename", path.name))
      return rename(path, target)

    with mock.patch.object(os, "fsync", spy_on_fsync), mock.patch.object(pathlib.Path, "rename", spy_on_rename):
      self._make()
    *before, named, after = calls
    self.assertEqual(named, ("rename", ".7.partial"))
    self.assertEqual(after, ("fsync", self.folder.name))
    written = {path.name for path in self.place.rglob("*")} | {".7.partial"}
    self.assertEqual({name for _, name in before}, written)

  def test_no_bit_of_a_sealed_file_can_change_unseen(self):
    path, sealed = self.folder / "sealed", manifest.seal({"score": 0.25, "files": {"a": {"bytes": 3}}, "none": None})
    for bit in range(8 * len(sealed)):
      flipped = bytearray(sealed)
      flipped[bit // 8] ^= 1 << bit % 8
      path.write_bytes(flipped)
      with self.assertRaisesRegex(manifest.DamagedError, "sealed is not as it was written"):
        manifest.unseal(path)

  @parameterized.parameters(b"", b"{}", b"[]", b"null", b"\xff", b'{"content": 1, "sha256": 2}', b"[" * 100_000)
  def test_what_was_never_sealed_is_refused(self, raw):
    (self.folder / "x").write_bytes(raw)
    with self.assertRaisesRegex(manifest.DamagedError, "x is not as it was written"):
      manifest.unseal(self.folder / "x")

  def test_the_manifest_holds_the_hashes_that_hashlib_finds(self):
    with manifest.made(self.place, {"note": "best"}) as partial:
      (partial / "deep").mkdir()
      (partial / "deep" / "a").write_bytes(b"abc")
      (partial / "b").touch()
    content = json.loads((self.place / "manifest.json").read_text())["content"]
    entry = {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    self.assertEqual(content["files"]["deep/a"], entry)
    self.assertEqual((set(content["files"]), content["note"]), ({"deep/a", "b"}, "best"))

  @parameterized.named_parameters(
    ("a_bit", lambda path: path.write_bytes(b"neW"), "a has another SHA-256", True),
    ("its_end", lambda path: path.write_bytes(b"ne"), "a has 2 bytes where 3 were written", False),
    ("all", lambda path: path.unlink(), "a cannot be read .No such file", False),
  )
  def test_a_file_that_lost_something_is_named(self, lose, message, looks_whole):
    self._make()
    lose(self.place / "deep" / "a")
    (fault,) = manifest.damage(self.place)
    self.assertRegex(fault, message)
    self.assertEqual(manifest.looks_whole(self.place), looks_whole)

  def test_every_damaged_file_is_told_and_files_of_others_are_not(self):
    self._make()
    (self.place / "deep" / "a").unlink()
    (self.place / "b").write_bytes(b"x")
    (self.place / ".DS_Store").touch()
    self.assertLen(manifest.damage(self.place), 2)

  def test_without_its_manifest_a_folder_is_damaged(self):
    self._make()
    (self.place / "manifest.json").unlink()
    self.assertRegex(manifest.damage(self.place)[0], "manifest.json cannot be read")
    self.assertFalse(manifest.looks_whole(self.place))

  def test_a_disk_that_cannot_read_counts_as_damage(self):
    self._make()
    with mock.patch("minec2f_jax.files.sha256", side_effect=OSError(errno.EIO, "Input/output error")):
      self.assertRegex(manifest.damage(self.place)[0], "Input/output error")

  @parameterized.parameters(True, False)
  def test_an_error_while_making_leaves_what_was_there(self, before):
    if before:
      self._make(b"old")
    with self.assertRaisesRegex(KeyError, "broken"), manifest.made(self.place, {}) as partial:
      (partial / "x").touch()
      raise KeyError("broken")
    self.assertEqual([path.name for path in self.folder.iterdir()], ["7"] * before)
    if before:
      self.assertEqual(self._content(), b"old")

  @parameterized.named_parameters(
    ("making_the_first", "make", False, ["new", "nothing"]),
    ("replacing", "make", True, ["new", "old"]),
    ("removing", "remove", True, ["nothing", "old"]),
  )
  def test_a_kill_at_any_moment_leaves_all_or_nothing_while(self, task, before, outcomes):
    call = f"folder_kills.kill_everywhere({str(self.folder)!r}, {task!r}, {before})"
    code = f"from tests.faults import folder_kills; print({call})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    self.assertEqual(result.stderr, "")
    words, found = ast.literal_eval(result.stdout)
    self.assertEqual(found, outcomes)
    self.assertGreater(words, 5)

  def test_names_with_a_dot_that_are_not_ours_stay(self):
    for name in (".lock", ".7.partial", ".8.removed", ".x.json.abc.partial"):
      (self.folder / name).touch()
    (self.folder / ".9.partial").mkdir()
    manifest.sweep(self.folder)
    self.assertEqual([path.name for path in self.folder.iterdir()], [".lock"])

  def test_a_file_in_the_place_gives_way(self):
    self.place.touch()
    self._make()
    self.assertEqual(self._content(), b"new")

  def test_room_is_asked_for_and_given_back(self):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    manifest.reserve(self.folder, [100, 10_000])
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
    try:
      with self.assertRaises(OSError) as caught:
        manifest.reserve(self.folder, [100, 10_000])
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, before)
    self.assertEqual(caught.exception.errno, errno.EFBIG)
    self.assertEqual(list(self.folder.iterdir()), [])

  @parameterized.parameters(
    (OSError(errno.ENOSPC, "x"), "7 cannot be written .No space left on device.: make room, then go on."),
    (OSError(errno.EROFS, "x"), "Read-only file system.: make it writable, then"),
    (OSError(errno.EIO, "x"), "Input/output error.: mend the disk, then"),
    (NotADirectoryError(errno.ENOTDIR, "x"), "Not a directory.: remove the file"),
    (ValueError("RESOURCE_EXHAUSTED: \"d/1\": [os_error_code='28']"), "No space left on device.: make room"),
    (ValueError("OUT_OF_RANGE: [os_error_code='27'] {}"), "File too large.: raise the limit.*ulimit -f"),
  )
  def test_the_systems_reason_becomes_one_sentence_with_a_remedy(self, error, message):
    with self.assertRaisesRegex(manifest.CheckpointError, message):
      with manifest.told(self.place, "then go on"):
        raise error

  @parameterized.parameters(ValueError("Cannot save arrays with zero size"), KeyError("x"), FloatingPointError("x"))
  def test_defects_keep_their_own_error(self, error):
    with self.assertRaises(type(error)) as caught, manifest.told(self.place, "then go on"):
      raise error
    self.assertIs(caught.exception, error)


if __name__ == "__main__":
  absltest.main()
