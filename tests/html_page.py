"""Reads an HTML page back as strictly as a test needs it: every element closed, in order."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

_VOID = ("meta", "img")


class Element:
  """A tag with its attributes, and its children: elements and texts."""

  def __init__(self, tag: str, attributes=()):
    self.tag, self.attributes, self.children = tag, dict(attributes), []

  def all(self, tag: str | None = None, **attributes) -> list["Element"]:
    """The elements within of this tag and with these attributes (`kind` is class), in order."""
    attributes = {"class" if name == "kind" else name: value for name, value in attributes.items()}
    found = []
    for child in (child for child in self.children if isinstance(child, Element)):
      if tag in (None, child.tag) and attributes.items() <= child.attributes.items():
        found.append(child)
      found += child.all(tag, **{"kind" if name == "class" else name: value for name, value in attributes.items()})
    return found

  @property
  def text(self) -> str:
    return "".join(child if isinstance(child, str) else child.text for child in self.children)

  def cells(self) -> list[list[str]]:
    """Of a table, its heading and rows."""
    return [[cell.text for cell in row.children if isinstance(cell, Element)] for row in self.all("tr")]


class _Reader(HTMLParser):
  def __init__(self):
    super().__init__(convert_charrefs=True)
    self.open = [Element("")]

  def handle_starttag(self, tag, attrs):
    assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice: {attrs}"
    self.open[-1].children.append(element := Element(tag, attrs))
    if tag not in _VOID:
      self.open.append(element)

  def handle_startendtag(self, tag, attrs):
    self.open[-1].children.append(Element(tag, attrs))

  def handle_endtag(self, tag):
    assert self.open[-1].tag == tag, f"</{tag}> where <{self.open[-1].tag}> is open"
    self.open.pop()

  def handle_data(self, data):
    self.open[-1].children.append(data)


def read(text: str) -> Element:
  """The root of a page; fails where it is not balanced."""
  reader = _Reader()
  reader.feed(text)
  reader.close()
  assert len(reader.open) == 1, f"never closed: {[element.tag for element in reader.open[1:]]}"
  return reader.open[0]


def pixels(uri: str) -> np.ndarray:
  """[H, W, 3] uint8 of a PNG's data URI."""
  kind, _, data = uri.partition(",")
  assert kind == "data:image/png;base64", kind
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))).convert("RGB"))
