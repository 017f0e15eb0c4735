"""The report of a run as one HTML file: it opens offline, runs no script and asks nobody for anything.

Same page, same bytes. What a run does not have (outlines without a pixel size, groups without metadata) is left out,
and the last section says why.
"""

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from minec2f_jax import files, metrics
from minec2f_jax.evaluation import boundaries, html_curves, html_pixels
from minec2f_jax.evaluation import html_parts as parts
from minec2f_jax.evaluation import html_sections as sections
from minec2f_jax.evaluation.html_pixels import Card
from minec2f_jax.evaluation.html_style import STYLE

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_NOT_THE_PAPERS = (
  "Where a table has a counterpart in the paper (arXiv 2605.24460), it says so. The paper's data are not public: "
  "numbers of other data, of demo data above all, are not the paper's and must not be read as its results."
)


class Page(NamedTuple):
  """What a report shows.

  Attributes:
    title: e.g. "teacher and student on mining_demo".
    facts: heading -> text: data, seed, device, ...; no dates, so that the same run makes the same bytes.
    results: the content of results.json, see `summary`; undefined numbers are NaN or None.
    curves: stage -> lines of its metrics.jsonl.
    monitor: name of the validation score that chose the best epoch.
    bands: role of each band of the images.
    cards: title of a test set -> its worst and best images.
    config: resolved, plain JSON.
  """

  title: str
  facts: dict[str, str]
  results: dict
  curves: dict[str, list[dict]]
  monitor: str
  bands: tuple[str, ...]
  cards: dict[str, list[Card]]
  config: dict


class _Section(NamedTuple):
  """A part of the page: `make` gives its markup, "" where there is nothing to show, for the reason `absent`."""

  anchor: str
  title: str
  make: Callable[[Page], str]
  absent: str


def write(path, page: Page):
  """Writes the report.

  Raises:
    UserError: it cannot be written.
  """
  files.write_text(path, render(page))


def render(page: Page) -> str:
  """The whole HTML of a report."""
  made = [(section, section.make(page)) for section in _SECTIONS]
  shown = [(section, markup) for section, markup in made if markup]
  missing = [f"{section.title}: {section.absent}" for section, markup in made if not markup]
  contents = "".join(
    f'<li><a href="#{section.anchor}">{parts.escape(section.title)}</a></li>\n' for section, _ in shown
  )
  head = f"<h1>{parts.escape(page.title)}</h1>\n{parts.definitions(page.facts)}{parts.paragraph(_NOT_THE_PAPERS)}"
  body = "".join(parts.section(section.anchor, section.title, markup) for section, markup in shown)
  counted = parts.section("counting", "How the numbers are counted", _counting(page, missing))
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{parts.escape(page.title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n{head}"
    f'<nav aria-label="Contents"><ul>\n{contents}<li><a href="#counting">How the numbers are counted</a></li>\n'
    f"</ul></nav>\n</header>\n<main>\n{body}{counted}</main>\n</body>\n</html>\n"
  )


def _images(page: Page) -> str:
  """Worst and best images of every test set."""
  blocks = [
    f"<h3>{parts.escape(parts.capital(title))}</h3>\n" + "".join(html_pixels.card(card, page.bands) for card in cards)
    for title, cards in page.cards.items()
    if cards
  ]
  if not blocks:
    return ""
  text = (
    "Bands are stretched in each picture from its 2nd to its 98th percentile. Mine is predicted where the probability "
    "is above 50 %."
  )
  return parts.paragraph(text) + html_pixels.legend() + "".join(blocks)


def _config(page: Page) -> str:
  text = json.dumps(page.config, indent=2, sort_keys=True, ensure_ascii=False, default=str)
  return parts.folded("All fields", f"<pre>{parts.escape(text)}</pre>\n") if page.config else ""


def _counting(page: Page, missing: Sequence[str]) -> str:
  """Policies, what the data did not tell, and which sections are not there."""
  notes = list(dict.fromkeys(note for row in page.results["rows"] for note in row.get("notes") or ()))
  blocks = [parts.paragraph(sections.POOLED), parts.paragraph(metrics.ABSENT_CLASS_POLICY)]
  if any(row.get("boundaries") for row in page.results["rows"]):
    blocks.append(parts.paragraph(boundaries.BOUNDARY_POLICY))
  blocks += [parts.paragraph(note) for note in notes]
  if missing:
    blocks += ["<h3>Left out</h3>\n", parts.listing(missing)]
  return "".join(blocks)


_SECTIONS = (
  _Section("summary", "Summary", lambda page: sections.summary(page.results["rows"]), "there is no test set."),
  _Section(
    "confusion",
    "Confusion matrix: where labels and predictions agree",
    lambda page: sections.confusion(page.results["rows"]),
    "no pixel was counted.",
  ),
  _Section(
    "outlines",
    "Outlines: how near they are on the ground",
    lambda page: sections.outlines(page.results["rows"]),
    "the size of a pixel on the ground is not known.",
  ),
  _Section(
    "calibration",
    "Calibration: whether probabilities mean what they say",
    lambda page: sections.calibration(page.results["rows"]),
    "there is no valid pixel.",
  ),
  _Section(
    "groups",
    "Scores by kind of place and mine",
    lambda page: sections.groups(page.results["rows"]),
    "the data tell neither climate zone, sensor, region, commodity nor size.",
  ),
  _Section(
    "transfer",
    "Transfer and forgetting",
    lambda page: sections.transfer(page.results),
    "it needs a model of each domain, tested on both.",
  ),
  _Section(
    "curves",
    "Training curves",
    lambda page: html_curves.curves(page.curves, page.monitor),
    "there are no metrics of a training.",
  ),
  _Section("images", "Worst and best images", _images, "no image has a defined score."),
  _Section("config", "Config", _config, "there is none."),
)
