import json
import pathlib
import tempfile

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from sklearn import metrics as sklearn_metrics

from minec2f_jax.data import resident
from minec2f_jax.evaluation import evaluate, tables
from minec2f_jax.methods import Method, Variables
from tests import toy

# A method whose logit is the first band minus a threshold.
METHOD = Method(init=None, loss=None, logits=lambda trainable, frozen, extra, image: image[..., :1] - trainable)
VARIABLES = Variables(jnp.float32(0.2), {}, {})


class EvaluateTest(parameterized.TestCase):
  @parameterized.product(batch_size=[1, 2, 5, 8], held=[False, True])
  def test_scores_are_scikit_learns_at_any_batch_size(self, batch_size, held):
    source = toy.ArraySource(5)
    source.valid[:, :3] = False
    if held:
      source = resident.hold(source)
    predict = evaluate.make_predict(METHOD, lambda image, valid: image)
    scores = evaluate.evaluate(predict, VARIABLES, source, batch_size=batch_size).compute()
    image, label, valid = (np.stack([sample[name] for sample in source]) for name in ("image", "label", "valid"))
    truth, guess = label[valid], (image[..., 0] > 0.2)[valid]
    np.testing.assert_allclose(scores["iou_mine"], sklearn_metrics.jaccard_score(truth, guess), rtol=1e-9)
    np.testing.assert_allclose(scores["mf1"], sklearn_metrics.f1_score(truth, guess, average="macro"), rtol=1e-9)
    np.testing.assert_allclose(scores["accuracy"], sklearn_metrics.accuracy_score(truth, guess), rtol=1e-9)
    self.assertEqual(scores["num_images"], 5)

  def test_predict_all_keeps_the_order_and_drops_the_filling(self):
    source = toy.ArraySource(5)
    predict = evaluate.make_predict(METHOD, lambda image, valid: 2 * image)
    logits = evaluate.predict_all(predict, VARIABLES, source, batch_size=2)
    np.testing.assert_allclose(logits, 2 * source.image[..., 0] - 0.2, rtol=1e-6)


class TablesTest(parameterized.TestCase):
  ROWS = [
    {
      "model": "teacher",
      "trained_on": "coarse",
      "tested_on": "fine test",
      "scores": {**{name: 0.1234 for name in tables.COLUMNS.values()}, "iou_mine": float("nan")},
    }
  ]

  def test_text_and_markdown_hold_percents_and_a_dash_for_the_undefined(self):
    for text in (tables.to_text(self.ROWS), tables.to_markdown(self.ROWS)):
      self.assertIn("12.34", text)
      self.assertIn("–", text)
      self.assertNotIn("nan", text)

  def test_json_is_valid_and_holds_null_for_the_undefined(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    tables.write_tables(self.ROWS, folder, title="a title")
    result = json.loads((folder / "results.json").read_text(), parse_constant=self.fail)
    self.assertIsNone(result["rows"][0]["scores"]["iou_mine"])
    self.assertEqual(result["rows"][0]["scores"]["miou"], 0.1234)


if __name__ == "__main__":
  absltest.main()
