import copy
import json
import math
import pathlib
import re
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from minec2f_jax.errors import UserError
from minec2f_jax.evaluation import html_report
from tests import html_case, html_page

HOSTILE = "<script>alert(1)</script>\"' onload='x' & \u202e \ud800 \x00 é漢"
PLAIN = HOSTILE.replace("\ud800", "\ufffd").replace("\x00", "\ufffd")


def _page(**changes) -> html_report.Page:
  """The shared page, which a test may change."""
  return copy.deepcopy(html_case.shared_page())._replace(**changes)


def _root(page) -> html_page.Element:
  return html_page.read(html_report.render(page))


def _section(root: html_page.Element, anchor: str) -> html_page.Element | None:
  return next(iter(root.all("section", id=anchor)), None)


def _tables(root, anchor: str) -> list[list[list[str]]]:
  return [table.cells() for table in _section(root, anchor).all("table")]


def _nulls(value):
  """As results.json has it: None for NaN."""
  if isinstance(value, dict):
    return {key: _nulls(entry) for key, entry in value.items()}
  if isinstance(value, list):
    return [_nulls(entry) for entry in value]
  return None if isinstance(value, float) and math.isnan(value) else value


class PageTest(parameterized.TestCase):
  def test_it_is_balanced_and_its_contents_lead_to_every_section_once(self):
    root = _root(_page())
    ids = [element.attributes["id"] for element in root.all() if "id" in element.attributes]
    links = [element.attributes["href"] for element in root.all("nav")[0].all("a")]
    self.assertEqual(links, [f"#{name}" for name in ids])
    self.assertEqual(
      ids,
      [
        "summary",
        "confusion",
        "outlines",
        "calibration",
        "groups",
        "transfer",
        "curves",
        "images",
        "config",
        "counting",
      ],
    )
    for table in root.all("table"):
      self.assertLen({len(row) for row in table.cells()}, 1)

  def test_nothing_is_fetched_from_anywhere_and_a_policy_forbids_it(self):
    text = html_report.render(_page())
    root = html_page.read(text)
    for element in root.all():
      for name, value in element.attributes.items():
        if name in ("src", "href", "srcset", "action", "data", "xlink:href"):
          self.assertRegex(value, r"^(#\w+|data:image/png;base64,[\w+/=]+)$")
        self.assertNotRegex(name, "^on|^style$")
    self.assertEmpty([e.tag for e in root.all() if e.tag in ("script", "link", "iframe", "object", "embed", "base")])
    style = root.all("style")[0].text
    self.assertNotRegex(style, r"url\(|@import|@font-face|expression")
    self.assertEqual(style.count("{"), style.count("}"))
    self.assertNotRegex(text, r"https?://")
    policy = [meta.attributes["content"] for meta in root.all("meta") if "http-equiv" in meta.attributes]
    self.assertLen(policy, 1)
    self.assertStartsWith(policy[0], "default-src 'none'; style-src 'unsafe-inline'; img-src data:;")

  def test_every_class_has_a_style(self):
    root = _root(_page())
    style = root.all("style")[0].text
    classes = {name for e in root.all() for name in e.attributes.get("class", "").split()} - {"swatch"}
    self.assertEmpty([name for name in sorted(classes) if not re.search(rf"\.{name}\b", style)])

  def test_the_same_page_makes_the_same_bytes_and_null_reads_as_nan(self):
    first = html_report.render(_page())
    self.assertEqual(html_report.render(html_case.make_page()), first)
    results = json.loads(json.dumps(_nulls(html_case.shared_page().results)))
    self.assertEqual(html_report.render(_page(results=results)), first)

  def test_it_is_written_whole_as_utf_8(self):
    path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "report.html"
    html_report.write(path, _page(title="Mines é漢"))
    self.assertEqual(path.read_bytes().decode(), html_report.render(_page(title="Mines é漢")))
    self.assertEqual([file.name for file in path.parent.iterdir()], ["report.html"])
    with self.assertRaisesRegex(UserError, "cannot be written"):
      html_report.write(path / "below" / "report.html", _page())

  def test_it_says_that_other_data_are_not_the_papers_and_names_its_tables(self):
    root = _root(_page())
    self.assertIn("are not the paper's and must not be read as its results", root.all("header")[0].text)
    told = {
      anchor: re.findall(r"the paper's Table \d+", _section(root, anchor).text)
      for anchor in ("summary", "confusion", "groups")
    }
    self.assertEqual(told["summary"], ["the paper's Table 2", "the paper's Table 1"])
    self.assertEqual(told["confusion"], ["the paper's Table 14"])
    self.assertEqual(told["groups"], ["the paper's Table 11"] * 2)

  def test_facts_config_and_policies_are_there(self):
    root = _root(_page())
    facts = root.all("header")[0].all("dd")
    self.assertEqual([fact.text for fact in facts], list(html_case.shared_page().facts.values()))
    config = _section(root, "config")
    self.assertLen(config.all("details"), 1)
    self.assertEqual(json.loads(config.all("pre")[0].text), html_case.shared_page().config)
    counting = _section(root, "counting").text
    for part in ("has no IoU and no F1 (0/0)", "Neither the image border", "Sizes of mines are not told."):
      self.assertIn(part, counting)


