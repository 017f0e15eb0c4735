"""What is wrong with a command line or the config it names, in one sentence."""

import difflib
import os
import re
import sys
import traceback

from absl import flags
from ml_collections import config_flags

from minec2f_jax.errors import UserError


def explain(error: Exception, argv) -> str:
  """Why the flags could not be parsed.

  Args:
    error: of absl, of ml_collections, or of the config's own code, which may raise anything.
    argv: the command line, with the flag "config" of `config_flags`.
  """
  return _of_a_user(error) or _in_config_code(error) or _no_file(argv) or _in_arguments(error, argv)


def _of_a_user(error: BaseException | None) -> str:
  """What a config's own code says is wrong outside of it; "" if nothing."""
  if error is None:
    return ""
  # ml_collections wraps an error into another one of the same type.
  return _of_a_user(error.__cause__ or error.__context__) or (str(error) if isinstance(error, UserError) else "")


def _no_file(argv) -> str:
  given = re.search(r"(?:^| )--?config[= ](\S+?\.py)", " ".join(argv))
  return f"--config={given[1]}: there is no such file." if given and not os.path.exists(given[1]) else ""


def _in_config_code(error: BaseException | None) -> str:
  """Place and message of an exception in a config's file, or in what it imports; "" for one of a library."""
  if error is None:
    return ""
  places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
  if isinstance(error, SyntaxError):
    places.append((error.filename, error.lineno))
  libraries = (sys.prefix, sys.base_prefix, os.path.abspath(sys.argv[0]), os.path.abspath(__file__))
  own = [place for place in places if not (place[0].startswith("<") or os.path.abspath(place[0]).startswith(libraries))]
  here = "{}, line {}: {}: {}".format(*own[-1], type(error).__name__, line(error)) if own else ""
  return _in_config_code(error.__cause__ or error.__context__) or here  # Others are wrapped around the first one.


def _in_arguments(error: Exception, argv) -> str:
  """What is wrong with the command line: the fields that the config does not have, or what `error` says."""
  alone = flags.FlagValues()  # For the config without what is given beside it.
  config_flags.DEFINE_config_file("config", None, "", flag_values=alone, sys_argv=[])
  try:
    rest = alone(argv, known_only=True)
    known = dict(_fields(alone.config))
  except Exception:
    return f"the config's file cannot be loaded: {line(error)}"
  unknown = re.findall(r"(?:^| )--?(?:no)?config\.([^= ]*)", " ".join(rest))
  near = {name: difflib.get_close_matches(name, known, n=1) for name in unknown if name not in known}
  if near:
    hints = {name: f"did you mean --config.{found[0]}?" if found else "take it out." for name, found in near.items()}
    return " ".join(f"--config.{name}: there is no such field; {hint}" for name, hint in hints.items())
  wrong = re.match(r"flag --config\.([^= ]*)", line(error))
  there = known.get(wrong[1]) if wrong else None
  return line(error) + ("" if there is None or hasattr(there, "keys") else f"; the config's file has {there!r} there")


def _fields(section, path: str = ""):
  """(dotted name, value) of all sections and fields of a config."""
  for name in section if hasattr(section, "keys") else ():
    yield f"{path}{name}", section[name]
    yield from _fields(section[name], f"{path}{name}.")


def line(error: BaseException) -> str:
  """The message of `error`, or of what it wraps, as one line."""
  if error.args and isinstance(error.args[0], BaseException):  # So does ml_collections wrap a KeyError.
    return line(error.args[0])
  text = str(error.args[0] if error.args else error)
  if "Traceback" in text:  # ml_collections puts one into the message.
    text = text.strip().splitlines()[-1]
  return " ".join(text.split())
