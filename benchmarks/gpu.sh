#!/usr/bin/env bash
# All of the comparison that needs a GPU, in one call that ends in time; needs nothing but this checkout and Python.
#
#   benchmarks/gpu.sh [flags of benchmarks.compare]
#
# Run it again until it leaves no case. On a machine without network or home, these say where things are:
#   PYTHON   with jax (CUDA), torch and the packages of requirements.txt; default python3
#   WHEELS   a folder of wheels for what PYTHON lacks; they are unpacked beside it; default none
#   RESULTS  where the record goes; default benchmarks/results
#   RECORD   a record of an earlier call to go on from; default the one in RESULTS
#   SECONDS_LEFT  after which everything is stopped; no case is started in the last third; default 570
#
# Dry run without a GPU: benchmarks/gpu.sh --device=cpu --quick
set -euo pipefail
results=$(realpath -m "${RESULTS:-$(dirname "$0")/results}")
record=${RECORD:+$(realpath "$RECORD")}
wheels=${WHEELS:+$(realpath "$WHEELS")}
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
limit=${SECONDS_LEFT:-570}
export PYTHONUNBUFFERED=1

if [ -n "$wheels" ]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
  export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
mkdir -p "$results"
if [ -n "$record" ] && [ "$record" != "$results/compare_gpu.json" ]; then
  cp "$record" "$results/compare_gpu.json"
fi
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo "no GPU here"
# A case that is cut off costs its own figures alone: the record is written after each.
timeout --signal=TERM --kill-after=15 "$limit" "$python" -m benchmarks.compare \
  --minutes="$("$python" -c "print($limit * 2 / 3 / 60)")" --out="$results/compare_gpu.json" "$@" \
  || { status=$?; [ "$status" = 124 ] && echo "stopped after $limit s; run it again to go on"; exit "$status"; }
