"""What a run asks of its process: how memory is taken, and given back."""

import contextlib
import ctypes
import os
import sys

_VARIABLE = "GLIBC_TUNABLES"
HUGE_PAGES = {_VARIABLE: "glibc.malloc.hugetlb=1"}


def use_huge_pages():
  """Starts this process anew if that lets malloc ask for huge pages; call it before anything else.

  XLA on a CPU allocates its temporary arrays anew for every step, and the system hands them out page by page: 400,000
  pages a step of the full-size teacher at batch 4, a quarter of the processor time. Of huge pages it takes 100 times
  fewer (docs/performance.md). glibc reads the setting when a process starts; other C libraries do not know it. Whoever
  has set GLIBC_TUNABLES knows better.
  """
  if sys.platform == "linux" and _VARIABLE not in os.environ:
    os.execve(sys.executable, sys.orig_argv, {**os.environ, **HUGE_PAGES})


def give_back_memory():
  """Gives the system what malloc keeps of freed memory: compilers leave over a gigabyte of it."""
  with contextlib.suppress(OSError, AttributeError, TypeError):  # Another C library than glibc.
    ctypes.CDLL(None).malloc_trim(0)
