import json
import pathlib
import tempfile
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

from configs import fine_hybrid
from minec2f_jax import experiment
from minec2f_jax.training import checkpoints, trainer
from minec2f_jax.training import step as step_lib
from tests import toy

KEY = jax.random.key(7)


def _stage(*, epochs: int, learning_rate: float = 1e-2, **optimizer):
  config = toy.shrink(fine_hybrid.get_config(), epochs=epochs)
  config.optimizer.update(dict(learning_rate=learning_rate, **optimizer))
  source = toy.ArraySource(4)
  return experiment.make_stage(config, "coarse", experiment.wire(config)["coarse"], source, source)


def _latest(folder):
  """The latest saved training state, as flat arrays."""
  saver = checkpoints.Checkpoints(folder, read_only=True)
  return saver._manager.restore(saver.latest_step())


class RunStageTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_ends(self):
    trainer.run_stage(_stage(epochs=4), KEY, None, self.folder / "whole")
    trainer.run_stage(_stage(epochs=2), KEY, None, self.folder / "halves")
    trainer.run_stage(_stage(epochs=4), KEY, None, self.folder / "halves")
    whole, halves = _latest(self.folder / "whole"), _latest(self.folder / "halves")
    for item in ("trainable", "extra", "opt_state", "scalars", "progress"):
      jax.tree.map(np.testing.assert_array_equal, whole[item], halves[item])

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
    stage = _stage(epochs=40, learning_rate=3e-2, stop_patience=100, plateau_patience=100)
    variables = trainer.run_stage(stage, KEY, None, self.folder)
    self.assertGreater(stage.validate(variables)["iou_mine"], 0.8)

  def test_a_diverging_loss_stops_the_run_and_keeps_the_checkpoints(self):
    trainer.run_stage(_stage(epochs=1), KEY, None, self.folder)
    broken = _stage(epochs=3)._replace(prepare=lambda key, stream: {**stream, "image": stream["image"] * np.nan})
    with self.assertRaisesRegex(FloatingPointError, "learning_rate"):
      trainer.run_stage(broken, KEY, None, self.folder)
    self.assertEqual(checkpoints.Checkpoints(self.folder, read_only=True).latest_step(), 2)

  def test_the_students_step_compiles_once_and_stays_finite(self):
    steps = []

    def make_train_step(*args):
      steps.append(step_lib.make_train_step(*args))
      return steps[-1]

    config = toy.shrink(fine_hybrid.get_config(), epochs=3)
    wired, source, prior = experiment.wire(config), toy.ArraySource(4), None
    with mock.patch.object(trainer, "make_train_step", make_train_step):
      for name in config.stages:
        stage = experiment.make_stage(config, name, wired[name], source, source)
        prior = trainer.run_stage(stage, KEY, prior, self.folder / name)
    self.assertEqual([step._cache_size() for step in steps], [1, 1])
    lines = (self.folder / "fine" / "metrics.jsonl").read_text().splitlines()
    self.assertLen(lines, 3)
    for line in map(json.loads, lines):
      self.assertGreater(line["train/grad_norm"], 0)  # A NaN would be null.


if __name__ == "__main__":
  absltest.main()
