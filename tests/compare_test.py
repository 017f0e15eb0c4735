"""The comparison command, small; and that its torch peer does what ours does."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

from benchmarks import compare
from benchmarks.peers import cases, chips, client, measure, tables
from minec2f_jax import files, methods, models
from minec2f_jax.data import augment, sensors
from minec2f_jax.errors import UserError
from tests.oracles import carry

ROOT = pathlib.Path(__file__).resolve().parent.parent
needs_torch = unittest.skipUnless(importlib.util.find_spec("torch"), "torch is not installed: pip install torch")
SMALL = cases.Case("task2", 2, 64, blocks=(1, 1, 1, 1), levels=("c1", "c5"))


def a_row(seconds, **more):
  return {"train": seconds, "other_cores": {"train": [0.0] * len(seconds)}, "parameters": 7, **more}


def a_record(rows, case=SMALL):
  entry = {"case": dataclasses.asdict(case), "source": "x", "measured": list(rows), "rows": rows}
  return {
    "date": "2026-01-01",
    "machine": {"processor": "P", "cores": 2, "python": "3"},
    "device": "cpu: cpu",
    "versions": {"jax": "0"},
    "ceilings": {"matmul_float32_flops_per_s": [1e11, 2e11], "copy_bytes_per_s": [1e10, 2e10]},
    "cases": {case.name: entry},
  }


def draw_pulls(count, size, seed=0, shift_scale_rotate=0.5):
  """[count, 2, 3], matrices of our augmentation with the paper's limits."""
  limits = dict(shift_limit=0.1, scale_limit=0.3, rotate_limit_deg=15.0)
  draw = lambda key: augment.random_pull(
    key, height=size, width=size, hflip=0.5, vflip=0.5, rot90=0.5, shift_scale_rotate=shift_scale_rotate, **limits
  )
  return np.array(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(seed), count)))


def network_batch(case, config, valid):
  """One batch as the networks see it."""
  batch, data = chips.batch(case.batch, case.size), config.data
  mean, std = ([data[field][band] for band in data.bands] for field in ("mean", "std"))
  image = sensors.normalize(batch["image"], valid, mean=mean, std=std)
  return {"image": image, "label": batch["label"], "valid": valid}


def our_loss(case, config, batch):
  """(loss, its parts, {"teacher", "student"}: the random weights that it was taken on)."""
  image = batch["image"]
  teacher_net, student_net = models.make_segmenter(config.model), models.make_minec2fnet(config.model)
  weights = {"student": carry.random_variables(teacher_net, image, seed=5)}
  if case.task == "task2":
    features = jax.eval_shape(lambda x: teacher_net.apply(weights["student"], x), image)["features"]
    weights = {"teacher": weights["student"], "student": carry.random_variables(student_net, image, features)}
  stage = config[cases.STAGES[case.task]]
  method = methods.make_method(config, stage)
  extra = {"batch_stats": weights["student"]["batch_stats"]}
  batch = {stage.streams[0]: batch}
  arguments = weights["student"]["params"], weights.get("teacher", {}), extra, batch, jax.random.key(0)
  loss, (_, parts) = jax.jit(method.loss)(*arguments)
  return float(loss), parts, weights


