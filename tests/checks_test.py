"""What the check says of fields that contradict each other or the files at hand, and how it says it."""

import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized
from ml_collections import ConfigDict, FrozenConfigDict

from configs import coarse, fine_hybrid
from configs.baselines import lwf, lwm, prithvi, replay
from minec2f_jax import experiment
from minec2f_jax.errors import UserError
from minec2f_jax.experiment import checks

FINE_ALONE = {"stages": ("fine",)}


def _refusal(config) -> str:
  """What the check says; "" if it is content, or would be if the networks can be traced."""
  with mock.patch.object(checks, "_trace_networks"):
    try:
      experiment.check_config(config)
    except UserError as error:
      return str(error)
  return ""


def _config(overrides=None, base=fine_hybrid) -> ConfigDict:
  config = base.get_config()
  config.update(overrides or {})
  return config


class ContradictionTest(parameterized.TestCase):
  @parameterized.parameters(
    (fine_hybrid, FINE_ALONE, r"config\.fine\.method='attentive_distillation' needs a teacher.*stages=\('fine',\)"),
    (fine_hybrid, {**FINE_ALONE, "fine": {"method": "supervised", "init_from_prior": True}}, "from_prior=True needs"),
    (fine_hybrid, {"coarse": {"method": "attentive_distillation"}}, r"config\.coarse\.method=.*take 'supervised'"),
    (fine_hybrid, {"coarse": {"init_from_prior": True}}, r"config\.coarse\.init_from_prior=True.*give False"),
    (fine_hybrid, {"coarse": {"streams": ("coarse", "fine")}}, r"coarse\.streams=.*'supervised': .* one of .*'replay'"),
    (fine_hybrid, {"stages": ("coarse", "medium")}, r"stages=\('coarse', 'medium'\): there is no section medium"),
    (fine_hybrid, {"stages": ("coarse", "data")}, r"config\.stages=\('coarse', 'data'\): give a tuple of sections"),
    (fine_hybrid, {"fine": {"method": "lwf"}}, r"config\.lwf is missing: give a section with weight, temperature"),
    (lwf, FINE_ALONE, r"config\.fine\.method='lwf' needs a teacher"),
    (lwf, {"lwf": {"weight": 0.0}, "fine": {"loss": {"bce": 0.0}}}, r"lwf\.weight=0\.0 leave nothing to learn"),
    (lwm, {"lwm": {"layer": "middle"}}, r"config\.lwm\.layer='middle': choose one of \('decoder', 'encoder'\)"),
    (replay, FINE_ALONE, r"selection\.judge='selector' is no stage before 'fine' in config\.stages=\('fine',\)"),
    (replay, {"fine": {"selection": {"judge": "fine"}}}, r"judge='fine' is no stage before .*\('selector',\)"),
    (replay, {"fine": {"streams": ("fine",)}}, r"stream='coarse' and config\.fine\.streams=\('fine',\): choose"),
    (replay, {"selector": {"epochs": 0}}, r"config\.selector\.epochs=0: give a whole number"),
    (replay, {"selector": {"init_from_prior": True}}, r"config\.selector\.init_from_prior=True needs an earlier stage"),
    (fine_hybrid, {"optimizer": {"warmup_epochs": 101}}, r"warmup_epochs=101 and config\.coarse\.epochs=100"),
    (fine_hybrid, {"coarse": {"loss": {"bce": 0.0}}}, r"config\.coarse\.loss\.bce=0\.0 and .* leave nothing to learn"),
    (fine_hybrid, {"distillation": {"weight": 0.0}}, r"weight=0\.0 and .*selection='hybrid' contradict"),
    (fine_hybrid, {"data": {"image_size": 10}}, r"image_size=10: 10x10 pixels .* 11x11 window of config\.fine"),
    (fine_hybrid, {"pretrained_sha256": "ab"}, r"config\.pretrained_sha256='ab' without config\.pretrained"),
    (fine_hybrid, {"pretrained": "a.h5", "pretrained_adapter": "conv1x1"}, r"'conv1x1'.*input_adapter=False"),
    (fine_hybrid, {"data": {"fine": {"coarsen_gsd_m": 10.0}}}, r"config\.data\.fine\.coarsen_gsd_m=10\.0: give 0\.0"),
    (prithvi, {"fine": {"method": "attentive_distillation"}}, "architecture is 'prithvi', and MineC2FNet"),
    (prithvi, {"model": {"encoder": {"width": 784}}}, r"config\.model\.encoder\.width=784 .*heads=12"),
    (prithvi, {"model": {"encoder": {"width": 24}}}, r"config\.model\.encoder\.width=24: give a multiple of 16"),
  )  # fmt: skip
  def test_what_contradicts_itself_is_named_with_all_fields_and_values(self, base, overrides, pattern):
    self.assertEqual(_refusal(_config(base=base)), "")
    self.assertRegex(_refusal(_config(overrides, base)), pattern)

  @parameterized.parameters(
    ({"distillation": {"weight": 0.0, "selection": "none"}},),
    ({"stages": ("coarse",), "distillation": {"weight": 0.0}},),
    ({"stages": ("coarse",), "data": {"image_size": 10}},),
    ({"fine": {"loss": dict.fromkeys(("bce", "dice", "ssim", "boundary"), 0.0)}},),  # It learns from the teacher alone.
    ({"data": {"image_size": 10}, "fine": {"loss": {"ssim_kind": "ssl"}}},),
    ({"pretrained": "a.h5", "pretrained_adapter": "conv1x1", "model": {"encoder": {"input_adapter": True}}},),
  )
  def test_what_only_looks_like_a_contradiction_passes(self, overrides):
    self.assertEqual(_refusal(_config(overrides)), "")

  def test_a_band_without_statistics_is_named_for_both(self):
    config = _config()
    del config.data.mean["swir1"]
    del config.data.std["red"]
    self.assertRegex(
      _refusal(config), r"2 faults: config\.data\.mean\.swir1 is missing.* config\.data\.std\.red is missing"
    )
    config.data.bands = ("green", "nir")
    self.assertEqual(_refusal(config), "")

  def test_lists_as_json_has_them_pass_for_tuples(self):
    plain = _config().to_dict()
    plain["stages"], plain["data"]["bands"] = ["coarse", "fine"], list(plain["data"]["bands"])
    plain["model"]["encoder"]["block_sizes"] = [6, 12, 24, 16]
    plain["model"]["fusion"]["levels"] = []
    self.assertEqual(_refusal(ConfigDict(plain)), "")

  def test_whole_numbers_pass_where_numbers_are_wanted_but_true_does_not(self):
    plain = _config().to_dict()
    plain["optimizer"]["clip_norm"] = 1
    self.assertEqual(_refusal(ConfigDict(plain)), "")
    plain["optimizer"]["clip_norm"] = True
    self.assertRegex(_refusal(ConfigDict(plain)), "clip_norm=True")

  def test_numbers_of_digital_images_are_no_statistics_of_reflectance(self):
    refusal = _refusal(_config({"data": {"mean": {"red": 942.0}, "std": {"red": 0.0}}}))
    self.assertRegex(refusal, r"mean\.red=942\.0: give a reflectance from .*std\.red=0\.0: give a reflectance")


class FilesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def test_a_data_folder_that_is_none_is_refused(self):
    config = _config({"data": {"coarse": {"path": str(self.root)}, "fine": {"path": str(self.root / "nowhere")}}})
    refusal = _refusal(config)
    self.assertRegex(refusal, r"config\.data\.coarse\.path=.*holds neither index\.csv nor dataset_info\.json")
    self.assertRegex(refusal, r"config\.data\.fine\.path=.*nowhere': there is no such folder")
    (self.root / "index.csv").touch()
    config.data.fine.path = None
    self.assertEqual(_refusal(config), "")

  def test_a_home_folder_is_found(self):
    (self.root / "index.csv").touch()
    with mock.patch.dict("os.environ", {"HOME": str(self.root.parent)}):
      self.assertEqual(_refusal(_config({"data": {"fine": {"path": f"~/{self.root.name}"}}})), "")

  def test_options_that_a_prepared_set_does_not_heed_are_refused(self):
    (self.root / "dataset_info.json").touch()
    spec = {"path": str(self.root), "coarsen_gsd_m": 10.0, "skip": ("a",)}
    refusal = _refusal(_config({"data": {"coarse": spec}}))
    self.assertRegex(refusal, r"coarse\.coarsen_gsd_m=10\.0 does nothing.*coarse\.skip=\('a',\) does nothing")
    (self.root / "dataset_info.json").rename(self.root / "index.csv")
    self.assertEqual(_refusal(_config({"data": {"coarse": spec}})), "")

  @parameterized.parameters("..os", "os", "mining_demos", "mining_fine", "chips", "mining_demo.paint")
  def test_a_builder_that_cannot_make_itself_is_refused_with_those_that_can(self, name):
    refusal = _refusal(_config({"data": {"fine": {"builder": name}}}))
    self.assertRegex(refusal, rf"config\.data\.fine\.builder='{name}': choose one of \('mining_demo',\)")

  def test_a_teacher_that_is_not_there_is_refused(self):
    refusal = _refusal(_config({"teacher": str(self.root / "nowhere")}))
    self.assertRegex(refusal, r"config\.teacher=.*holds no checkpoint of the stage 'coarse'.*give the workdir")
    self.assertEqual(_refusal(_config({"teacher": str(self.root)})), "")

  def test_a_teacher_that_leaves_nothing_to_train_is_refused(self):
    refusal = _refusal(_config({"teacher": str(self.root)}, coarse))
    self.assertRegex(refusal, r"config\.teacher=.* and config\.stages=\('coarse',\) leave nothing to train")

  def test_what_a_teacher_replaces_needs_no_epochs_for_the_warm_up(self):
    overrides = {"optimizer": {"warmup_epochs": 50}, "coarse": {"epochs": 10}}
    self.assertRegex(_refusal(_config(overrides)), r"coarse\.epochs=10")
    self.assertEqual(_refusal(_config({**overrides, "teacher": str(self.root)})), "")


