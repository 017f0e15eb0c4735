"""Operations against closed forms and torch's counter, timing with a clock of our own, and tables read back.

The networks of full size are traced, never run.
"""

import contextlib
import csv
import io
import json
import pathlib
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax import lax

from configs import coarse, fine_hybrid
from configs.suites import table4
from minec2f_jax import experiment, files
from minec2f_jax.errors import UserError
from minec2f_jax.evaluation import efficiency as tables
from minec2f_jax.experiment import efficiency
from minec2f_jax.methods import Variables
from minec2f_jax.models import factory
from tests import toy

try:
  import torch
  from torch.utils import flop_counter

  from tests.oracles import torch_models
except ImportError:
  torch = None


def small_config():
  """The paper's networks at toy size; the deepest level alone is injected."""
  config = toy.shrink(fine_hybrid.get_config())
  config.model.fusion.levels = ("c5",)
  return config


def networks_of(config) -> dict[str, efficiency.Network]:
  """The networks of all stages, with shapes as variables."""
  found, prior = {}, None
  for stage, wired in experiment.wire(config).items():
    prior = jax.eval_shape(wired.method.init, jax.random.key(0), experiment.stages.example(config), prior)
    found[stage] = efficiency.Network(stage, stage, config[stage].method, wired.method.logits, prior)
  return found


def count_all(config) -> list[dict]:
  """`efficiency.count` of the networks of all stages, without XLA's count, which takes as long as all else."""
  with mock.patch.object(efficiency, "_xla_flops", return_value=None):
    return [efficiency.count(network, experiment.stages.example(config)) for network in networks_of(config).values()]


def torch_flops(module, *arguments) -> int:
  """By torch's own counter, of tensors that have shapes alone."""
  with flop_counter.FlopCounterMode(display=False) as counter:
    module(*arguments)
  return counter.get_total_flops()


class CountTest(parameterized.TestCase):
  def test_a_small_network_has_the_operations_and_numbers_of_its_layers(self):
    def logits(trainable, frozen, extra, image):
      x = lax.conv_general_dilated(
        image, trainable["stem"], (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
      )
      teacher = image @ frozen["encoder"]
      dead = teacher @ frozen["head"]  # As a teacher's logits, which inference does not need.
      del dead
      return (x + teacher[:, ::2, ::2]) @ trainable["head"] + extra["mean"]

    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, np.float32)
    trainable, frozen = {"stem": shape(3, 3, 6, 5), "head": shape(5, 1)}, {"encoder": shape(6, 5), "head": shape(5, 7)}
    network = efficiency.Network("fine", "", "", logits, Variables(trainable, frozen, {"mean": shape(1)}))
    found = efficiency.count(network, shape(1, 16, 16, 6))
    self.assertEqual(found["macs"], 8 * 8 * 9 * 6 * 5 + 16 * 16 * 6 * 5 + 8 * 8 * 5)
    numbers = dict(trainable=275, own=276, with_teacher=276 + 30 + 35, read=276 + 30)
    self.assertEqual(found["numbers"], numbers)
    # XLA counts additions of bias and teacher too, and no products with the padding of the stem.
    padding = 2 * (8 * 3 + 8 * 3 - 1) * 6 * 5
    self.assertEqual(found["xla_flops"], 2 * found["macs"] - padding + 8 * 8 * 5 + 8 * 8)

  def test_numbers_of_a_config_are_those_of_its_networks_and_a_student_reads_its_teachers_encoder(self):
    config = small_config()
    teacher, student = (found["numbers"] for found in count_all(config))
    tree = networks_of(config)["fine"].variables
    known = factory.count_parameters({"params": tree.trainable, **tree.extra})
    self.assertEqual((student["trainable"], student["own"]), (known["trainable"], known["total"]))
    self.assertEqual(student["with_teacher"], student["own"] + teacher["own"])
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    encoder = sum(size(tree.frozen[part]["encoder"]) for part in ("params", "batch_stats"))
    self.assertEqual(student["read"], student["own"] + encoder)
    self.assertEqual((teacher["with_teacher"], teacher["read"]), (teacher["own"], teacher["own"]))

  def test_without_injection_nothing_of_the_teacher_is_read(self):
    config = small_config()
    config.model.fusion.levels = ()
    teacher, student = count_all(config)
    self.assertEqual(student["macs"], teacher["macs"])
    self.assertEqual(student["numbers"]["read"], student["numbers"]["own"])


class FullSizeTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.teacher, cls.student = count_all(fine_hybrid.get_config())

  def test_a_teacher_has_the_operations_of_its_layers_as_they_are_computed(self):
    sides, widths = [128, 64, 32, 16, 8], [64, 128, 256, 512, 1024]
    encoder, channels = 49 * 6 * 64 * 128**2, 64
    for block, (layers, side) in enumerate(zip((6, 12, 24, 16), sides[1:])):
      for _ in range(layers):
        encoder += (channels * 128 + 9 * 128 * 32) * side**2
        channels += 32
      if block < 3:
        encoder += channels * channels // 2 * side**2
        channels //= 2
    laterals = 1024 * 256 * 8**2 + sum(widths[n] * 256 * sides[n] ** 2 for n in (1, 2, 3))
    segments = sum(9 * (256 + 128) * 128 * sides[n] ** 2 for n in (1, 2, 3))
    # Four kinds of pixel with 2 x 2 taps at 64 x 64; then 64 channels through kernels of lateral times convolution.
    finest = 16 * 256 * 128 * 64**2 + 9 * 64 * 128 * 128**2 + 9 * 128 * 128 * 128**2
    final = 128 * 128 * (9 * 128**2 + 16 * 64**2 + 25 * 32**2 + 25 * 16**2)
    taps = 9 * 128 * 128**2
    resize = 9 * 256 * 128 * (128 + 256)  # Rows, then columns, each as a matrix product.
    by_hand = encoder + laterals + segments + finest + final + taps + resize
    self.assertEqual(round(2 * encoder / 1e9, 1), 7.7)  # docs/performance.md
    self.assertEqual(round(2 * (by_hand - encoder) / 1e9, 1), 25.1)
    self.assertBetween(self.teacher["macs"] / by_hand, 1.0, 1.005)  # And kernels out of kernels.

  @absltest.skipIf(torch is None, "needs torch")
  def test_injection_and_encoders_have_the_operations_that_torch_counts(self):
    with torch.device("meta"):
      image = torch.zeros(1, 6, 256, 256)
      encoder = torch_models.DenseNet()
      plain, student = torch_models.Segmenter().eval(), torch_models.Segmenter(levels=torch_models.LEVELS).eval()
      encoded, without = torch_flops(encoder.eval(), image), torch_flops(plain, image)
      injected = torch_flops(student, image, encoder(image)) - without
    self.assertEqual(2 * (self.student["macs"] - self.teacher["macs"]), encoded + injected)
    self.assertEqual(round(injected / 1e9, 1), 13.4)  # docs/performance.md
    self.assertEqual(round((without - encoded) / 1e9, 1), 39.8)


class TakeTurnsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.calls, self.now = [], 0.0
    self.enterContext(mock.patch.object(efficiency.time, "perf_counter", lambda: self.now))
    self.enterContext(mock.patch.object(efficiency.console, "track", lambda items, **_: items))

  def _call(self, name: str, *seconds: float):
    def call():
      self.calls.append(name)
      self.now += seconds[min(self.calls.count(name), len(seconds)) - 1]
      return jnp.zeros(())

    return call

  def test_networks_alternate_and_first_calls_do_not_count(self):
    with mock.patch.multiple(efficiency, ROUNDS=(4, 4)):
      found = efficiency.take_turns([self._call("a", 9.0, 1.0), self._call("b", 9.0, 2.0)], title="")
    self.assertEqual("".join(self.calls), "aaabbb" + "ab" + "ba" + "ab" + "ba")
    np.testing.assert_allclose(found, [[1.0] * 4, [2.0] * 4])

  def test_rounds_fill_the_time_within_limits(self):
    for seconds, rounds in ((100.0, 11), (1.0, 30), (1e-6, 201)):
      calls = [self._call("a", seconds), self._call("b", seconds)]
      self.assertEqual([len(found) for found in efficiency.take_turns(calls, title="")], [rounds] * 2)


