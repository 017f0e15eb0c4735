"""Test set-up: CPU, and one cache of compiled programs for all workers of a session."""

import os
import signal
import tempfile
import threading

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"minec2f_jax_{os.getuid()}"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# Toy networks compile for longer than they run: half the time without the costly passes.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# A shell's background lets its children ignore Ctrl-C, which tests send to theirs.
if threading.current_thread() is threading.main_thread():
  signal.signal(signal.SIGINT, signal.default_int_handler)
