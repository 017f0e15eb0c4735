import math

import hypothesis
import jax
import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import strategies as st
from sklearn import metrics as sk

from minec2f_jax import metrics

RNG = np.random.default_rng(0)
SHAPE = (6, 7, 8)
LOGITS = RNG.normal(size=SHAPE).astype(np.float32)
LABEL = (LOGITS + RNG.normal(size=SHAPE) > 0.5).astype(np.uint8)
VALID = RNG.uniform(size=SHAPE) > 0.2


def evaluate(logits, label, valid=None):
  return metrics.ConfusionMatrix.from_counts(metrics.confusion_counts(logits, label, valid))


def matrix(*counts):
  """A ConfusionMatrix of images given as (tn, fp, fn, tp)."""
  return metrics.ConfusionMatrix.from_counts(np.array(counts, np.int64).reshape(-1, 2, 2))


class ConfusionCountsTest(parameterized.TestCase):
  def test_by_hand_with_nan_under_the_mask(self):
    logits = np.float32([[[1, -1, 1, -1, np.nan, 2]], [[0, -3, -4, 5, -6, 7]]])
    label = np.float32([[[1, 1, 0, 0, 1, np.nan]], [[1, 0, 0, 1, 0, 1]]])
    valid = np.array([[[1, 1, 1, 1, 0, 0]], [[1, 1, 1, 1, 1, 1]]], bool)
    counts = jax.jit(metrics.confusion_counts)(logits, label, valid)
    # A probability of exactly the threshold is no mine.
    np.testing.assert_array_equal(counts, [[[1, 1], [1, 1]], [[3, 0], [1, 2]]])
    self.assertEqual(counts.dtype, np.int32)

  def test_equals_sklearn_image_by_image(self):
    counts = metrics.confusion_counts(LOGITS, LABEL, VALID)
    for b in range(SHAPE[0]):
      expected = sk.confusion_matrix(LABEL[b][VALID[b]], LOGITS[b][VALID[b]] > 0, labels=[0, 1])
      np.testing.assert_array_equal(counts[b], expected)

  @parameterized.parameters(0.1, 0.5, 0.8)
  def test_threshold_is_a_probability(self, threshold):
    counts = metrics.confusion_counts(LOGITS, LABEL, threshold=threshold)
    predicted = 1 / (1 + np.exp(-LOGITS.astype(np.float64))) > threshold
    np.testing.assert_array_equal(counts[:, :, 1].sum(axis=1), predicted.sum(axis=(1, 2)))

  @parameterized.parameters(0.0, 1.0, -2.0)
  def test_threshold_outside_zero_and_one_is_refused(self, threshold):
    with self.assertRaisesRegex(ValueError, f"threshold={threshold} is no probability"):
      metrics.confusion_counts(LOGITS, LABEL, threshold=threshold)


