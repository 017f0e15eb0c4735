import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from sklearn import metrics as sklearn_metrics

from minec2f_jax.data import resident
from minec2f_jax.evaluation import evaluate
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


if __name__ == "__main__":
  absltest.main()
