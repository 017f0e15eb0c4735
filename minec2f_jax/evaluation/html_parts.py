"""Pieces of an HTML page: text that is escaped, numbers that may be undefined, tables, figures.

Functions take plain text and return markup; what they take as markup is called so.
"""

import html
import math
import re
from collections.abc import Iterable, Sequence

NONE = "–"  # An undefined number.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def escape(text) -> str:
  """`text` for an element or an attribute; what HTML or UTF-8 cannot hold becomes U+FFFD."""
  return html.escape(_UNPRINTABLE.sub("\ufffd", str(text)), quote=True)


def name(text) -> str:
  """The name of a file or an image: markup that letters running from right to left do not spill out of."""
  return f"<bdi>{escape(text)}</bdi>"


def capital(text: str) -> str:
  """`text` as a sentence begins."""
  return text[:1].upper() + text[1:]


def defined(value) -> bool:
  """Whether a score is a finite number: JSON has null, Python NaN for the others."""
  return value is not None and math.isfinite(value)


def number(value, *, factor: float = 1.0, digits: int = 2) -> str:
  """`factor * value`, or a dash where undefined."""
  return f"{factor * value:.{digits}f}" if defined(value) else NONE


def percent(value) -> str:
  """A share in percent without the sign, or a dash."""
  return number(value, factor=100.0)


def with_sign(value) -> str:
  """A share as "71.30 %", which no line breaks, or "undefined"."""
  return f"{percent(value)}\xa0%" if defined(value) else "undefined"


def reach(interval: dict | None) -> str:
  """The ends of an interval of shares, in percent, or a dash."""
  if not interval or not (defined(interval["low"]) and defined(interval["high"])):
    return NONE
  return f"{percent(interval['low'])} to {percent(interval['high'])}"


def count(value: int, noun: str) -> str:
  """ "1 image", "12,000 images"."""
  return f"{value:,} {noun}{'' if value == 1 else 's'}"


def paragraph(text: str) -> str:
  """One paragraph of plain text."""
  return f"<p>{escape(text)}</p>\n"


def listing(texts: Iterable[str]) -> str:
  """A list of plain texts."""
  return "<ul>\n" + "".join(f"<li>{escape(text)}</li>\n" for text in texts) + "</ul>\n"


def definitions(entries: dict[str, str]) -> str:
  """Terms and what they are."""
  return (
    "<dl>\n"
    + "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>\n" for key, value in entries.items())
    + "</dl>\n"
  )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, num_texts: int = 1) -> str:
  """A table that can be copied into a spreadsheet; on a narrow screen it scrolls by itself.

  Args:
    head: of the columns.
    rows: cells.
    caption: what it shows, in which unit and of how many.
    num_texts: so many columns from the left are words, the others numbers.
  """
  caption = capital(caption)
  kind = lambda i: "" if i < num_texts else ' class="num"'
  lines = ["".join(f'<th scope="col"{kind(i)}>{escape(text)}</th>' for i, text in enumerate(head))]
  for row in rows:
    first, *rest = row
    cells = "".join(f"<td{kind(i)}>{escape(text)}</td>" for i, text in enumerate(rest, start=1))
    lines.append(f'<th scope="row">{escape(first)}</th>{cells}')
  head_line, *body = (f"<tr>{line}</tr>\n" for line in lines)
  # Not a <caption>: that would be as wide as the table, and scroll away with it.
  return (
    f'<div class="table">\n<p class="caption">{escape(caption)}</p>\n'
    f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">\n<table>\n'
    f"<thead>\n{head_line}</thead>\n<tbody>\n{''.join(body)}</tbody>\n</table>\n</div>\n</div>\n"
  )


def figure(markup: str, *, caption: str, legend: str = "") -> str:
  """A drawing (markup) with a legend (markup) and its caption."""
  return f"<figure>\n{markup}{legend}<figcaption>{escape(capital(caption))}</figcaption>\n</figure>\n"


def beside(markups: Iterable[str]) -> str:
  """Figures or tables side by side, as many as fit."""
  return f'<div class="beside">\n{"".join(markups)}</div>\n'


def folded(title: str, markup: str) -> str:
  """What opens on a click."""
  return f"<details>\n<summary>{escape(capital(title))}</summary>\n{markup}</details>\n"


def section(anchor: str, title: str, markup: str) -> str:
  """A section that the contents point to."""
  return f'<section id="{escape(anchor)}">\n<h2>{escape(title)}</h2>\n{markup}</section>\n'
