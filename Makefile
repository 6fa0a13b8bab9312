# Two commands do everything: `make demo` and `make test`. A second run installs nothing again.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# A Python that is named has an environment of its own: `make test PYTHON=python3.13` never tests another one.
VENV   := $(if $(findstring file,$(origin PYTHON)),.venv,.venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q
# Pinned, so that the reference packages and we run on the same torch; on Linux servers without a GPU,
# `make TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu" demo` avoids the CUDA build.
TORCH  ?= torch==2.13.0
OUT    ?= out/demo
PYTEST := $(BIN)/python -m pytest

# Where it is set, each of the tests' hundreds of processes would compile everything that it imports.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test check docs oldest wheel nightly fuzz lint format bench types clean

demo: $(VENV)/.package
	@mkdir -p $(OUT)
	$(BIN)/hierax classify examples --top-k 1
	$(BIN)/hierax embed examples -o $(OUT)/embeddings.npz --overwrite
	$(BIN)/hierax features examples -o $(OUT)/maps.npz --plot $(OUT)/maps.png --overwrite
	@echo "embeddings: $(OUT)/embeddings.npz   stage maps: $(OUT)/maps.npz   picture: $(OUT)/maps.png"

# Everything that needs no GPU; `check` leaves out the comparisons with the original packages and what
# is slow, and ends in 90 s.
test: $(VENV)/.tests
	@test "$$(df -Pk "$${TMPDIR:-/tmp}" | awk 'NR == 2 { print $$4 }')" -ge 4000000 || { \
		echo "make test needs 4 GB of room for temporary files; $${TMPDIR:-/tmp} has less. Free some, or set TMPDIR."; exit 1; }
	$(PYTEST) -n auto --dist loadfile --no-loadscope-reorder

check: $(VENV)/.check
	$(PYTEST) -n auto --dist loadfile --no-loadscope-reorder -m "not slow and not parity and not nightly and not gpu"

# The site, strictly: a warning is an error. Offline once installed.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs out/docs
	@echo "the site: out/docs/index.html"

# The oldest versions that pyproject.toml allows, once, in an environment of their own. torch 2.6 has no build without
# CUDA on PyPI: with `OLDEST_TORCH="torch==2.6.0 --index-url https://download.pytorch.org/whl/cpu"` it is 2 GB less.
OLDEST_TORCH ?= torch==2.6.0
oldest:
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip --disable-pip-version-check -q install --upgrade "pip>=25.1" "tomli>=2"
	.venv-oldest/bin/python .ci/oldest.py > .venv-oldest/oldest.txt
	.venv-oldest/bin/python -m pip --disable-pip-version-check -q install -c .venv-oldest/oldest.txt $(OLDEST_TORCH)
	.venv-oldest/bin/python -m pip --disable-pip-version-check -q install -c .venv-oldest/oldest.txt \
		-e ".[data,train,eval,video,viz]" --group dev
	.venv-oldest/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not parity and not nightly and not gpu"

# What users get: a wheel in an empty environment, away from this folder, offline.
wheel:
	bash .ci/wheel "$(PYTHON)" "$(TORCH)"

nightly: $(VENV)/.engines $(VENV)/.fuzz
	$(PYTEST) -m "nightly and not gpu" --ignore tests/train
# Apart: these fork, which is not safe in a process that holds the threads of compilers and of OpenVINO.
	$(PYTEST) -m "nightly and not gpu" tests/train/test_resume.py
	$(PYTEST) -m "nightly and not gpu" tests/train --ignore tests/train/test_resume.py
# Six to twelve minutes a target, from other random numbers every day: an hour each in ten nights. What leads to new
# places stays in out/fuzz for the next night.
	$(BIN)/python -m tests.faults.fuzz all --minutes 84

# Every reader against inputs that nobody wrote (tests/faults/fuzz): `make fuzz TARGET=images MINUTES=5`.
TARGET  ?= all
MINUTES ?= 84
fuzz: $(VENV)/.fuzz
	$(BIN)/python -m tests.faults.fuzz $(TARGET) --minutes $(MINUTES)

lint: $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

types: $(VENV)/.check
	$(BIN)/pyright

format: $(VENV)/.check
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.engines
	$(BIN)/python -m benchmarks

$(VENV)/.package: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade "pip>=25.1"
	$(PIP) install $(TORCH)
	$(PIP) install -e .
	@touch $@

$(VENV)/.check: $(VENV)/.package
	$(PIP) install -e ".[data,train,eval,video,viz]" --group dev
	@touch $@

$(VENV)/.docs: $(VENV)/.check
	$(PIP) install --group docs
	@touch $@

$(VENV)/.tests: $(VENV)/.docs
	$(PIP) install -e ".[openvino,onnx,int8,ann,eval,ray,serve]" --group parity-needs --group readers --group clients
	$(PIP) install --no-deps --group parity
	@touch $@

$(VENV)/.engines: $(VENV)/.tests
	$(PIP) install --group bench
	@touch $@

$(VENV)/.fuzz: $(VENV)/.check
	$(PIP) install --group fuzz
	@touch $@

clean:
	rm -rf .venv .venv-* out .pytest_cache .ruff_cache .hypothesis
