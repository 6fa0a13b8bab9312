# Two commands do everything: `make demo` and `make test`. A second run installs nothing again.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q
# Pinned, so that the reference packages and we run on the same torch; on Linux servers without a GPU,
# `make TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu" demo` avoids the CUDA build.
TORCH  ?= torch==2.13.0
OUT    ?= out/demo

.PHONY: demo test nightly lint format bench types clean

demo: $(VENV)/.package
	@mkdir -p $(OUT)
	$(BIN)/hierax classify examples --top-k 1
	$(BIN)/hierax embed examples -o $(OUT)/embeddings.npz --overwrite
	$(BIN)/hierax features examples -o $(OUT)/maps.npz --plot $(OUT)/maps.png --overwrite
	@echo "embeddings: $(OUT)/embeddings.npz   stage maps: $(OUT)/maps.npz   picture: $(OUT)/maps.png"

test: $(VENV)/.tests
	$(BIN)/python -m pytest -n auto --dist loadfile

nightly: $(VENV)/.engines
	$(BIN)/python -m pytest -m "nightly and not gpu" --ignore tests/train
# Apart: these fork, which is not safe in a process that holds the threads of compilers and of OpenVINO.
	$(BIN)/python -m pytest -m "nightly and not gpu" tests/train/test_resume.py
	$(BIN)/python -m pytest -m "nightly and not gpu" tests/train --ignore tests/train/test_resume.py

lint: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.tests
	$(BIN)/pyright

format: $(VENV)/.tests
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

$(VENV)/.tests: $(VENV)/.package
	$(PIP) install -e ".[data,train,video]" --group dev --group parity-needs
	$(PIP) install --no-deps --group parity
	@touch $@

$(VENV)/.engines: $(VENV)/.tests
	$(PIP) install -e ".[openvino,int8,onnx]"
	@touch $@

clean:
	rm -rf $(VENV) out .pytest_cache .ruff_cache .hypothesis