class HostileTest(parameterized.TestCase):
  def test_names_are_text_wherever_they_stand(self):
    page = _page(title=HOSTILE, facts={HOSTILE: HOSTILE}, config={HOSTILE: HOSTILE}, monitor=HOSTILE)
    for row in page.results["rows"]:
      row |= {"model": HOSTILE, "trained_on": HOSTILE + row["trained_on"], "tested_on": HOSTILE, "notes": [HOSTILE]}
      row["groups"] = {HOSTILE: [{**group, "name": HOSTILE} for group in row["groups"]["climate zone"]]}
    page.results["transfer"] = {HOSTILE: page.results["transfer"]["miou"], "note": HOSTILE}
    card = page.cards["fine test"][0]
    card = card._replace(
      id=HOSTILE, why=HOSTILE, scores={HOSTILE: 0.5}, probabilities={HOSTILE: card.probabilities["student"]}
    )
    page = page._replace(cards={HOSTILE: [card]}, curves={HOSTILE: page.curves["fine"]}, bands=(HOSTILE,) * 6)
    text = html_report.render(page)
    text.encode()
    root = html_page.read(text)
    self.assertEmpty(root.all("script"))
    self.assertEmpty([e.tag for e in root.all() if "onload" in e.attributes])
    for section in root.all("section"):
      if section.attributes["id"] != "config":
        self.assertIn(PLAIN, section.text, section.attributes["id"])
    self.assertEqual(root.all("title")[0].text, PLAIN)
    self.assertEqual(root.all("bdi")[0].text, PLAIN)


