# Needs git, make and Python >= 3.11; everything else goes into .venv.
#
#   make setup    prepare .venv (every other target does so by itself)
#   make demo     the whole chain on text this machine already holds
#                 [CORPUS=DIR [TARGETS=DIR]] on your own folders, [OUT=DIR] elsewhere than demo-out
#   make test     the test suite
#   make check    style, types, import layers, then the test suite: what CI runs
#   make bench    all benchmarks [QUICK=1]
#   make clean    remove results and caches; .venv stays

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
OUT ?= demo-out
BENCH_OUT ?= out/bench
BENCHMARKS ?= corpus_throughput predictor_ranks sequential_choice found_optimum scaling_fit mixture_reuse \
	proxy_throughput overlap quadmix_scale planted_quality stacked_proxies export_throughput clusters_scale influence_throughput
TEST_WORKERS ?= 2
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# The default python3 comes first where its version is in the tested range: wheels at hand are most
# likely made for it. A pyenv shim of a version that is not switched on exists but does not run.
CANDIDATES := $(PYTHON) python3 python3.13 python3.12 python3.11 \
	$(wildcard $(HOME)/.pyenv/versions/3.1[1-3]*/bin/python3) python3.14 python
TESTED := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
USABLE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info)

.PHONY: setup demo test check bench clean
.DELETE_ON_ERROR:

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@if ! $(BIN)/python -c '$(USABLE)' 2>/dev/null; then \
		for test in '$(TESTED)' '$(USABLE)'; do for python in $(CANDIDATES); do \
			if "$$python" -c "$$test" 2>/dev/null; then found=$$python; break 2; fi; \
		done; done; \
		if [ -z "$$found" ]; then \
			echo "make: no Python >= 3.11 with venv and ensurepip was found (tried: $(CANDIDATES))." \
				"Install one (Debian: python3 and python3-venv) or run make PYTHON=/path/to/python." >&2; \
			exit 1; \
		fi; \
		echo "making $(VENV) with $$found ($$("$$found" -V))"; \
		"$$found" -m venv --clear $(VENV); \
	fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_EXTRA) \
		-c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python examples/demo.py --out '$(OUT)' \
		$(if $(CORPUS),--corpus '$(CORPUS)') $(if $(TARGETS),--targets '$(TARGETS)')

test: $(STAMP)
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(TEST_WORKERS) --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory test

bench: $(STAMP)
	@mkdir -p '$(BENCH_OUT)'
	@set -e; for name in $(BENCHMARKS); do \
		$(BIN)/python -m benchmarks.$$name $(if $(QUICK),--quick) --json '$(BENCH_OUT)'/$$name.json; \
	done

clean:
	rm -rf '$(OUT)' out build dist src/*.egg-info \
		.mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
