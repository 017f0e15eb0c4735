"""Which coarse images Replay keeps: the rule against scikit-learn and by hand, and whole runs at toy size."""

import json
import pathlib
import shutil
import tempfile
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized
from sklearn import metrics as sklearn_metrics

from configs.baselines import replay
from minec2f_jax import console, experiment
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import reproduce, selection
from tests import toy
from tests.toy_folder import run_config, write_folder

COUNTS = np.array([[[4, 0], [0, 0]], [[1, 1], [1, 1]], [[0, 4], [0, 0]], [[0, 0], [1, 3]], [[0, 0], [0, 0]]])


class RuleTest(parameterized.TestCase):
  @parameterized.parameters(("iou", [1, 1 / 3, 0, 3 / 4, 1]), ("f1", [1, 1 / 2, 0, 6 / 7, 1]))
  def test_consistency_by_hand_with_1_where_neither_has_a_mine(self, score, expected):
    np.testing.assert_allclose(selection.consistency(COUNTS, score=score), expected)

  @parameterized.parameters(("iou", sklearn_metrics.jaccard_score), ("f1", sklearn_metrics.f1_score))
  def test_consistency_is_scikit_learns_score(self, score, oracle):
    labels, predictions = np.random.default_rng(0).integers(0, 2, (2, 6, 40))
    counts = [sklearn_metrics.confusion_matrix(*pair, labels=[0, 1]) for pair in zip(labels, predictions)]
    found = selection.consistency(np.array(counts), score=score)
    np.testing.assert_allclose(found, [oracle(*pair) for pair in zip(labels, predictions)])

  @parameterized.parameters(
    (0.0, 0, [0, 1, 2, 3, 4]), (0.5, 0, [0, 2, 3]), (0.7, 0, [0, 3]), (1.0, 0, [3]), (1.1, 0, []),
    (0.5, 2, [0, 3]), (0.0, 4, [0, 1, 2, 3]), (0.5, 9, [0, 2, 3]),
  )  # fmt: skip
  def test_what_is_kept_reaches_the_threshold_best_first_and_of_equal_ones_the_first(self, least, most, expected):
    scores = np.array([0.7, 0.2, 0.5, 1.0, 0.2])
    self.assertEqual(selection.keep(scores, least=least, most=most).tolist(), expected)


def _run_config(data):
  config = run_config(data)
  config.update(replay.OVERRIDES)
  config.selector.epochs, config.fine.epochs, config.optimizer.warmup_epochs = 2, 1, 0
  config.data.device_gb = 0.0  # All runs here then are the same few programs, however many images they keep.
  config.fine.selection.update(dict(least=0.0, most=2))
  return config


class RunTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.data, cls.workdir = cls.root / "data", cls.root / "run"
    write_folder(cls.data)
    cls.config = _run_config(cls.data)
    with mock.patch.object(console, "say", wraps=console.say) as say:
      experiment.train(cls.config, cls.workdir)
    cls.said = [call.args[0] for call in say.call_args_list]
    cls.noted = json.loads((cls.workdir / "fine" / "selection.json").read_text())

  def _folder(self, name: str) -> pathlib.Path:
    shutil.copytree(self.workdir, self.root / name)
    return self.root / name

  def test_what_is_kept_is_told_and_noted_with_the_scores_and_other_thresholds(self):
    source = experiment.open_source(self.config, "coarse", "train")
    scores = self.noted["scores"]
    self.assertEqual(tuple(scores), source.ids)
    best = sorted(scores, key=lambda name: -scores[name])[:2]
    self.assertCountEqual(self.noted["ids"], best)
    self.assertEqual((self.noted["images"], self.noted["kept"]), (len(source), 2))
    self.assertEqual(self.noted["sweep"]["0.4"], sum(score >= 0.4 for score in scores.values()))
    kept = f"[fine] keeps {self.noted['kept']} of 4 coarse images, by the iou of label and selector model"
    self.assertTrue(any(line.startswith(kept) for line in self.said), self.said)

  def test_the_scores_are_those_of_the_selectors_masks(self):
    wired = experiment.wire(self.config)["selector"]
    model = experiment.load_stage(self.config, "selector", wired.method, self.workdir)
    source = experiment.open_source(self.config, "coarse", "train")
    for name, sample in zip(source.ids, source):
      mask = wired.predict(model, {key: sample[key][None] for key in ("image", "valid")})[0] > 0
      score = sklearn_metrics.jaccard_score(sample["label"].ravel(), np.ravel(mask), zero_division=1)
      np.testing.assert_allclose(self.noted["scores"][name], score)

  def test_both_stages_stand_in_the_table_under_their_methods(self):
    rows = json.loads((self.workdir / "results.json").read_text())["rows"]
    self.assertEqual([(row["model"], row["trained_on"], row["domain"]) for row in rows],
                     [(model, stage, domain) for model, stage in (("supervised", "selector"), ("replay", "fine"))
                      for domain in ("fine", "coarse")])  # fmt: skip

  def test_a_stage_that_goes_on_keeps_the_images_that_it_has_noted(self):
    workdir, config = self._folder("prolonged"), _run_config(self.data)
    for file in ("finished.json", "selection.json"):
      (workdir / "fine" / file).unlink()
    noted = {**self.noted, "ids": sorted(set(self.noted["scores"]) - set(self.noted["ids"]))}
    (workdir / "fine" / "selection.json").write_text(json.dumps(noted))
    config.fine.epochs = 2
    with mock.patch.object(selection, "_select", side_effect=AssertionError):
      with mock.patch.object(console, "say") as say:
        experiment.train(config, workdir)
    steps = [json.loads(line)["step"] for line in (workdir / "fine" / "metrics.jsonl").read_text().splitlines()]
    self.assertEqual(len(steps), 2)
    self.assertIn("[fine] keeps the 2 of 4 coarse images that it has started with", [c.args[0] for c in say.mock_calls])

  @parameterized.parameters("{", "[]", '{"ids": ["nobody"], "images": 4}', '{"ids": [], "images": 5}', '{"images": 4}')
  def test_a_note_that_does_not_fit_is_refused(self, text):
    source, folder = toy.ArraySource(4), self.root / "damaged"
    folder.mkdir(exist_ok=True)
    (folder / "selection.json").write_text(text)
    with mock.patch.object(selection.checkpoints, "has_checkpoints", return_value=True):
      with self.assertRaisesRegex(UserError, r"selection\.json.*(restore|Restore)"):
        sources = {("coarse", "train"): source, ("fine", "train"): source}
        selection.training_sources(self.config, "fine", {}, {}, sources, folder)

  def test_another_threshold_is_another_run(self):
    config = _run_config(self.data)
    config.fine.selection.least = 0.7
    with self.assertRaisesRegex(UserError, r"config\.fine\.selection\.least \(0\.0 there, 0\.7 here\)"):
      experiment.train(config, self.workdir)

  def test_a_threshold_that_leaves_nothing_for_half_of_each_batch_is_refused(self):
    workdir, config = self._folder("half"), _run_config(self.data)
    shutil.rmtree(workdir / "fine")
    config.fine.update(dict(sampling="each", selection=dict(least=1.1)))
    with self.assertRaisesRegex(UserError, r"selection\.least=1\.1 keeps none of the 4 coarse images.*selection\.json"):
      experiment.train(config, workdir)

  def test_keeping_nothing_is_the_plain_run_on_the_fine_set_bit_for_bit(self):
    workdir, config = self._folder("nothing"), _run_config(self.data)
    shutil.rmtree(workdir / "fine")
    config.fine.selection.least = 1.1
    experiment.train(config, workdir)
    plain = _run_config(self.data)
    plain.stages, plain.fine.streams, plain.fine.method = ("fine",), ("fine",), "supervised"
    del plain.fine["selection"], plain["selector"]
    experiment.train(plain, self.root / "plain")
    models = []
    for one, folder in ((config, workdir), (plain, self.root / "plain")):
      method = experiment.wire(one)["fine"].method
      models.append(experiment.load_stage(one, "fine", method, folder))
    jax.tree.map(np.testing.assert_array_equal, *models)

  def test_a_run_is_reproduced_with_its_selection(self):
    workdir = self._folder("reproduced")
    reproduce.reproduce(workdir)
    result = json.loads((workdir / "reproduction.json").read_text())
    self.assertEqual(result["verdict"], "bitwise equal")
    self.assertIn("fine selection", [part["what"] for part in result["parts"]])


if __name__ == "__main__":
  absltest.main()
