import collections
import functools
import json
import pathlib
import tempfile

import jax
import numpy as np
from absl.testing import absltest, parameterized

from configs import fine_hybrid
from minec2f_jax import experiment, programs
from minec2f_jax.data import resident
from minec2f_jax.evaluation import evaluate
from minec2f_jax.experiment import data
from minec2f_jax.training import checkpoints, trainer
from minec2f_jax.training import state as state_lib
from tests import toy

KEY = jax.random.key(7)


@functools.cache
def _folder_of_programs() -> tempfile.TemporaryDirectory:
  """As in a run of launch.py, what one stage has compiled the next ones find."""
  return tempfile.TemporaryDirectory()


def _stage(*, epochs: int, source=None, **optimizer):
  config = toy.shrink(fine_hybrid.get_config(), epochs=epochs)
  config.optimizer.update(dict(learning_rate=3e-2, stop_patience=100, plateau_patience=100) | optimizer)
  source = source or toy.ArraySource(4)
  kept = programs.Programs(_folder_of_programs().name, repr(config.optimizer))
  return experiment.make_stage(config, "coarse", experiment.wire(config, programs=kept)["coarse"], source, source)


def _latest(folder):
  """The latest saved training state and progress."""
  stage = _stage(epochs=1)
  template = state_lib.init_state(trainer.start(stage, KEY, None), stage.optimizer)
  return checkpoints.Checkpoints(folder, read_only=True).restore_latest(template)


class RunStageTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_ends(self):
    trainer.run_stage(_stage(epochs=4), KEY, None, self.folder / "whole")
    trainer.run_stage(_stage(epochs=2), KEY, None, self.folder / "halves")
    trainer.run_stage(_stage(epochs=4), KEY, None, self.folder / "halves")
    whole, halves = _latest(self.folder / "whole"), _latest(self.folder / "halves")
    jax.tree.map(np.testing.assert_array_equal, whole[0], halves[0])
    self.assertEqual(whole[1], halves[1])

  def test_a_finished_stage_is_not_trained_again(self):
    first = trainer.run_stage(_stage(epochs=1), KEY, None, self.folder)
    again = trainer.run_stage(_stage(epochs=1), KEY, None, self.folder)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    self.assertLen((self.folder / "metrics.jsonl").read_text().splitlines(), 1)

  def test_metrics_hold_each_epoch_once_even_after_a_cut_line(self):
    trainer.run_stage(_stage(epochs=2), KEY, None, self.folder)
    with (self.folder / "metrics.jsonl").open("a") as file:
      file.write('{"step": 6, "train/loss": 1.0}\n{"ste')
    trainer.run_stage(_stage(epochs=3), KEY, None, self.folder)
    steps = [json.loads(line)["step"] for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
    self.assertEqual(steps, [2, 4, 6])

  def test_it_learns_blobs_that_one_band_shows(self):
    stage = _stage(epochs=40)
    variables = trainer.run_stage(stage, KEY, None, self.folder)
    self.assertGreater(stage.validate(variables)["iou_mine"], 0.8)

  def test_a_diverging_loss_stops_the_run_and_moves_nothing(self):
    trainer.run_stage(_stage(epochs=1), KEY, None, self.folder)
    before = _latest(self.folder)[0]
    source = toy.ArraySource(4)
    source.image[:] = np.nan
    broken = _stage(epochs=3, source=source)
    with self.assertRaisesRegex(FloatingPointError, r"steps 3, 4 and 5 is not finite.* coarse toy\d, toy\d;"):
      trainer.run_stage(broken, KEY, None, self.folder)
    after = _latest(self.folder)[0]
    for name in ("trainable", "extra", "opt_state"):
      jax.tree.map(np.testing.assert_array_equal, getattr(before, name), getattr(after, name))
    self.assertEqual((int(after.step), int(after.skipped)), (4, 2))

  @parameterized.parameters((True, 2), (False, 1))  # As on a GPU, and as on a CPU with a set that does not fit.
  def test_networks_are_traced_once_whatever_the_epochs_and_the_last_batch(self, held, steps_per_call):
    config = toy.simplify(toy.shrink(fine_hybrid.get_config(), epochs=3))
    wired, prior, traced = experiment.wire(config), None, collections.Counter()

    def counted(name, function):
      def count(*args):
        traced[name] += 1
        return function(*args)

      return count

    train, validation = (toy.ArraySource(size) for size in (5, 3))  # Neither is a multiple of the batch of two.
    if held:
      train, validation = map(resident.hold, (train, validation))
    for name in config.stages:
      method = wired[name].method
      init = jax.jit(method.init)  # The prior's own, not counted.
      method = method._replace(**{f: counted((name, f), getattr(method, f)) for f in ("loss", "logits")})
      predict = evaluate.make_predict(method, data.make_normalize(config))
      stage = experiment.make_stage(config, name, experiment.Wired(method, predict), train, validation)
      self.assertEqual(stage.feed.resident, held)
      stage = stage._replace(steps_per_call=steps_per_call, method=stage.method._replace(init=init))
      prior = trainer.run_stage(stage, KEY, prior, self.folder / name)
    self.assertEqual(set(traced.values()), {1}, traced)
    lines = (self.folder / "fine" / "metrics.jsonl").read_text().splitlines()
    self.assertLen(lines, 3)
    for line in map(json.loads, lines):
      self.assertGreater(line["train/grad_norm"], 0)  # A NaN would be null.

  def test_an_epoch_in_one_call_ends_where_single_steps_do(self):
    source = resident.hold(toy.ArraySource(8))
    for steps in (1, 4):
      stage = _stage(epochs=2, source=source, learning_rate=1e-2)._replace(steps_per_call=steps)
      trainer.run_stage(stage, KEY, None, self.folder / str(steps))
    single, whole = (_latest(self.folder / str(steps)) for steps in (1, 4))
    self.assertEqual(single[1].epoch, whole[1].epoch)
    # Programs of their own, which round differently; a step of Adam's moves each parameter by up to 1e-2.
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=5e-4)
    jax.tree.map(close, single[0].trainable, whole[0].trainable)
    read = lambda steps: [json.loads(line) for line in (self.folder / steps / "metrics.jsonl").read_text().splitlines()]
    for one, other in zip(read("1"), read("4"), strict=True):
      np.testing.assert_allclose(one["train/loss"], other["train/loss"], rtol=1e-4)


if __name__ == "__main__":
  absltest.main()