class ComputeTest(parameterized.TestCase):
  def test_pooled_metrics_equal_sklearn(self):
    result = evaluate(LOGITS, LABEL, VALID).compute()
    y, p = LABEL[VALID], (LOGITS > 0)[VALID]
    expected = {
      "accuracy": sk.accuracy_score(y, p),
      "iou_background": sk.jaccard_score(y, p, pos_label=0),
      "iou_mine": sk.jaccard_score(y, p),
      "miou": sk.jaccard_score(y, p, average="macro"),
      "f1_background": sk.f1_score(y, p, pos_label=0),
      "f1_mine": sk.f1_score(y, p),
      "mf1": sk.f1_score(y, p, average="macro"),
      "precision_mine": sk.precision_score(y, p),
      "recall_mine": sk.recall_score(y, p),
    }
    for name, value in expected.items():
      self.assertIsInstance(result[name], float)
      self.assertAlmostEqual(result[name], value, delta=1e-9, msg=name)
    self.assertEqual(result["num_images"], 6)
    self.assertEqual(result["num_pixels"], VALID.sum())

  def test_image_means_equal_sklearn(self):
    result = evaluate(LOGITS, LABEL, VALID).compute()
    pairs = [(LABEL[b][VALID[b]], (LOGITS[b] > 0)[VALID[b]]) for b in range(SHAPE[0])]
    for name, score in {
      "image_accuracy": sk.accuracy_score,
      "image_iou_background": lambda y, p: sk.jaccard_score(y, p, pos_label=0),
      "image_iou_mine": sk.jaccard_score,
      "image_miou": lambda y, p: sk.jaccard_score(y, p, average="macro"),
      "image_f1_background": lambda y, p: sk.f1_score(y, p, pos_label=0),
      "image_f1_mine": sk.f1_score,
      "image_mf1": lambda y, p: sk.f1_score(y, p, average="macro"),
      "image_precision_mine": sk.precision_score,
      "image_recall_mine": sk.recall_score,
    }.items():
      self.assertAlmostEqual(result[name], np.mean([score(y, p) for y, p in pairs]), delta=1e-9, msg=name)

  def test_every_pooled_score_has_an_image_mean(self):
    result = evaluate(LOGITS, LABEL, VALID).compute()
    pooled = [name for name in result if not name.startswith(("image_", "num_"))]
    self.assertEqual([f"image_{name}" for name in pooled], [name for name in result if name.startswith("image_")])
    self.assertEqual(pooled, list(metrics.scores(np.zeros((2, 2)))))

  def test_pooled_and_image_means_differ_where_images_differ_in_size_of_mine(self):
    result = matrix((0, 0, 0, 90), (90, 5, 4, 1)).compute()
    self.assertEqual(result["iou_mine"], 91 / 100)
    self.assertEqual(result["image_iou_mine"], (1 + 1 / 10) / 2)

  def test_shares_are_table_14s_percent_of_pixels(self):
    total = matrix((6810, 352, 415, 2423), (0, 0, 0, 0))
    np.testing.assert_allclose(100 * total.shares(), [[68.10, 3.52], [4.15, 24.23]], rtol=1e-12)
    np.testing.assert_array_equal(total.pooled(), [[6810, 352], [415, 2423]])
    self.assertTrue(np.isnan(metrics.ConfusionMatrix.empty().shares()).all())

  @parameterized.parameters(
    # Table 14 (percent of pixels): accuracy, IoU mine, mine prevalence -> printed IoU
    # background, and miou and mf1 as they follow; the paper's Table 1 prints 85.36, 85.02 and
    # 84.10 as mF1.
    ("MDIL-SS", 88.62, 64.55, 27.14, 85.65, 75.10, 85.36),
    ("GSMF-RS-DIL", 88.83, 63.22, 24.48, 86.18, 74.70, 85.02),
    ("MineC2FNet", 92.33, 75.96, 28.38, 89.88, 82.92, 90.50),
  )
  def test_table_14_arithmetic(self, name, accuracy, iou_mine, prevalence, iou_background, miou, mf1):
    error = 100 - accuracy
    tp = iou_mine * error / (100 - iou_mine)
    fn = prevalence - tp
    tn = accuracy - tp
    pixels = np.rint(1e6 * np.array([tn, error - fn, fn, tp])).astype(np.int64)
    result = {k: 100 * v for k, v in matrix(pixels).compute().items()}
    for key, value in {
      "accuracy": accuracy,
      "iou_mine": iou_mine,
      "iou_background": iou_background,
      "miou": miou,
      "mf1": mf1,
    }.items():
      # The inputs are rounded to 0.005, and IoU mine enters tp threefold.
      self.assertAlmostEqual(result[key], value, delta=0.02, msg=f"{name} {key}")

  def test_large_counts_do_not_overflow(self):
    # 3 x 2^31 pixels: more than int32 holds.
    result = matrix(*[(2**30, 0, 2**29, 2**29)] * 3).compute()
    self.assertEqual(result["num_pixels"], 3 * 2**31)
    self.assertEqual(result["accuracy"], 0.75)
    self.assertEqual(result["iou_mine"], 0.5)


