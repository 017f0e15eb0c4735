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

import jax  # noqa: E402  After what it reads.

from minec2f_jax import programs  # noqa: E402

# And half of what is left, without the fused loops. Processes that tests start compile as users' do.
if jax.__version_info__ < (0, 11):
  programs.CPU_OPTIONS.update(xla_cpu_use_fusion_emitters=False, xla_cpu_parallel_codegen_split_count=1)
