# Two commands do everything on a fresh machine: `make demo` and `make test`. `make check` is for between changes,
# `make gpu` measures what only a machine with a GPU can tell.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Processes take groups of tests in the order in which tests/conftest.py puts them.
PYTEST := $(BIN)/pytest --dist loadgroup --no-loadscope-reorder

.PHONY: demo example test check gpu style types pytest quick format clean

demo: $(READY)
	$(BIN)/latentmill demo out/demo

# A transformer learns from the demo's latents, once undisturbed, and once stopped and resumed by two processes.
EXAMPLE := out/example
DIT := examples/train_tiny_dit.py $(EXAMPLE)/run
example: $(READY)
	rm -rf $(EXAMPLE)
	$(BIN)/latentmill demo $(EXAMPLE)
	$(BIN)/python examples/make_tiny_t5.py $(EXAMPLE)/t5
	$(BIN)/latentmill text $(EXAMPLE)/run text.encoder=$(EXAMPLE)/t5 text.preset=mochi text.dtype=float32
	$(BIN)/python $(DIT) $(EXAMPLE)/undisturbed --steps 300 & undisturbed=$$!; \
		$(BIN)/python $(DIT) $(EXAMPLE)/stopped --steps 240 && wait $$undisturbed
	$(BIN)/torchrun --standalone --nproc-per-node 2 $(DIT) $(EXAMPLE)/stopped --steps 300 \
		--compare $(EXAMPLE)/undisturbed/losses.json
	$(BIN)/python examples/sample_tiny_dit.py $(EXAMPLE)/run $(EXAMPLE)/stopped

# mypy runs beside tests, as it takes most of a minute the first time.
test: style
	$(MAKE) --jobs 2 types pytest

# Two processes start Ray, whose tests also wait; a third has the others.
pytest: $(READY)
	$(PYTEST) --numprocesses 3 --durations=20

check: style
	$(MAKE) --jobs 2 types quick

quick: $(READY)
	$(PYTEST) --numprocesses 2 -m "not ray and not full_size and not s3 and not slow and not soak"

gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What was tested is pinned in constraints.txt; the ranges in pyproject.toml stay open.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[s3,bench,test]"
	touch $@

clean:
	rm -rf $(VENV) out
