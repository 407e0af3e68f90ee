# Needs make and Python 3.11 or newer with its venv module; everything else goes into .venv, pinned by constraints.txt.
# What a target needs is installed when its stamp is older than pyproject.toml or constraints.txt. The install is
# editable: a change of code needs no reinstall.

PYTHON ?= python3
ARGS ?=

# The numbers of a sum depend on how many threads share it, so the count is the same on every machine, and small: the
# networks here are tiny, and on many cores most of the time would go into waking threads. Set your own to differ.
OMP_NUM_THREADS ?= 2
export OMP_NUM_THREADS

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off -c constraints.txt

# Two targets share one .venv, so `make -j demo test` does one after the other.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo test check docs release-check clean FORCE

help:
	@echo 'make demo    install into .venv, then run "metatuner demo"'
	@echo 'make test    install into .venv with the test tools, then run the tests'
	@echo 'make check   formatting, lint, types and the import contract'
	@echo 'make docs    build the documentation as a site, any warning being an error'
	@echo 'make release-check   build wheel and sdist, and try the wheel on every Python of 3.11, 3.12, 3.13 that is there'
	@echo 'make clean   remove .venv, builds and caches'
	@echo
	@echo 'ARGS="..." goes to the command:    make test ARGS="-k schedule -x"'
	@echo 'PYTHON names the interpreter:      PYTHON=python3.12 make test'
	@echo 'PIP_EXTRA_INDEX_URL with the address of PyTorch'\''s CPU index avoids the CUDA build of torch on Linux.'

demo: .venv/.installed
	@$(BIN)/python -m metatuner demo $(ARGS)

# Two workers with a thread each: with more, threads that wait for one another take the time of those that work.
test: OMP_NUM_THREADS = 1
test: .venv/.installed-test
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

docs: .venv/.installed-test
	@$(BIN)/python docs/generate.py
	@$(BIN)/python -m sphinx -q -W --keep-going -c docs -d docs/_build/read . docs/_build/site
	@echo 'the documentation: docs/_build/site/index.html'

# Each Python that is there gets the wheel and what it needs in an environment of its own: minutes, and gigabytes.
release-check: .venv/.installed-test
	@rm -rf dist build
	@$(BIN)/python -m build --outdir dist . >/dev/null
	@if $(BIN)/python -c 'import twine' 2>/dev/null; then $(BIN)/python -m twine check --strict dist/*; fi
	@set -e; for python in python3.11 python3.12 python3.13; do \
	  $$python -c pass 2>/dev/null || { echo "$$python: not there, not checked"; continue; }; \
	  place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; \
	  $$python -m venv "$$place/venv"; \
	  "$$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl; \
	  (cd "$$place" && venv/bin/metatuner --version && venv/bin/metatuner doctor >doctor.txt \
	    && venv/bin/metatuner demo --steps 50 --json >demo.json && test -s demo.json); \
	  rm -rf "$$place"; echo "$$python: installed, and it works"; \
	done

check: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

clean:
	rm -rf .venv build dist docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: pyproject.toml constraints.txt
	@$(make-venv)
	@echo '[2/2] installing metatuner and what it needs, as pinned (minutes the first time)'
	@$(PIP) -e .
	@touch $@

.venv/.installed-test: pyproject.toml constraints.txt
	@$(make-venv)
	@echo '[2/2] installing metatuner, what it needs and the test tools, as pinned (minutes the first time)'
	@$(PIP) -e '.[test]'
	@touch .venv/.installed $@

# A .venv is made anew when the checkout has moved (an editable install remembers where it was made), or when another
# interpreter than the one it was made with is asked for by name.
made-with := $(shell cat .venv/.made-with 2>/dev/null)
ifeq ($(origin PYTHON),file)
wanted := $(or $(firstword $(made-with)),$(PYTHON)) $(CURDIR)
else
wanted := $(PYTHON) $(CURDIR)
endif
ifneq ($(made-with),$(wanted))
.venv/.installed .venv/.installed-test: FORCE
endif

define make-venv
set -e; python='$(firstword $(wanted))'; \
if [ "$$(cat .venv/.made-with 2>/dev/null)" != '$(wanted)' ]; then \
  fail() { echo "metatuner: $$1. Name another interpreter: PYTHON=python3.12 make ..." >&2; exit 1; }; \
  version=$$("$$python" -c 'import platform; print(platform.python_version())' 2>/dev/null) || fail "cannot run $$python"; \
  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || fail "Python 3.11 or newer is needed, $$python is $$version"; \
  "$$python" -c 'import venv, ensurepip' 2>/dev/null \
    || fail "$$python lacks venv (on Debian and Ubuntu: the package python3-venv)"; \
  echo "[1/2] making .venv with $$python ($$version)"; \
  clear=; [ ! -f .venv/.made-with ] || clear=--clear; \
  "$$python" -m venv $$clear .venv; \
  echo '$(wanted)' > .venv/.made-with; \
fi
endef