class MessageTest(parameterized.TestCase):
  def test_all_faults_stand_in_one_error_of_one_line(self):
    config = _config({"seed": -1, "data": {"batch_size": 0}, "monitor": "loss", "distillation": {"temperature": 0.0}})
    config.foo = 3
    config.optimizer.warmup_epochs = 1000
    refusal = _refusal(config)
    self.assertStartsWith(refusal, "the config has 7 faults: ")
    for part in ("seed=-1", "data.batch_size=0", "monitor='loss'", "distillation.temperature=0.0", "foo=3"):
      self.assertIn(f"config.{part}: ", refusal)
    for name in ("coarse", "fine"):  # Neither trains for so long.
      self.assertIn(f"config.optimizer.warmup_epochs=1000 and config.{name}.epochs=100 ", refusal)
    self.assertNotIn("\n", refusal)

  def test_many_faults_are_counted_and_ten_told(self):
    refusal = _refusal(ConfigDict({"title": "a table"}))
    self.assertRegex(refusal, r"^the config has 15 faults: config\.seed is missing: .* \.\.\. and 5 more\.$")

  def test_an_unknown_field_gets_the_nearest_name(self):
    plain = _config().to_dict()
    plain["data"]["batchsize"] = plain["data"].pop("batch_size")
    refusal = _refusal(ConfigDict(plain))
    self.assertRegex(refusal, r"config\.data\.batch_size is missing: give a whole number")
    self.assertRegex(
      refusal, r"config\.data\.batchsize=8: there is no such field; did you mean config\.data\.batch_size\?"
    )

  def test_fields_of_another_architecture_say_of_which(self):
    refusal = _refusal(_with_tap())
    self.assertRegex(refusal, r"config\.model\.encoder\.tap='conv': .*in the architecture 'prithvi'")

  def test_an_unknown_architecture_is_the_one_thing_said_about_the_model(self):
    plain = _config().to_dict()
    plain["model"]["architecture"] = "unet"
    self.assertRegex(_refusal(ConfigDict(plain)), r"^config\.model\.architecture='unet': choose one of [^:]*$")

  def test_a_long_value_is_cut(self):
    self.assertLess(len(_refusal(_config({"data": {"bands": ("red",) * 1000}}))), 300)
    self.assertIn("too long", _refusal(_config({"seed": 10**5000})))

  def test_what_is_no_config_is_refused(self):
    for config, name in ((None, "NoneType"), ({"seed": 0}, "dict"), (FrozenConfigDict(_config()), "FrozenConfigDict")):
      self.assertEqual(_refusal(config), f"the config is a {name}: let get_config() return a ConfigDict.")

  def test_the_networks_are_traced_only_when_nothing_else_is_wrong(self):
    with mock.patch.object(checks, "_trace_networks") as trace:
      with self.assertRaises(UserError):
        experiment.check_config(_config({"data": {"batch_size": 0}}))
      trace.assert_not_called()
      experiment.check_config(_config())
      trace.assert_called_once()

  def test_a_check_of_the_fields_alone_traces_nothing_and_says_the_same(self):
    with mock.patch.object(checks, "_trace_networks") as trace:
      checks.check_fields(_config())
      with self.assertRaisesRegex(UserError, r"^config\.data\.batch_size=0: "):
        checks.check_fields(_config({"data": {"batch_size": 0}}))
      trace.assert_not_called()

  def test_what_only_the_trace_finds_is_told_without_a_traceback(self):
    with mock.patch.object(checks, "_trace_networks", side_effect=ValueError("no room")):
      with self.assertRaisesRegex(UserError, "the config cannot be built: no room"):
        experiment.check_config(_config())


def _with_tap() -> ConfigDict:
  plain = prithvi.get_config().to_dict()
  plain["model"]["encoder"]["tap"] = "conv"
  return ConfigDict(plain)


if __name__ == "__main__":
  absltest.main()
