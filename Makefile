# Two commands do all set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
# A machine with an NVIDIA card gets the CUDA build of JAX.
CUDA := $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda)
RUN := $(VENV)/installed-run-$(CUDA)
DEV := $(VENV)/installed-dev

.PHONY: demo test lint clean

demo: $(RUN)
	$(PY) launch.py --config=configs/fine_hybrid.py:demo --workdir=runs/demo

test: $(DEV)
	$(PY) -m pytest -q -n 2 tests

lint: $(DEV)
	$(VENV)/bin/ruff check .

$(RUN): pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v[:2] >= (3, 11) else "minec2f_jax needs Python 3.11 or newer; this is %d.%d. Choose another with PYTHON=..." % v[:2])'
	$(PYTHON) -m venv "$(VENV)"
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.$(if $(CUDA),[$(CUDA)])'
	@touch "$@"

$(DEV): $(RUN)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch "$@"

clean:
	rm -rf "$(VENV)" build *.egg-info
