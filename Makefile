# Each target sets up .venv when it is missing. On a CUDA machine: make demo REQUIREMENTS=gpu
PYTHON ?= python3.11
REQUIREMENTS ?= cpu
BIN := .venv/bin
INSTALLED := .venv/.installed-$(REQUIREMENTS)
BENCH_INSTALLED := .venv/.installed-bench

.PHONY: demo demo-rl demo-infer test check bench clean

demo: $(INSTALLED)
	$(BIN)/aloe run configs/demo.yaml

demo-rl: $(INSTALLED)
	$(BIN)/aloe run configs/rl_small.yaml

demo-infer: $(INSTALLED)
	$(BIN)/aloe run configs/infer_small.yaml

test: $(INSTALLED)
	requirements/browser.sh
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED) $(BENCH_INSTALLED)
	for name in startup rollout_throughput prefix_cache scaling persona_filter recovery dpo_step tree_length episode_packing storage environments; do \
	    $(BIN)/python benchmarks/$$name.py --json runs/bench/$$name.json || exit 1; done

clean:
	rm -rf .venv .venv-verifiers runs

# --no-deps: the lists are complete, so no resolver runs and nothing unasked comes in.
$(INSTALLED): requirements/$(REQUIREMENTS).txt requirements/install.sh pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	requirements/install.sh $(BIN)/python requirements/$(REQUIREMENTS).txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/aloe doctor --build
	touch $@

$(BENCH_INSTALLED): requirements/bench.txt $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/bench.txt
	touch $@