SECONDS = {(stage, batch): np.random.default_rng(batch).uniform(1, 2, 12) * (1 + (stage == "fine")) for stage in
           ("coarse", "fine") for batch in (1, 8)}  # fmt: skip


def make_content() -> dict:
  """efficiency.json of a made-up machine."""
  numbers = dict(trainable=7_000_000, own=7_100_000, with_teacher=14_200_000, read=12_000_000)
  networks = [("coarse", "FPN", "supervised"), ("fine", "MineC2FNet", "attentive_distillation")]
  return {
    "version": 1,
    "image_size": 256,
    "bands": ["red", "green"],
    "model": {},
    "environment": {
      **dict(platform="gpu", device="Abacus & Sons", devices=2, dtype="float32", python="3.11"),
      "packages": dict(jax="1", jaxlib="2", flax="3"),
    },
    "warm_up": 3,
    "networks": [
      dict(stage=stage, name=name, method=method, numbers=numbers, macs=16_500_000_000, xla_flops=3.3e10)
      for stage, name, method in networks
    ],
    "timings": [
      dict(stage=stage, batch=batch, seconds=SECONDS[stage, batch].tolist(), memory_bytes=5_000_000)
      for batch in (1, 8)
      for stage in ("coarse", "fine")
    ],
    "device_peak_bytes": 77_000_000,
  }


class TablesTest(parameterized.TestCase):
  def test_times_are_medians_and_quartiles_and_ratios_are_paired_within_rounds(self):
    head, *body = tables.time_cells(make_content())
    self.assertEqual(
      [line[:2] for line in body[:4]], [["FPN", "1"], ["MineC2FNet", "1"], ["FPN", "8"], ["MineC2FNet", "8"]]
    )
    line = dict(zip(head, body[3]))
    low, median, high = np.percentile(SECONDS["fine", 8], [25, 50, 75])
    self.assertEqual(
      (line["Median, ms"], line["Quartiles, ms"]), (f"{1e3 * median:.1f}", f"{1e3 * low:.1f}–{1e3 * high:.1f}")
    )
    self.assertEqual((line["Rounds"], line["Images/s"], line["Memory, MB"]), ("12", f"{8 / median:.2f}", "5"))
    low, median, high = np.percentile(SECONDS["fine", 8] / SECONDS["coarse", 8], [25, 50, 75])
    self.assertEqual(line["Time over FPN's"], f"{median:.2f} [{low:.2f}, {high:.2f}]")
    self.assertEqual(dict(zip(head, body[2]))["Time over FPN's"], "1.00 [1.00, 1.00]")

  def test_the_papers_numbers_stand_in_lines_of_their_own(self):
    *_, fpn, ours = tables.time_cells(make_content())
    self.assertEqual(fpn, ["FPN, printed", "–", "–", "74.8", "–", "13.38", "1.00", "–"])
    self.assertEqual(ours, ["MineC2FNet, printed", "–", "–", "90.9", "–", "11.00", "1.22", "–"])

  def test_sizes_are_in_millions_and_what_is_not_told_is_a_dash(self):
    content = make_content()
    content["networks"][0]["xla_flops"] = content["timings"][0]["memory_bytes"] = None
    content["device_peak_bytes"] = None
    _, first, second = tables.size_cells(content)
    self.assertEqual(first, ["FPN", "coarse", "7.00", "7.10", "14.20", "12.00", "16.500", "–"])
    self.assertEqual(second[-1], "33.00")
    self.assertEqual(tables.time_cells(content)[1][-1], "–")
    self.assertNotIn("Peak", " ".join(tables.notes(content)))

  def test_notes_name_device_versions_type_and_peak(self):
    notes = " ".join(tables.notes(make_content()))
    for text in ("Abacus & Sons, one of 2. float32; jax 1, jaxlib 2, flax 3; Python 3.11", "3 first calls", "77 MB"):
      self.assertIn(text, notes)

  def test_a_processor_is_named_with_its_cores(self):
    content = make_content()
    content["environment"] |= dict(platform="cpu", device="cpu", processor="Bead 9", cores=2, devices=1)
    self.assertIn("Device: Bead 9, 2 cores. float32", tables.notes(content)[0])

  def test_a_csv_reader_finds_every_number(self):
    lines = list(csv.DictReader(io.StringIO(tables.texts(make_content())["efficiency.csv"])))
    self.assertLen(lines, 4)
    for line in lines:
      found = [float(line[f"seconds_{name}"]) for name in ("q1", "median", "q3")]
      np.testing.assert_allclose(found, np.percentile(SECONDS[line["stage"], int(line["batch"])], [25, 50, 75]))
      self.assertEqual((line["macs"], line["read_numbers"], line["dtype"]), ("16500000000", "12000000", "float32"))
    self.assertEqual((lines[1]["printed_seconds"], lines[1]["printed_images_per_s"]), ("0.0909", "11.0"))

  @parameterized.parameters((r" \\", "&", [7] * 3 + [7] * 7), ("|", "|", [9] * 4 + [9] * 8))
  def test_all_lines_of_a_table_have_as_many_cells(self, end, between, expected):
    name = "efficiency.tex" if between == "&" else "efficiency.md"
    lines = [line for line in tables.texts(make_content())[name].splitlines() if line.endswith(end)]
    self.assertEqual([line.count(between) - line.count(r"\&") for line in lines], expected)

  @parameterized.parameters(
    ("fpn_densenet", "supervised", "FPN"), ("fpn_densenet", "attentive_distillation", "MineC2FNet"),
    ("prithvi", "supervised", "Prithvi"), ("another", "supervised", "another"),
  )  # fmt: skip
  def test_a_network_is_called(self, architecture, method, name):
    self.assertEqual(tables.network_name(architecture, method), name)


class RunTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.enterClassContext(mock.patch.multiple(efficiency, BUDGET_S=0.0, ROUNDS=(2, 3), WARM_UP=1, BATCHES=(1, 2)))
    with contextlib.redirect_stdout(io.StringIO()) as said:
      efficiency.run_efficiency(small_config(), cls.root / "run")
    cls.said, cls.found = said.getvalue(), json.loads((cls.root / "run" / "efficiency.json").read_text())

  def test_all_networks_are_timed_at_all_batch_sizes(self):
    timings = [(entry["stage"], entry["batch"], len(entry["seconds"])) for entry in self.found["timings"]]
    self.assertEqual(timings, [("coarse", 1, 2), ("fine", 1, 2), ("coarse", 2, 2), ("fine", 2, 2)])
    self.assertTrue(all(seconds > 0 for entry in self.found["timings"] for seconds in entry["seconds"]))
    self.assertEqual([network["name"] for network in self.found["networks"]], ["FPN", "MineC2FNet"])
    for entry in self.found["timings"]:
      network = next(network for network in self.found["networks"] if network["stage"] == entry["stage"])
      self.assertGreater(entry["memory_bytes"], 4 * network["numbers"]["read"])
      # XLA's count has what is not in matrix products too, in so small networks half of all.
      self.assertBetween(network["xla_flops"] / (2 * network["macs"]), 0.8, 3.0)

  def test_files_hold_the_tables_of_the_numbers_and_no_date(self):
    for name, text in tables.texts(self.found).items():
      self.assertEqual((self.root / "run" / name).read_text(), text)
    self.assertIn("**Table 12", self.said)
    self.assertNotIn("date", json.dumps(self.found).replace("update", ""))
    self.assertEqual(self.found["environment"]["dtype"], "float32")

  def test_a_workdir_in_which_a_run_is_at_work_is_refused(self):
    with files.locked(self.root / "run"), self.assertRaisesRegex(UserError, "is at work there"):
      efficiency.run_efficiency(toy.shrink(coarse.get_config()), self.root / "run")

  def test_a_faulty_config_and_a_suite_are_refused(self):
    config = fine_hybrid.get_config()
    config.data.image_size = 0
    for faulty, told in ((config, r"config\.data\.image_size=0"), (table4.get_config(), "--mode=suite")):
      with self.assertRaisesRegex(UserError, told):
        efficiency.run_efficiency(faulty, self.root / "faulty")
    self.assertFalse((self.root / "faulty").exists())


if __name__ == "__main__":
  absltest.main()
