import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax.methods import Variables
from minec2f_jax.training import checkpoints, optimizers, state


def _variables(fill: float = 0.0, *, width: int = 3, dtype=jnp.float32) -> Variables:
  return Variables(
    trainable={"layer": {"kernel": jnp.full((2, width), fill, dtype)}},
    frozen={"params": {"kernel": jnp.full((2,), 7.0)}},
    extra={"batch_stats": {"mean": jnp.full((3,), fill, jnp.float32)}},
  )


OPTIMIZER = optimizers.make_optimizer(learning_rate=0.1, weight_decay=0.1, warmup_steps=4)


class CheckpointsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "with a space"

  def _save(self, scores):
    saver = checkpoints.Checkpoints(self.folder)
    saver.write_spec({"bands": ["red"]}, _variables().frozen)
    progress = optimizers.Progress()
    for step, score in enumerate(scores, start=1):
      progress = optimizers.after_epoch(progress, score, optimizers.ScoreRules())
      saved = state.init_state(_variables(step), OPTIMIZER)._replace(step=jnp.int32(step))
      saver.save(saved, progress, score)
    saver.close()
    return saved, progress

  def test_state_and_progress_come_back_bit_for_bit(self):
    saved, progress = self._save([0.1, 0.2])
    saver = checkpoints.Checkpoints(self.folder)
    restored, restored_progress = saver.restore_state(state.init_state(_variables(), OPTIMIZER), 2)
    jax.tree.map(np.testing.assert_array_equal, restored, saved)
    self.assertEqual(jax.tree.structure(restored), jax.tree.structure(saved))
    self.assertEqual(restored_progress, progress)
    saver.close()

  def test_the_best_and_the_latest_stay_while_the_score_falls(self):
    self._save([0.1, 0.9, 0.5, 0.4, 0.3])
    saver = checkpoints.Checkpoints(self.folder, read_only=True)
    self.assertEqual((saver.best_step(), saver.latest_step()), (2, 5))
    np.testing.assert_array_equal(saver.restore_variables(_variables()).trainable["layer"]["kernel"], 2.0)

  def test_of_equal_scores_the_first_is_the_best(self):
    self._save([0.5, 0.5, 0.5, 0.5])
    self.assertEqual(checkpoints.Checkpoints(self.folder, read_only=True).best_step(), 1)

  def test_frozen_parameters_come_back(self):
    self._save([0.1])
    variables = checkpoints.Checkpoints(self.folder, read_only=True).restore_variables(_variables())
    np.testing.assert_array_equal(variables.frozen["params"]["kernel"], 7.0)

  def test_a_start_that_saved_no_checkpoint_leaves_no_old_teacher_behind(self):
    old = {"params": {"kernel": jnp.full((2,), 3.0)}}
    saver = checkpoints.Checkpoints(self.folder)
    saver.write_spec({"bands": ["red"]}, old)
    saver.close()
    self._save([0.1])
    variables = checkpoints.Checkpoints(self.folder, read_only=True).restore_variables(_variables())
    np.testing.assert_array_equal(variables.frozen["params"]["kernel"], 7.0)

  @parameterized.named_parameters(
    ("shape", dict(width=4), r"layer/kernel.*\(2, 3\).*\(2, 4\)"),
    ("dtype", dict(dtype=jnp.bfloat16), "float32.*bfloat16"),
  )
  def test_another_array_is_refused_by_name(self, changed, message):
    self._save([0.1])
    with self.assertRaisesRegex(checkpoints.CheckpointError, message):
      checkpoints.Checkpoints(self.folder, read_only=True).restore_variables(_variables(**changed))

  def test_a_missing_module_is_refused_by_name(self):
    self._save([0.1])
    wanted = _variables()._replace(trainable={**_variables().trainable, "head": {"bias": jnp.zeros(1)}})
    with self.assertRaisesRegex(checkpoints.CheckpointError, "head/bias.*holds nothing"):
      checkpoints.Checkpoints(self.folder, read_only=True).restore_variables(wanted)

  def test_a_folder_without_checkpoints_is_refused(self):
    with self.assertRaisesRegex(checkpoints.CheckpointError, "holds no checkpoints"):
      checkpoints.Checkpoints(self.folder / "nothing", read_only=True)

  def test_saving_a_step_twice_is_refused_aloud(self):
    saved, progress = self._save([0.1])
    saver = checkpoints.Checkpoints(self.folder)
    with self.assertRaisesRegex(checkpoints.CheckpointError, "not saved"):
      saver.save(saved, progress, 0.1)
    saver.close()


if __name__ == "__main__":
  absltest.main()