@needs_torch
class TorchPeerTest(parameterized.TestCase):
  @parameterized.product(task=("task1", "task2"), whole=(True, False))
  def test_the_loss_on_carried_weights_is_ours(self, task, whole):
    import torch

    from benchmarks.peers import torch_peer

    case = dataclasses.replace(SMALL, task=task)
    config = cases.make_config(case)
    config.model.encoder.bn_epsilon = 1e-5  # torch's.
    valid = np.ones((case.batch, case.size, case.size), bool)
    if not whole:
      valid[0, :20, 5:40] = False
    batch = network_batch(case, config, valid)
    ours, parts, weights = our_loss(case, config, batch)
    peer = torch_peer.Task(case).train()
    for name, variables in weights.items():
      carry.to_torch(getattr(peer, name), variables, carry.torch_names(case.blocks, "encoder/"))
    image = torch.from_numpy(batch["image"].transpose(0, 3, 1, 2).copy())
    theirs = peer.loss(image, torch.from_numpy(batch["label"]).float(), torch.from_numpy(valid))
    np.testing.assert_allclose(theirs.item(), ours, rtol=1e-4)
    if task == "task2":  # With no pixel distilled, half of the loss would not be compared.
      self.assertGreater(float(parts["distilled_share"]), 0.01)

  def test_it_normalizes_as_the_config_says(self):
    from benchmarks.peers import torch_peer

    data = cases.make_config(SMALL).data
    self.assertEqual(chips.BANDS, tuple(data.bands))
    np.testing.assert_allclose(torch_peer.MEAN, [data.mean[band] for band in data.bands])
    np.testing.assert_allclose(torch_peer.STD, [data.std[band] for band in data.bands])

  def test_images_and_labels_are_warped_as_ours_are(self):
    import torch

    from benchmarks.peers import torch_augment

    batch, pulls = chips.batch(3, 32), draw_pulls(3, 32, seed=3, shift_scale_rotate=1.0)
    batch["valid"][1, 4:9, 3:8] = False
    ours = jax.vmap(augment.warp)(batch["image"], batch["label"].astype(np.float32), batch["valid"], pulls)
    image, label, valid = (torch.from_numpy(batch[name]) for name in ("image", "label", "valid"))
    theirs = torch_augment.warp(image.permute(0, 3, 1, 2), label.float(), valid, torch.from_numpy(pulls))
    np.testing.assert_allclose(theirs[0].permute(0, 2, 3, 1).numpy(), ours[0], atol=1e-5)
    for found, expected in zip(theirs[1:], ours[1:]):
      self.assertLess(np.mean(found.numpy() != np.asarray(expected)), 0.002)  # Rounding where two pixels are as near.

  def test_random_pulls_follow_the_laws_of_ours(self):
    import torch

    from benchmarks.peers import torch_augment

    torch.manual_seed(0)
    theirs, ours = torch_augment.random_pull(4000, 64, "cpu").numpy(), draw_pulls(4000, 64)
    unit = np.array([[1, 1, 64]] * 2)
    for moment in (np.mean, np.std):
      np.testing.assert_allclose(moment(theirs, 0) / unit, moment(ours, 0) / unit, atol=0.06)
    zooms = [np.sqrt(np.abs(np.linalg.det(x[:, :, :2]))) for x in (theirs, ours)]
    np.testing.assert_allclose(*[[z.min(), z.max()] for z in zooms], atol=0.02)


class RatioTest(parameterized.TestCase):
  def test_ratios_are_paired_before_the_median_is_taken(self):
    # Unpaired medians would give 2 / 2 = 1.
    self.assertEqual(measure.paired_ratios([1.0, 2.0, 4.0], [2.0, 8.0, 1.0]), (2.0, 0.25, 4.0))

  def test_a_reading_lasts_at_least_its_target(self):
    self.assertEqual([measure.steps_for(s, "cpu") for s in (5.0, 0.7, 0.001)], [1, 3, 2000])

  def test_a_busy_machine_puts_the_ratio_into_brackets(self):
    rows = {"ours": a_row([1.0, 1.0]), "torch": a_row([2.0, 3.0])}
    self.assertIn("| **2.50** (2.00–3.00) |", tables.markdown(a_record(rows)))
    rows["torch"]["other_cores"]["train"] = [0.9, 0.9]
    self.assertIn("| [2.50 (2.00–3.00)] |", tables.markdown(a_record(rows)))

  def test_whoever_fails_is_a_row_that_says_why(self):
    rows = {"ours": a_row([1.0]), "torch": {"failed": "build: out of memory"}, "keras": {"failed": "not there"}}
    text = tables.markdown(a_record(rows))
    self.assertIn("| PyTorch, eager | build: out of memory |", text)
    self.assertIn("| Keras 3 on JAX | not there |", text)

  def test_another_number_of_parameters_is_another_network(self):
    rows = {"ours": a_row([1.0]), "torch": a_row([1.0], parameters=8), "keras": {"failed": "x"}}
    compare.check_same_network(rows)
    self.assertEqual(rows["torch"]["failed"], "another network: 8 parameters, not 7")
    self.assertEqual(rows["keras"]["failed"], "x")


