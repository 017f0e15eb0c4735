"""Streams whose labels are kept from a method: what a batch holds, and what the check says."""

import itertools
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

from configs import fine_hybrid
from minec2f_jax import experiment
from minec2f_jax.data import augment, pipeline, resident
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import checks, stages
from minec2f_jax.methods import METHODS
from tests import toy

KIND = METHODS["supervised"]._replace(several_streams=True, unlabelled=True, parts=("bce",))


class WithoutMasks(toy.ArraySource):
  """A source that has no labels to read."""

  def __getitem__(self, index: int):
    return {"image": self.image[index], "valid": self.valid[index]}


def _config(**fine):
  config = toy.shrink(fine_hybrid.get_config())
  config.stages = ("fine",)
  config.fine.update({"method": "supervised", "streams": ("coarse", "fine"), "loss": {"dice": 0.0, "ssim": 0.0}})
  config.fine.loss.boundary = 0.0
  config.fine.update(fine)
  return config


def _batches(source, *, method=KIND, count=3, **fine):
  """The first batches of a stage whose second stream is `source`, after augmentation."""
  config = _config(**fine)
  held = resident.hold(toy.ArraySource(4)) if isinstance(source, resident.ResidentSource) else toy.ArraySource(4)
  with mock.patch.dict(METHODS, supervised=method):
    stage = experiment.make_stage(
      config, "fine", experiment.wire(config)["fine"], {"coarse": held, "fine": source}, held
    )
  prepare = jax.jit(lambda key, batch: {name: stage.prepare(key, stream) for name, stream in batch.items()})
  taken = [stage.feed.take(stage.feed.held, one) for one in itertools.islice(stage.feed.inputs(0), count)]
  return stage.feed, [prepare(jax.random.key(0), batch) for batch in taken]


class BatchTest(parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_streams_behind_the_first_come_without_labels_and_are_else_the_same(self, held):
    source = toy.ArraySource(6, seed=1)
    source = resident.hold(source) if held else source
    feed, bare = _batches(source)
    _, full = _batches(source, method=KIND._replace(unlabelled=False))
    self.assertEqual(feed.resident, held)
    for one, other in zip(bare, full, strict=True):
      self.assertEqual({name: set(stream) for name, stream in one.items()}, {
        "coarse": {"image", "label", "valid"}, "fine": {"image", "valid"}})  # fmt: skip
      jax.tree.map(np.testing.assert_array_equal, one["coarse"], other["coarse"])
      for name in ("image", "valid"):
        np.testing.assert_array_equal(one["fine"][name], other["fine"][name])
    if held:  # The labels are no argument of the compiled step either.
      self.assertEqual(set(feed.held["fine"]), {"image", "table", "valid"})

  def test_masks_that_are_not_there_are_not_missed(self):
    _, batches = _batches(WithoutMasks(6, seed=1))
    _, same = _batches(toy.ArraySource(6, seed=1))
    jax.tree.map(np.testing.assert_array_equal, batches, same)

  def test_the_first_stream_is_the_one_with_labels(self):
    _, (batch, *_) = _batches(toy.ArraySource(6), streams=("fine", "coarse"))
    self.assertEqual({name for name, stream in batch.items() if "label" in stream}, {"fine"})

  def test_a_part_of_joined_sets_on_the_device_loses_its_labels_alone(self):
    sources = {name: resident.hold(toy.ArraySource(3, seed=seed)) for seed, name in enumerate(("coarse", "fine"))}
    union = resident.join({"coarse": resident.subset(sources["coarse"], [2, 0]), "fine": sources["fine"]})
    bare = resident.without_labels(union)
    self.assertEqual(bare.ids, union.ids)
    batch, full = (resident.take(one.arrays, np.array([4, 0, 1])) for one in (bare, union))
    self.assertEqual(set(batch), {"image", "valid"})
    np.testing.assert_array_equal(batch["image"], full["image"])

  def test_a_source_without_labels_keeps_ids_and_details(self):
    source = toy.ArraySource(2)
    source.details = lambda index: {"mine": f"mine {index}"}
    bare = pipeline.Unlabelled(source)
    self.assertEqual((len(bare), bare.ids, bare.details(1)), (2, source.ids, {"mine": "mine 1"}))
    self.assertEqual(set(bare[0]), {"image", "valid"})

  def test_images_are_augmented_alike_with_and_without_a_label(self):
    batch = {name: getattr(toy.ArraySource(2, size=8), name) for name in ("image", "label", "valid")}
    moved = jax.jit(augment.augment)
    full, bare = moved(jax.random.key(3), batch), moved(jax.random.key(3), {n: batch[n] for n in ("image", "valid")})
    self.assertEqual(set(bare), {"image", "valid"})
    np.testing.assert_array_equal(bare["image"], full["image"])


class CheckTest(parameterized.TestCase):
  def _refusal(self, **fine) -> str:
    config = _config(method="replay", **fine)  # Another than that of Task 1.
    with mock.patch.dict(METHODS, replay=KIND), mock.patch.object(checks, "_trace_networks"):
      try:
        experiment.check_config(config)
      except UserError as error:
        return str(error)
    return ""

  @parameterized.parameters(
    ({"streams": ("fine",)}, r"fine\.streams=\('fine',\) and config\.fine\.method='replay': .* give two"),
    ({"sampling": "union"}, r"fine\.sampling='union' .* has no labels, .* give 'each'"),
    ({"loss": {"dice": 0.5, "ssim": 1.0}}, r"fine\.loss\.dice=0\.5 and config\.fine\.loss\.ssim=1\.0: .* give 0\.0"),
  )
  def test_what_would_need_the_labels_is_refused(self, fine, pattern):
    self.assertEqual(self._refusal(), "")
    self.assertRegex(self._refusal(**fine), pattern)

  @parameterized.parameters(("fine", True), ("coarse", False))
  def test_images_are_not_chosen_by_labels_that_must_not_be_seen(self, stream, refused):
    rule = {"judge": "coarse", "stream": stream, "score": "iou", "least": 0.5, "most": 0}
    config = _config(selection=rule)
    with mock.patch.dict(METHODS, supervised=KIND):
      sentences = list(checks._labels_of_one_stream(config, "fine"))
    self.assertLen(sentences, int(refused))
    if refused:
      self.assertRegex(sentences[0], r"selection\.stream='fine'.*must not see; choose 'coarse'")

  def test_the_check_traces_a_method_with_what_it_will_see(self):
    with mock.patch.dict(METHODS, supervised=KIND):
      batch = stages.batch_like(_config().fine, {"image": 0, "label": 1, "valid": 2})
    self.assertEqual(batch, {"coarse": {"image": 0, "label": 1, "valid": 2}, "fine": {"image": 0, "valid": 2}})


if __name__ == "__main__":
  absltest.main()
