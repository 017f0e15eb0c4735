"""What a set of samples holds, as a count and hashes: what a run learnt from must be known later.

A digest is plain JSON:

  images    how many samples there are
  of        what was hashed, one of `KINDS`
  ids       SHA-256 over the ids in their order, which the order of training depends on
  sha256    SHA-256 over ids and contents

"samples" are image, label and valid as the network gets them: the same whether they come from a folder or from a
prepared set, and whatever the files are packed with. That is the kind for samples in memory, some 1.5 GB/s a core.
"stored" are the bytes of the files or records, for sets that are streamed: decoding a GeoTIFF of 256 x 256 pixels
and six bands takes about ten times as long as hashing its file. A source that is read from somewhere offers them as
`stored(index) -> sequence of bytes`.
"""

import concurrent.futures
import hashlib
import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from minec2f_jax import console
from minec2f_jax.data import pipeline

KINDS = ("samples", "stored")
_FIELDS = ("image", "label", "valid")


def natural_kind(source: pipeline.Source) -> str:
  """Which of `KINDS` a source is best hashed by: the bytes as stored where it offers them, else what it decodes to."""
  return "stored" if hasattr(source, "stored") else "samples"


def digest(source: pipeline.Source, *, of: str = "samples", num_threads: int = 4) -> dict:
  """The digest of one source, see the top of this file.

  Args:
    source: at least one sample; safe to read from several threads.
    of: what to hash, one of `KINDS`; "stored" needs a source that offers it.
    num_threads: that read and hash; they change nothing in the result.
  """
  return _combine(source, of, list(_content_hashes(source, of, num_threads)))


def digests(
  sources: Mapping[tuple[str, str], pipeline.Source], kinds: Mapping[tuple[str, str], str], *, num_threads: int = 4
) -> dict[tuple[str, str], dict]:
  """The digest of every source under its (domain, split), with the pace of all of them on the console.

  Args:
    sources: of a run, each as for `digest`.
    kinds: what to hash of each.
    num_threads: as for `digest`.
  """
  hashes = itertools.chain.from_iterable(_content_hashes(sources[key], kinds[key], num_threads) for key in sources)
  total = sum(map(len, sources.values()))
  tracked = console.track(hashes, total=total, unit="images", title="hashing the data")
  found = {
    key: _combine(source, kinds[key], list(itertools.islice(tracked, len(source)))) for key, source in sources.items()
  }
  next(tracked, None)  # Lets it say the last line.
  return found


def difference(recorded: Mapping, found: Mapping) -> str:
  """In what the data found differ from those recorded, with both values; "" if they are the same.

  Raises:
    ValueError: the two are digests of different kinds, which cannot be compared.
  """
  if recorded["of"] != found["of"]:
    raise ValueError(f"a digest of {found['of']} says nothing about one of {recorded['of']}.")
  for field, what in (("images", "number of images"), ("ids", "ids"), ("sha256", "contents")):
    if recorded[field] != found[field]:
      brief = [str(entry[field])[:12] for entry in (recorded, found)]
      return f"other {what} ({brief[0]} recorded, {brief[1]} now)"
  return ""


def _combine(source, of, content_hashes) -> dict:
  ids = [hashlib.sha256(name.encode()).digest() for name in source.ids]  # Of one length: none runs into the next.
  pairs = b"".join(map(bytes.__add__, ids, content_hashes))
  return {
    "images": len(source),
    "of": of,
    "ids": hashlib.sha256(b"".join(ids)).hexdigest(),
    "sha256": hashlib.sha256(pairs).hexdigest(),
  }


def _content_hashes(source, of, num_threads) -> Iterator[bytes]:
  """SHA-256 of every sample of `source`, in order."""
  read = {"samples": _arrays, "stored": lambda source, index: source.stored(index)}[of]
  with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:  # Decoders and hashlib let go of the interpreter.
    yield from pool.map(lambda index: _hash(read(source, index)), range(len(source)))


def _arrays(source, index) -> list[bytes | memoryview]:
  """The fields of a sample, each behind what tells its bytes apart from those of another type or shape."""
  sample, parts = source[index], []
  for name in _FIELDS:
    array = np.ascontiguousarray(sample[name])
    parts += [f"{name} {array.dtype.str} {array.shape}".encode(), memoryview(array.reshape(-1)).cast("B")]
  return parts


def _hash(parts) -> bytes:
  hashed = hashlib.sha256()
  for part in parts:
    hashed.update(len(part).to_bytes(8, "little"))
    hashed.update(part)
  return hashed.digest()