class SelectionTest(parameterized.TestCase):
  def test_patterns_and_peers_restrict(self):
    found = compare.select(cases.choose("cpu", False), ["task1-b4-*", "task2-b1-512-float32"], ["ours", "torch"])
    self.assertEqual([case.name for case in found], ["task1-b4-256-float32", "task2-b1-512-float32"])
    self.assertEqual({case.peers for case in found}, {("ours", "torch")})

  @parameterized.parameters((["tusk*"], [], "tusk"), ([], ["tensorflow"], "tensorflow"))
  def test_unknown_names_are_told(self, patterns, chosen, said):
    with self.assertRaisesRegex(UserError, said):
      compare.select(cases.choose("cpu", False), patterns, chosen)

  @parameterized.parameters("cpu", "gpu")
  def test_case_names_are_unlike_and_survive_json(self, device):
    every = cases.choose(device, False) + cases.choose(device, True)
    self.assertLen({case.name for case in every}, len(every))
    for case in every:
      self.assertEqual(cases.from_json(json.loads(json.dumps(dataclasses.asdict(case)))), case)

  def test_keras_says_that_it_has_no_task_2_and_missing_libraries_how_to_get_them(self):
    case = dataclasses.replace(SMALL, peers=("ours", "torch", "keras"))
    with mock.patch.object(importlib.util, "find_spec", return_value=None):
      able, rows = compare.sort_out(case)
    self.assertEqual(able, ["ours"])
    self.assertIn("task2 is not written for Keras", rows["keras"]["failed"])
    self.assertIn("pip install torch", rows["torch"]["failed"])

  def test_a_case_is_finished_for_the_same_code_form_and_peers(self):
    entry = {"case": json.loads(json.dumps(dataclasses.asdict(SMALL))), "source": "x", "measured": ["ours", "torch"]}
    self.assertTrue(compare.is_finished(entry, SMALL, ["ours"], "x"))
    self.assertFalse(compare.is_finished(entry, SMALL, ["ours"], "y"))
    self.assertFalse(compare.is_finished(entry, SMALL, ["ours", "keras"], "x"))
    self.assertFalse(compare.is_finished(entry, dataclasses.replace(SMALL, parts=("train",)), ["ours"], "x"))
    self.assertFalse(compare.is_finished(None, SMALL, ["ours"], "x"))

  def test_a_record_of_another_machine_is_not_continued(self):
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / "r.json"
      files.write_json(path, compare.open_record(path, "cpu: cpu", dict))
      self.assertEqual(compare.open_record(path, "cpu: cpu", dict)["cases"], {})
      with self.assertRaisesRegex(UserError, "another machine"):
        compare.open_record(path, "gpu: H", dict)