class NumbersTest(parameterized.TestCase):
  def _row(self, model: str, domain: str) -> dict:
    return next(
      row for row in html_case.shared_page().results["rows"] if (row["model"], row["domain"]) == (model, domain)
    )

  def test_the_main_tables_hold_scores_and_intervals(self):
    coarse, fine = _tables(_root(_page()), "summary")
    for domain, cells in (("coarse", coarse), ("fine", fine)):
      self.assertEqual(cells[0], ["Score", "teacher", "95 % interval", "student", "95 % interval"])
      lines = {line[0]: line[1:] for line in cells[1:]}
      for heading, score in (("mIoU", "miou"), ("Recall of mine", "recall_mine"), ("F1 of mine", "f1_mine")):
        for place, model in ((0, "teacher"), (2, "student")):
          row = self._row(model, domain)
          self.assertEqual(lines[heading][place], f"{100 * row['scores'][score]:.2f}")
          if interval := row["intervals"].get(score):
            ends = f"{100 * interval['low']:.2f} to {100 * interval['high']:.2f}"
            self.assertEqual(lines[heading][place + 1], ends)
          else:
            self.assertEqual(lines[heading][place + 1], "")
      self.assertEqual(lines["Images in that mean"], ["6", "", "6", ""])

  def test_every_test_set_tells_its_images_and_pixels(self):
    captions = [c.text for c in _section(_root(_page()), "summary").all("p", kind="caption")]
    scores = self._row("student", "coarse")["scores"]
    self.assertStartsWith(
      captions[0], f"Coarse test: 6 images, 6 with a labelled mine; {scores['num_pixels']:,} valid pixels."
    )

  def test_confusion_is_in_percent_of_all_pixels_in_the_table_and_drawn(self):
    root = _root(_page())
    (cells,) = _tables(root, "confusion")
    counts = np.sum(list(self._row("student", "fine")["counts"].values()), axis=0)
    (line,) = [line for line in cells if line[:2] == ["Fine test", "student"]]
    self.assertEqual(line[2:6], [f"{100 * n / counts.sum():.2f}" for n in counts.ravel()])
    self.assertEqual(line[6], str(counts.sum()))
    drawn = [svg for svg in _section(root, "confusion").all("svg") if "student, fine" in svg.attributes["aria-label"]]
    self.assertEqual([t.text for t in drawn[0].all("text", kind="big")], [f"{cell} %" for cell in line[2:6]])

  def test_outlines_by_tolerance_with_their_images(self):
    _, cells = _tables(_root(_page()), "outlines")
    scores = self._row("teacher", "fine")["boundaries"]
    interval = self._row("teacher", "fine")["intervals"]["boundary_f1_30m"]
    self.assertEqual([line[:2] for line in cells[1:4]], [["teacher", "10"], ["teacher", "30"], ["teacher", "60"]])
    self.assertEqual(
      cells[2][2:],
      [
        f"{100 * scores['boundary_iou_30m']:.2f}",
        f"{100 * scores['boundary_f1_30m']:.2f}",
        f"{100 * interval['low']:.2f} to {100 * interval['high']:.2f}",
        f"{100 * scores['boundary_precision_30m']:.2f}",
        f"{100 * scores['boundary_recall_30m']:.2f}",
        str(scores["num_boundary_images_30m"]),
        "0",
      ],
    )

  def test_calibration_in_its_units(self):
    cells, _ = _tables(_root(_page()), "calibration")
    scores = self._row("teacher", "coarse")["calibration"]
    self.assertEqual(cells[0][:5], ["Model", "ECE, %", "ECE of confidence, %", "Brier score", "Log loss, nats"])
    self.assertEqual(cells[1][1], f"{100 * scores['ece']:.2f}")
    self.assertEqual(cells[1][3:5], [f"{scores['brier']:.4f}", f"{scores['nll']:.4f}"])
    self.assertEqual(cells[1][-1], str(scores["num_pixels"]))

  def test_groups_stand_model_by_model_and_small_ones_are_marked(self):
    _, cells = _tables(_root(_page()), "groups")
    self.assertEqual([line[0] for line in cells[1:]], ["tropical *"] * 2 + ["arid *"] * 2 + ["unknown *"] * 2)
    arid = self._row("student", "fine")["groups"]["climate zone"][1]
    self.assertEqual(cells[4][1:3], ["student", f"{100 * arid['scores']['accuracy']:.2f}"])
    self.assertEqual(cells[4][-2:], [str(arid["num_images"]), str(arid["scores"]["num_pixels"])])

  def test_large_groups_carry_no_mark_and_long_tables_are_folded(self):
    page = _page()
    for row in page.results["rows"]:
      group = row["groups"]["climate zone"][0]
      row["groups"] = {"region": [{**group, "name": f"r{i}", "small": False} for i in range(16)]}
    section = _section(_root(page), "groups")
    self.assertEqual(section.all("table")[0].cells()[1][0], "r0")
    self.assertEqual([s.text for s in section.all("summary")], ["Coarse test, 32 rows", "Fine test, 32 rows"])

  def test_transfer_is_in_percentage_points(self):
    (cells,) = _tables(_root(_page()), "transfer")
    found = html_case.shared_page().results["transfer"]["miou"]
    ends = [f"{100 * found[name]:.2f}" for name in ("average", "backward")]
    self.assertEqual(cells[1], ["mIoU", *ends, "–", f"{100 * found['forgetting']:.2f}"])

  def test_models_of_the_same_name_are_told_apart_by_their_stage(self):
    page = _page()
    for row in page.results["rows"]:
      row["model"] = "supervised"
    head = _tables(_root(page), "summary")[0][0]
    self.assertEqual(head[1::2], ["supervised, trained on coarse", "supervised, trained on fine"])


class AbsentTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("boundaries", "outlines", "size of a pixel", lambda row: row.update(boundaries=None)),
    ("boundary_key", "outlines", "size of a pixel", lambda row: row.pop("boundaries")),
    ("calibration", "calibration", "no valid pixel", lambda row: row["calibration"].update(num_pixels=0)),
    ("groups", "groups", "neither climate zone", lambda row: row.update(groups={})),
    ("counts", "confusion", "no pixel was counted", lambda row: row.update(counts={})),
  )
  def test_what_no_row_knows_is_left_out_with_its_reason(self, anchor, reason, change):
    page = _page()
    for row in page.results["rows"]:
      change(row)
    root = _root(page)
    self.assertIsNone(_section(root, anchor))
    self.assertNotIn(f"#{anchor}", [a.attributes["href"] for a in root.all("a")])
    self.assertIn(reason, _section(root, "counting").text)

  @parameterized.named_parameters(
    ("transfer", "transfer", "a model of each domain", lambda page: page.results.pop("transfer")),
    ("curves", "curves", "no metrics", lambda page: page.curves.clear()),
    ("cards", "images", "no image", lambda page: page.cards.clear()),
    ("empty_cards", "images", "no image", lambda page: page.cards.update({"coarse test": [], "fine test": []})),
    ("config", "config", "none", lambda page: page.config.clear()),
    ("rows", "summary", "no test set", lambda page: page.results["rows"].clear()),
  )
  def test_so_is_what_the_page_lacks(self, anchor, reason, change):
    page = _page()
    change(page)
    root = _root(page)
    self.assertIsNone(_section(root, anchor))
    self.assertIn(reason, _section(root, "counting").text)

  def test_nothing_but_scores_is_enough(self):
    page = _page(curves={}, cards={}, config={}, facts={})
    keys = ("model", "trained_on", "tested_on", "domain", "scores")
    row = {key: page.results["rows"][-1][key] for key in keys}
    root = _root(page._replace(results={"rows": [row]}))
    self.assertEqual([s.attributes["id"] for s in root.all("section")], ["summary", "counting"])
    self.assertNotIn("Intervals: bootstrap", root.text)

  def test_undefined_scores_are_dashes_and_no_chart_is_empty(self):
    page = _page()
    for row in page.results["rows"]:
      for part in ("scores", "boundaries", "calibration"):
        row[part] = {k: math.nan if isinstance(v, float) else v for k, v in row[part].items()}
      row["intervals"] = {name: {**v, "low": math.nan, "high": math.nan} for name, v in row["intervals"].items()}
    root = _root(page)
    self.assertEqual(_tables(root, "summary")[0][1], ["Accuracy", "–", "–", "–", "–"])
    self.assertIn("mIoU teacher undefined; student undefined", root.text)
    self.assertNotRegex(root.text, r"(?i)\bnan\b")

  def test_one_epoch_makes_a_sentence_and_undefined_quantities_no_chart(self):
    page = html_case.make_page(epochs=1)
    page = page._replace(curves={**page.curves, "more": [{"step": 1}, {"step": 2, "validation/miou": None}]})
    section = _section(_root(page), "curves")
    self.assertIn("One epoch makes no curve; its training loss is 0.6100.", section.text)
    self.assertIn("2 epochs, 2 steps; no mIoU.", section.text)
    self.assertEmpty(section.all("svg"))

  def test_the_first_of_equally_good_epochs_is_the_best(self):
    lines = [{"step": i, "train/loss": 1.0, "validation/miou": s} for i, s in enumerate((0.2, None, 0.5, 0.5), start=1)]
    section = _section(_root(_page(curves={"fine": lines})), "curves")
    self.assertIn("4 epochs, 4 steps; best validation mIoU: 50.00\xa0% in epoch 3.", section.text)
    self.assertLen(section.all("circle", kind="ring"), 1)
    self.assertLen(section.all("svg"), 2)  # No learning rate.


if __name__ == "__main__":
  absltest.main()