class AbsentClassTest(parameterized.TestCase):
  def test_without_mines_anywhere_only_the_background_counts(self):
    result = matrix((9, 0, 0, 0)).compute()
    for name in ("iou_mine", "f1_mine", "precision_mine", "recall_mine", "image_iou_mine"):
      self.assertTrue(math.isnan(result[name]), name)
    self.assertEqual((result["miou"], result["mf1"], result["image_miou"]), (1.0, 1.0, 1.0))

  def test_a_false_alarm_alone_has_an_iou_of_zero_but_no_recall(self):
    result = matrix((7, 2, 0, 0)).compute()
    self.assertEqual((result["iou_mine"], result["precision_mine"]), (0.0, 0.0))
    self.assertTrue(math.isnan(result["recall_mine"]))

  def test_image_mean_leaves_out_images_without_the_class(self):
    result = matrix((9, 0, 0, 0), (0, 1, 1, 2), (4, 0, 4, 0)).compute()
    self.assertEqual(result["image_iou_mine"], (0.5 + 0.0) / 2)
    # Background IoUs 1, 0, 1/2: means over the classes 1, 1/4, 1/4.
    self.assertEqual(result["image_miou"], (1.0 + 0.25 + 0.25) / 3)

  def test_images_with_mine_are_those_that_label_one(self):
    result = matrix((9, 0, 0, 0), (7, 2, 0, 0), (5, 0, 4, 0), (0, 0, 0, 9), (0, 0, 0, 0)).compute()
    self.assertEqual((result["num_images"], result["num_images_with_mine"]), (4, 2))

  def test_the_policy_names_each_case(self):
    for words in (
      "neither the label nor the prediction",
      "left out of means",
      "undefined (–)",
      "false alarm",
      "recall",
    ):
      self.assertIn(words, metrics.ABSENT_CLASS_POLICY)

  def test_no_image_gives_nan_and_no_warning(self):
    with np.errstate(all="raise"):
      result = metrics.ConfusionMatrix.empty().compute()
    counts = [result.pop(name) for name in ("num_images", "num_images_with_mine", "num_pixels")]
    self.assertEqual(counts, [0, 0, 0])
    self.assertTrue(all(math.isnan(value) for value in result.values()))

  def test_an_image_without_valid_pixels_counts_nowhere(self):
    self.assertEqual(matrix((3, 1, 1, 5), (0, 0, 0, 0)).compute(), matrix((3, 1, 1, 5)).compute())


class MergeTest(parameterized.TestCase):
  @hypothesis.settings(max_examples=50, deadline=None)
  @hypothesis.given(
    st.lists(st.lists(st.integers(1, 10**6), min_size=4, max_size=4), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
    st.integers(1, 8),
  )
  def test_result_depends_neither_on_batch_size_nor_on_order(self, images, random, batch_size):
    expected = matrix(*images).compute()
    random.shuffle(images)
    total = metrics.ConfusionMatrix.empty()
    for start in range(0, len(images), batch_size):
      total = total.update(np.array(images[start : start + batch_size]).reshape(-1, 2, 2))
    self.assertEqual(total.compute(), expected)  # To the last bit.

  @hypothesis.settings(max_examples=50, deadline=None)
  @hypothesis.given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=8))
  def test_a_perfect_prediction_scores_one_wherever_a_score_is_defined(self, images):
    result = matrix(*[(background, 0, 0, mine) for background, mine in images]).compute()
    for name, value in result.items():
      if not name.startswith("num_"):
        self.assertTrue(value == 1.0 or math.isnan(value), f"{name}={value}")

  def test_merge_keeps_the_counts_of_both(self):
    merged = matrix((1, 2, 3, 4)).merge(matrix((5, 6, 7, 8)))
    np.testing.assert_array_equal(merged.counts, [[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
    self.assertEqual(merged.counts.dtype, np.int64)

  def test_is_a_pytree_with_one_leaf(self):
    total = matrix((1, 2, 3, 4))
    leaves, treedef = jax.tree.flatten(total)
    self.assertLen(leaves, 1)
    self.assertEqual(jax.tree.unflatten(treedef, leaves).compute(), total.compute())

  @parameterized.parameters((np.zeros((2, 2), int),), (np.zeros((1, 2, 2)),))
  def test_counts_of_another_shape_or_dtype_are_refused(self, counts):
    with self.assertRaisesRegex(ValueError, "give the result of confusion_counts"):
      metrics.ConfusionMatrix.from_counts(counts)


class PerImageScoresTest(parameterized.TestCase):
  def test_iou_and_f1_by_hand(self):
    counts = np.array([[[5, 1], [2, 3]], [[4, 0], [0, 0]]])
    np.testing.assert_allclose(metrics.iou(counts), [[5 / 8, 3 / 6], [1, np.nan]])
    np.testing.assert_allclose(metrics.f1(counts), [[10 / 13, 6 / 9], [1, np.nan]])

  def test_scores_of_many_matrices_are_those_of_each(self):
    counts = RNG.integers(0, 5, (3, 4, 2, 2))
    several = metrics.scores(counts)
    for index in np.ndindex(3, 4):
      alone = metrics.ConfusionMatrix.from_counts(counts[index][None]).compute()
      for name, values in several.items():
        np.testing.assert_equal(values[index], alone[name], name)


if __name__ == "__main__":
  absltest.main()