class WorkerTest(parameterized.TestCase):
  """Workers that fail, played by small programs."""

  def _client(self, program, **options):
    real = subprocess.Popen
    fake = lambda command, **kwargs: real([sys.executable, "-c", program], **kwargs)
    folder = self.enter_context(tempfile.TemporaryDirectory())
    with mock.patch.object(subprocess, "Popen", fake):
      return self.enter_context(client.Client("ours", device="cpu", cache=pathlib.Path(folder), **options))

  def test_a_death_tells_the_last_line_of_its_stderr(self):
    worker = self._client("import sys; print('the reason', file=sys.stderr); sys.exit(3)")
    with self.assertRaisesRegex(client.WorkerError, "status 3: the reason"):
      worker.ask("hello")

  def test_a_kill_counts_as_memory(self):
    worker = self._client("import os; os.kill(os.getpid(), 9)")
    with self.assertRaises(client.WorkerError) as caught:
      worker.ask("hello")
    self.assertTrue(caught.exception.out_of_memory)

  def test_silence_ends(self):
    worker = self._client("import time; time.sleep(60)", limit_s=0.2)
    with self.assertRaisesRegex(client.WorkerError, "no answer to 'hello'"):
      worker.ask("hello")

  def test_children_end_with_their_worker(self):
    program = "import subprocess, time; print([subprocess.Popen(['sleep', '60']).pid], flush=True); time.sleep(60)"
    worker = self._client(program)
    (child,) = worker.ask("hello")
    worker.__exit__()
    for _ in range(50):
      status = pathlib.Path(f"/proc/{child}/stat")
      if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
        return
      time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    self.fail("the child lives on")

  def test_one_that_fails_leaves_the_others_their_figures(self):
    class Fake:
      def __init__(self, name, **_):
        self.name, self.began = name, time.perf_counter()

      def ask(self, do, **_):
        if self.name == "torch" and do == "infer":
          raise client.WorkerError("infer: out of memory", out_of_memory=False)
        return {"hello": {"device": "cpu"}, "build": {"parameters": 7}}.get(do, {"seconds": 9.0})

      load = lambda self: (0, 0)
      __enter__ = lambda self: self
      __exit__ = lambda self, *_: None

    with mock.patch.object(client, "Client", Fake), mock.patch.object(time, "sleep"):
      rows = measure.measure(SMALL, ["ours", "torch"], pathlib.Path("/nowhere"), lambda text: None)
    self.assertEqual(rows["torch"]["failed"], "infer: out of memory")
    self.assertEqual((len(rows["torch"]["train"]), len(rows["ours"]["infer"])), (5, 5))

  def test_the_largest_batch_is_the_last_that_fits(self):
    class Fake:
      def __init__(self, name, **_):
        self.began = time.perf_counter()

      def ask(self, do, case=None, **_):
        if do == "build" and case["batch"] > 32:
          raise client.WorkerError("build: out of memory", out_of_memory=True)
        return {"hello": {"device": "gpu"}, "build": {"parameters": 7}}.get(do, {"seconds": 9.0, "peak_bytes": 5e9})

      __enter__ = lambda self: self
      __exit__ = lambda self, *_: None

    case = dataclasses.replace(SMALL, batch=0, device="gpu")
    with mock.patch.object(client, "Client", Fake):
      rows = measure.measure(case, ["ours"], pathlib.Path("/nowhere"), lambda text: None)
    self.assertEqual(rows["ours"]["batch"], 32)
    self.assertRegex(tables.markdown(a_record(rows, case)), r"minec2f_jax \| 32 \| [\d.]+ \| 5.00 GB \|")


@needs_torch
class QuickTest(parameterized.TestCase):
  def test_quick_mode_end_to_end_then_goes_on_without_measuring_again(self):
    with tempfile.TemporaryDirectory() as folder:
      out = pathlib.Path(folder) / "quick.json"
      command = [sys.executable, "-m", "benchmarks.compare", "--quick", "--device=cpu", f"--out={out}"]
      command += ["--cases=task1*", "--peers=ours,torch"]
      first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
      self.assertEqual(first.returncode, 0, first.stderr)
      rows = json.loads(out.read_text())["cases"]["task1-b2-64-float32"]["rows"]
      self.assertEqual(rows["ours"]["parameters"], rows["torch"]["parameters"])
      for name in ("ours", "torch"):
        self.assertNotIn("failed", rows[name])
        self.assertLen(rows[name]["train"], measure.QUICK_ROUNDS["train"])
      self.assertGreater(rows["ours"]["cost"]["flops"], 1e9)
      content = out.read_bytes()
      again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
      self.assertNotIn("starts", again.stdout)
      self.assertEqual(out.read_bytes(), content)


if __name__ == "__main__":
  absltest.main()
