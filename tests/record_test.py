"""What a run notes of its data and its surroundings, and how it refuses to go on with others."""

import json
import pathlib
import tempfile
from unittest import mock

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from configs import fine_hybrid
from minec2f_jax import files, programs
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import record
from minec2f_jax.methods import Variables
from tests import toy
from tests.digest_test import StoredSource

PLACES = (("coarse", "train"), ("coarse", "validation"), ("fine", "train"), ("fine", "test"))


def _model(value=1.0, dtype=jnp.float32) -> Variables:
  return Variables({"a": {"kernel": jnp.full((2, 2), value, dtype)}}, {}, {"batch_stats": {"mean": jnp.zeros(2)}})


class RecordTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.config = fine_hybrid.get_config()
    self.sources = {place: toy.ArraySource(3, size=4, seed=n) for n, place in enumerate(PLACES)}
    self.started = set()
    self.enterContext(
      mock.patch.object(record.checkpoints, "has_checkpoints", lambda folder: folder.name in self.started)
    )

  def _digest(self):
    return record.digest_data(self.config, self.workdir, self.sources)

  def _start(self, *stages):
    record.write(self.workdir, self.config, self._digest(), None)
    self.started |= set(stages)

  def test_a_run_that_goes_on_with_the_same_data_finds_them_so(self):
    self._start("coarse", "fine")
    self.assertEqual(self._digest(), json.loads((self.workdir / "data.json").read_text()))

  def test_data_json_is_byte_for_byte_the_same_whatever_the_order_of_the_sources(self):
    self._start()
    before = (self.workdir / "data.json").read_bytes()
    self.sources = dict(reversed(self.sources.items()))
    self._start()
    self.assertEqual((self.workdir / "data.json").read_bytes(), before)

  def test_every_split_that_differs_is_named_and_in_what(self):
    self._start("coarse", "fine")
    self.sources["coarse", "validation"].label[0, 0, 0] ^= 1
    self.sources["fine", "test"] = toy.ArraySource(2, size=4)
    with self.assertRaisesRegex(
      UserError, r"coarse validation has other contents .*; fine test has other number of images \(3 recorded, 2 now\)"
    ):
      self._digest()

  def test_before_the_first_checkpoint_the_data_may_still_change(self):
    self._start()
    self.sources["coarse", "train"].image[0] = 0
    self._start()

  def test_the_fine_set_may_change_until_task_2_has_started(self):
    self._start("coarse")
    self.sources["fine", "train"].image[0] = 0
    self._start("fine")
    self.sources["fine", "train"].image[1] = 0
    with self.assertRaisesRegex(UserError, "fine train has other contents"):
      self._digest()

  def test_what_a_run_no_longer_reads_stays_noted(self):
    self._start("coarse", "fine")
    before = self._digest()
    del self.sources["coarse", "train"]
    self.assertEqual(self._digest(), before)

  def test_a_run_of_an_earlier_version_without_data_json_goes_on(self):
    self.started = {"coarse"}
    self.assertEqual(self._digest()["coarse"]["train"]["images"], 3)

  def test_a_set_that_was_streamed_is_compared_so_when_it_is_in_memory_by_now(self):
    place = ("coarse", "train")
    streamed = self.sources[place] = StoredSource(3, size=4)
    self._start("coarse")
    self.sources[place] = toy.ArraySource(3, size=4)
    with mock.patch.object(record, "open_source", return_value=streamed) as opened:
      self.assertEqual(self._digest()["coarse"]["train"]["of"], "stored")
    opened.assert_called_once_with(self.config, *place)
    streamed.ids = ("toy0", "toy1", "toy3")
    with (
      mock.patch.object(record, "open_source", return_value=streamed),
      self.assertRaisesRegex(UserError, "coarse train has other ids"),
    ):
      self._digest()

  def test_a_set_that_was_in_memory_is_compared_so_when_it_is_streamed_by_now(self):
    self._start("coarse")
    self.sources["coarse", "train"] = StoredSource(3, size=4, seed=0)
    self.assertEqual(self._digest()["coarse"]["train"]["of"], "samples")

  @parameterized.parameters("", "{", "[]", '{"coarse": 3}', '{"coarse": {"train": {"images": 3}}}', '{"a": {"b": []}}')
  def test_a_damaged_data_json_is_named(self, text):
    self._start("coarse")
    (self.workdir / "data.json").write_text(text)
    with self.assertRaisesRegex(UserError, r"data\.json"):
      self._digest()

  @parameterized.parameters("", "{", "[]", "{}", '{"environments": 3}')
  def test_a_damaged_run_json_is_named(self, text):
    (self.workdir / "run.json").write_text(text)
    with self.assertRaisesRegex(UserError, r"run\.json"):
      record.read_run(self.workdir)

  def test_each_environment_is_noted_once_in_order(self):
    first = record.environment(self.config)
    other = {**first, "device": "another"}
    for now in (first, other, first, other):
      with mock.patch.object(record, "environment", return_value=now):
        self._start()
    self.assertEqual(record.read_run(self.workdir)["environments"], [first, other])

  def test_the_environment_is_plain_json_and_names_device_versions_and_computation(self):
    found = record.environment(self.config)
    self.assertEqual(found, json.loads(json.dumps(found)))
    self.assertEqual((found["platform"], found["dtype"]), ("cpu", "float32"))
    self.assertEqual(found["packages"]["numpy"], np.__version__)
    with mock.patch.dict("os.environ", XLA_FLAGS="--xla_something"):
      self.assertNotEqual(record.environment(self.config), found)

  def test_the_hash_of_the_code_is_that_of_every_source_file_when_the_process_began(self):
    before = record.environment(self.config)["code"]
    with mock.patch.object(files, "sha256", lambda path: path.name):
      one = programs.source_sha256.__wrapped__()
      self.assertEqual(record.environment(self.config)["code"], before)
    with mock.patch.object(files, "sha256", lambda path: path.name.replace("losses", "edited")):
      self.assertNotEqual(programs.source_sha256.__wrapped__(), one)

  def test_a_teacher_is_noted_by_the_hash_of_its_weights(self):
    record.write(self.workdir, self.config, self._digest(), _model())
    self.assertEqual(record.read_run(self.workdir)["teacher"], record.model_sha256(_model()))

  def test_a_teacher_that_was_trained_again_is_refused_once_its_student_has_started(self):
    self.config.teacher = "runs/teacher"
    record.write(self.workdir, self.config, self._digest(), _model())
    record.write(self.workdir, self.config, self._digest(), _model(2.0))  # Nothing has learnt from the first.
    self.started = {"fine"}
    record.write(self.workdir, self.config, self._digest(), _model(2.0))
    with self.assertRaisesRegex(UserError, "config.teacher=runs/teacher: .*the teacher was trained again"):
      record.write(self.workdir, self.config, self._digest(), _model())

  def test_the_hash_of_a_model_changes_with_values_types_and_names_alone(self):
    before = record.model_sha256(_model())
    self.assertEqual(record.model_sha256(_model()._replace(frozen={"teacher": 1})), before)
    renamed = _model()._replace(trainable={"b": _model().trainable["a"]})
    hashes = {before, *map(record.model_sha256, (_model(1.0 + 2**-23), _model(dtype=jnp.bfloat16), renamed))}
    self.assertLen(hashes, 4)


if __name__ == "__main__":
  absltest.main()
