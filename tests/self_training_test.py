"""UDAforRS and BUS as methods, at toy size."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from ml_collections import ConfigDict

from configs.baselines import bus, udaforrs
from minec2f_jax import devices, experiment, methods
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import checks, data, estimates
from minec2f_jax.methods import bus as bus_method
from minec2f_jax.methods import self_training
from minec2f_jax.models import factory
from minec2f_jax.training import state as state_lib
from minec2f_jax.training import step as step_lib
from minec2f_jax.training import trainer
from tests import toy

KEY = jax.random.key(0)
COARSE, FINE = toy.ArraySource(4), toy.ArraySource(4, seed=1)


def _config(module, overrides=None) -> ConfigDict:
  config = toy.shrink(module.get_config())
  config.update(overrides or {})
  return config


def _batch():
  images = lambda source: {"image": (source.image[:2] - 0.15) / 0.1, "valid": source.valid[:2]}
  return {"coarse": {**images(COARSE), "label": COARSE.label[:2]}, "fine": images(FINE)}


@functools.cache
def _stage(module):
  """(the stage, its compiled steps, what it starts from); the programs are those of configs_test, compiled once."""
  stage = _make_stage(_config(module), FINE)
  variables = trainer.start(stage, KEY, None)
  state = devices.everywhere(state_lib.init_state(variables, stage.optimizer), stage.mesh)
  return stage, trainer.compile_steps(stage, state, {}, _inputs(stage, 1)[0], KEY), variables


def _make_stage(config, fine):
  wired = experiment.wire(config)["fine"]
  return experiment.make_stage(config, "fine", wired, {"coarse": COARSE, "fine": fine}, COARSE)


def _inputs(stage, steps):
  """What is sent to the device for each of so many steps."""
  sent = itertools.islice(stage.feed.inputs(0), steps)
  return [devices.cut(jax.tree.map(lambda x: x[None], one), stage.mesh, axis=1) for one in sent]


@functools.cache
def _train(module, fine=FINE, *, steps=2):
  """The state after so many steps, and the metrics of the last one."""
  stage, run, variables = _stage(module)
  state = state_lib.init_state(jax.tree.map(jnp.copy, variables), stage.optimizer)
  state = devices.everywhere(state, stage.mesh)
  for inputs in _inputs(_make_stage(_config(module), fine), steps):
    state, metrics = run(state, inputs)
  return state, metrics


class WithoutMasks(toy.ArraySource):
  def __getitem__(self, index: int):
    return {"image": self.image[index], "valid": self.valid[index]}


class LabelsTest(parameterized.TestCase):
  @parameterized.parameters(udaforrs, bus)
  def test_whatever_the_fine_masks_hold_the_trained_weights_are_the_same_bit_for_bit(self, module):
    expected, _ = _train(module)
    rng = np.random.default_rng(0)
    for garbage in (rng.integers(0, 255, FINE.label.shape), np.ones_like(FINE.label), None):
      source = WithoutMasks(4, seed=1) if garbage is None else toy.ArraySource(4, seed=1)
      source.label = garbage
      state, _ = _train(module, source)
      jax.tree.map(np.testing.assert_array_equal, state, expected)
    other, _ = _train(module, toy.ArraySource(4, seed=2))  # The images do matter.
    same = jax.tree.map(lambda a, b: bool(np.all(a == b)), other.trainable, expected.trainable)
    self.assertFalse(all(jax.tree.leaves(same)))

  @parameterized.product(module=(udaforrs, bus), validation=("fine", "coarse"))
  def test_fine_labels_choose_the_best_weights_or_are_not_opened_before_the_test(self, module, validation):
    config = _config(module, {"fine": {"validation": validation}})
    config.data.coarse.path = config.data.fine.path = "data"
    opened = [("coarse", "train"), ("fine", "train"), (validation, "validation")]
    self.assertEqual(data.places(config), opened + [("fine", "test"), ("coarse", "test")])


class ConfigTest(parameterized.TestCase):
  @parameterized.parameters(
    (udaforrs, {"udaforrs": {"quality_window": 4}}, r"udaforrs\.quality_window=4: give an odd whole number"),
    (
      udaforrs,
      {"udaforrs": {"teacher_statistics": "none"}},
      r"teacher_statistics='none': choose one of \('batch', 'ema'",
    ),
    (udaforrs, {"udaforrs": {"ema": 1.0}}, r"udaforrs\.ema=1\.0: give a number from 0"),
    (udaforrs, {"fine": {"loss": {"boundary": 1.0}}}, r"fine\.loss\.boundary=1\.0: the method 'udaforrs' has no such"),
    (udaforrs, {"fine": {"streams": ("fine",)}}, r"streams=\('fine',\) and .*'udaforrs': .* give two"),
    (udaforrs, {"udaforrs": {"mix_weight": 0.0}, "fine": {"loss": {"bce": 0.0}}}, "leave nothing to learn"),
    (bus, {"bus": {"unknown_is": "mine"}}, r"bus\.unknown_is='mine': choose one of \('background', 'ignored'\)"),
    (bus, {"bus": {"attach_period": 0}}, r"bus\.attach_period=0: give a whole number from 1"),
    (bus, {"fine": {"sampling": "union"}}, r"fine\.sampling='union' .* give 'each'"),
  )
  def test_what_cannot_be_is_named_with_its_value(self, module, overrides, pattern):
    checks.check_fields(_config(module))
    with self.assertRaisesRegex(UserError, pattern):
      checks.check_fields(_config(module, overrides))

  def test_three_classes_cost_two_more_kernels_of_the_head(self):
    config = bus.get_config()
    init = methods.make_method(config, config.fine).init
    start = jax.eval_shape(init, KEY, jax.ShapeDtypeStruct((1, 256, 256, 6), np.float32), None)
    # FPN over DenseNet-121 with one logit has 9,835,201.
    self.assertEqual(factory.count_parameters({"params": start.trainable})["trainable"], 9_835_201 + 2 * (9 * 128 + 1))

  def test_what_a_run_takes_can_be_told_before(self):
    costs = estimates.stage_costs(_config(udaforrs), {("coarse", "train"): 6, ("fine", "train"): 4})
    self.assertEqual(costs["fine"].steps_per_epoch, 3)
    self.assertGreater(costs["fine"].step.flops, 0)

  def test_the_demo_has_smaller_holes_and_a_shorter_course(self):
    own, demo = (bus.get_config(arg).bus.to_dict() for arg in ("", "demo"))
    different = {name for name in own if own[name] != demo[name]}
    self.assertEqual(different, {"ema", "mask_block", "attach_period"})


class StepTest(parameterized.TestCase):
  @parameterized.parameters(
    (udaforrs, {"bce": 1.0, "mixed": 1.0}),
    (bus, {"bce": 1.0, "mixed": 1.0, "masked": 1.0, "contrast": 1.0}),
  )
  def test_the_loss_is_its_parts_and_the_teacher_follows(self, module, weights):
    (first, _), (second, metrics) = (_train(module, steps=1), _train(module))
    start = _stage(module)[2]
    np.testing.assert_allclose(metrics["loss"], sum(w * metrics[name] for name, w in weights.items()), rtol=1e-5)
    self.assertEqual((int(first.extra["step"]), int(second.extra["step"])), (1, 2))
    # At step 0 the teacher is the student; at step 1 it keeps half of itself: min(1 - 1 / 2, decay).
    jax.tree.map(np.testing.assert_array_equal, first.extra["teacher"]["params"], start.trainable)
    half = jax.tree.map(lambda a, b: (a + b) / 2, start.trainable, first.trainable)
    near = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(near, second.extra["teacher"]["params"], half)
    for leaf in jax.tree.leaves(second):
      self.assertTrue(np.all(np.isfinite(leaf)))

  @parameterized.parameters(udaforrs, bus)
  def test_every_parameter_moves_and_none_is_frozen(self, module):
    state, _ = _train(module)
    start = _stage(module)[2]
    self.assertEqual(start.frozen, {})
    still = [
      jax.tree_util.keystr(path)
      for path, same in jax.tree.leaves_with_path(
        jax.tree.map(lambda a, b: np.all(a == b), state.trainable, start.trainable)
      )
      if same
    ]
    self.assertEqual(still, [])
    logits = jax.eval_shape(_stage(module)[0].method.logits, state.trainable, {}, state.extra, COARSE.image)
    self.assertEqual(logits.shape, (4, 32, 32, 1))

  def test_rare_classes_come_to_weigh_more(self):
    state, metrics = _train(udaforrs)
    weights = state.extra["class_weights"]
    self.assertGreater(float(weights[1]), 1.0)  # Mines are less than half of the images.
    np.testing.assert_allclose(np.sum(weights), 2.0, rtol=1e-5)
    np.testing.assert_allclose(metrics["mine_weight"][0], weights[1])

  def test_encoder_and_decoder_may_start_from_an_earlier_stage_but_not_a_head_of_other_classes(self):
    config, prior = _config(bus, {"fine": {"init_from_prior": True}}), _stage(udaforrs)[2]
    started = jax.jit(methods.make_method(config, config.fine).init)(KEY, COARSE.image[:1], prior)
    for name in ("encoder", "decoder"):
      jax.tree.map(np.testing.assert_array_equal, started.trainable[name], prior.trainable[name])
    self.assertEqual(started.trainable["head"]["bias"].shape, (3,))
    jax.tree.map(np.testing.assert_array_equal, started.extra["teacher"]["params"], started.trainable)

  @parameterized.parameters(udaforrs, bus)
  def test_pretrained_encoders_fit(self, module):
    start = _stage(module)[2]
    encoder = {"params": start.trainable["encoder"], "batch_stats": start.extra["batch_stats"]["encoder"]}
    given = jax.eval_shape(
      methods.base.with_encoder(_stage(module)[0].method, encoder).init, KEY, COARSE.image[:1], None
    )
    self.assertEqual(jax.tree.structure(given), jax.tree.structure(start))


class TeacherTest(parameterized.TestCase):
  def test_averages_of_statistics_count_only_where_it_does_not_take_those_of_the_batch(self):
    model = factory.make_segmenter(_config(udaforrs).model)
    teacher, image = _stage(udaforrs)[2].extra["teacher"], _batch()["fine"]["image"]
    other = {**teacher, "batch_stats": jax.tree.map(lambda leaf: leaf + 0.5, teacher["batch_stats"])}
    for name, same in (("batch", True), ("ema", False)):
      answer = jax.jit(functools.partial(self_training.answer, model, statistics=name))
      self.assertEqual(np.array_equal(answer(teacher, image), answer(other, image)), same)

  def test_it_never_drops_out(self):
    model = factory.make_segmenter(_config(udaforrs, {"model": {"decoder": {"dropout": 0.5}}}).model)
    teacher = _stage(udaforrs)[2].extra["teacher"]
    # Flax would ask for a random key.
    jax.eval_shape(lambda image: self_training.answer(model, teacher, image, statistics="batch"), COARSE.image)


class BusTest(parameterized.TestCase):
  OWN = bus.get_config().bus
  SHAPE = (2, 8, 8)

  def _streams(self):
    rng = np.random.default_rng(0)
    label = np.zeros(self.SHAPE, np.int32)
    label[0, :4, :4] = 1
    stream = lambda value, label: {
      "image": np.full((*self.SHAPE, 2), value, np.float32),
      "label": label,
      "valid": np.ones(self.SHAPE, bool),
      "weight": np.full(self.SHAPE, value, np.float32),
    }
    return stream(1.0, label), stream(0.25, rng.integers(0, 3, self.SHAPE).astype(np.int32))

  def test_what_the_teacher_doubts_is_unknown_and_the_share_it_is_sure_of_weighs_all(self):
    probs = np.float32([[[0.98, 0.01, 0.01], [0.3, 0.5, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]]])[None]
    probs = probs.reshape(1, 2, 2, 3)
    target = {"valid": np.array([[[True, True], [True, False]]])}
    found, weight = bus_method.with_pseudo_label(target, np.log(probs), self.OWN)
    np.testing.assert_array_equal(found["label"], [[[0, 2], [1, 2]]])
    np.testing.assert_allclose(weight, 1 / 3, rtol=1e-6)

  @parameterized.parameters(False, True)
  def test_unknown_pixels_go_into_source_images_when_it_is_time(self, attaching):
    source, target = self._streams()
    found = bus_method.attach(source, target, attaching)
    unknown = attaching & (target["label"] == 2)
    np.testing.assert_array_equal(found["label"], np.where(unknown, 2, source["label"]))
    np.testing.assert_array_equal(found["weight"], np.where(unknown, 0.25, 1.0))
    np.testing.assert_array_equal(found["image"][..., 0], np.where(unknown, 0.25, 1.0))

  def test_mines_are_pasted_whole_or_at_half_their_size_beside_the_background(self):
    source, target = self._streams()
    own = {**self.OWN, "jitter": 0.0, "blur": 0.0}
    mix = jax.jit(lambda key: bus_method.mix(key, source, target, own))
    pasted = set()
    for key in jax.random.split(KEY, 8):
      found = mix(key)
      of_source = np.asarray(found["weight"][0]) == 1.0
      np.testing.assert_array_equal(found["image"][0, ..., 0], np.where(of_source, 1.0, 0.25))
      np.testing.assert_array_equal(found["label"][0][~of_source], target["label"][0][~of_source])
      mines = of_source & (np.asarray(found["label"][0]) == 1)
      background = of_source & (np.asarray(found["label"][0]) == 0)
      pasted.add((int(mines.sum()), bool(background.any())))
    self.assertEqual(pasted, {(16, False), (4, True)})

  def test_holes_hide_the_image_and_nothing_of_its_label(self):
    _, target = self._streams()
    own = {**self.OWN, "jitter": 0.0, "blur": 0.0, "mask_block": 2}
    found = jax.jit(lambda key: bus_method.pierce(key, target, own))(KEY)
    hidden = np.asarray(found["image"][..., 0]) == 0
    self.assertBetween(hidden.mean(), 0.4, 0.95)
    np.testing.assert_array_equal(found["label"], target["label"])
    np.testing.assert_array_equal(found["valid"], target["valid"])

  def test_regions_are_compared_at_the_resolution_of_the_features(self):
    label = np.zeros((1, 32, 40), np.int32)
    label[0, 8:20, 8:20] = 2  # 6 x 6 of the map's positions: an inside of 4 x 4, a rim of 8 x 8.
    mixed = {"label": label, "valid": np.ones(label.shape, bool)}
    features = np.tile(np.float32([1, 0]), (1, 16, 32, 1))  # Of the padded image.
    value = jax.jit(lambda features: bus_method.contrast(KEY, features, mixed, self.OWN))(features)
    np.testing.assert_allclose(value, np.log(1 + 64 - 36), rtol=1e-5)  # All cosines are 1.

  @parameterized.parameters(("background", [1.0, -1.0, -2.0]), ("ignored", [1.0, -1.0, 1.0]))
  def test_the_unknown_counts_as_background_or_not_at_all(self, unknown_is, expected):
    scores = np.float32([[1, 2, 0], [2, 1, 0], [1, 2, 4]])
    config = _config(bus, {"bus": {"unknown_is": unknown_is}})
    method = methods.make_method(config, config.fine)
    extra, trainable = (_stage(bus)[2].extra, _stage(bus)[2].trainable)
    # Without weights the head answers with its bias, the same everywhere.
    for bias, value in zip(scores, expected):
      head = {"kernel": 0 * trainable["head"]["kernel"], "bias": bias}
      logits = _logits(method, unknown_is)({**trainable, "head": head}, {}, extra, COARSE.image[:1])
      self.assertEqual(logits.shape, (1, 32, 32, 1))
      np.testing.assert_allclose(logits, value, rtol=1e-6)


_COMPILED = {}


def _logits(method, name):
  return _COMPILED.setdefault(name, jax.jit(method.logits))


@pytest.mark.slow
class OverfitTest(parameterized.TestCase):
  # With its weights of classes, UDAforRS prefers false mines to missed ones: here, all classes weigh the same.
  @parameterized.parameters((udaforrs, {"udaforrs": {"class_temperature": 5.0}}), (bus, {"bus": {"ema": 0.9}}))
  def test_four_labelled_images_are_learned_by_heart(self, module, overrides):
    config = _config(module, overrides)
    config.data.batch_size = 4
    config.data.augment.update(dict(hflip=0.0, vflip=0.0, rot90=0.0, shift_scale_rotate=0.0))
    config.model.encoder.update(dict(growth_rate=8, stem_features=16))
    config.model.decoder.update(dict(pyramid_features=16, segmentation_features=16))
    config.optimizer.update(dict(learning_rate=1e-2, warmup_epochs=0))
    stage = _make_stage(config, FINE)
    variables = jax.jit(stage.method.init)(KEY, COARSE.image[:1], None)
    state = state_lib.init_state(variables, stage.optimizer)
    run = step_lib.make_train_steps(stage.method.loss, stage.optimizer, stage.prepare, stage.feed.take)
    for step, batch in enumerate(itertools.islice(stage.feed.inputs(0), 150)):
      if step == 100:  # Mixed images keep it moving at the full rate.
        state = state._replace(lr_scale=0.1 * state.lr_scale)
      state, _ = run(state, {}, (), jax.tree.map(lambda x: x[None], batch), KEY)
    result = methods.Variables(state.trainable, {}, state.extra)
    predicted = experiment.wire(config)["fine"].predict(result, {"image": COARSE.image, "valid": COARSE.valid}) > 0
    iou = np.sum(predicted & (COARSE.label > 0)) / np.sum(predicted | (COARSE.label > 0))
    self.assertGreater(iou, 0.95)


if __name__ == "__main__":
  absltest.main()
