# Two commands: `make reproduce` and `make test`. Each target is a line over `python -m datalab` in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BENCH ?= .venv-bench
# A machine with a local folder of wheels (a CPU build of torch, say) names it once, for pip and for uv.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# CPU=1: torch without CUDA, from PyTorch's own index, which saves 2.7 GB on a Linux machine without a GPU.
TORCH := $(if $(CPU),--extra-index-url https://download.pytorch.org/whl/cpu)

.PHONY: help install reproduce test lab bench gpu lock clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing what constraints.txt pins into $(VENV): minutes, by your line, without a word"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) -c constraints.txt -e ".[test,dask]"
	@touch $@

install: $(VENV)/.installed ## all that the other targets need, into .venv (CPU=1: without CUDA)

reproduce: $(VENV)/.installed ## run the study in its quick profile into runs/quick (15 to 30 minutes on 2 cores, once installed)
	$(BIN)/python -m datalab run --profile quick --to runs/quick
	$(BIN)/python -m datalab report runs/quick

# One notebook is run cell by cell, as JupyterLab runs it; pytest runs all of them, as `datalab run` does.
# tests/ is on the path before pytest's plugins are loaded: they too would read tests/rfc3987_syntax.py's library.
test: $(VENV)/.installed ## ruff, then pytest on all cores
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=$(CURDIR)/tests$${PYTHONPATH:+:$$PYTHONPATH} $(BIN)/python -m pytest --nbmake -n auto --dist loadfile --no-loadscope-reorder notebooks/1_*.ipynb tests

lab: $(VENV)/.installed ## open JupyterLab on copies of the notebooks, in runs/lab (LAB="--no-browser": its options)
	$(BIN)/python -m datalab lab $(LAB)

$(BENCH)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,peers]"
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "pydvl[influence]==0.9.2" more-itertools
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps pydvl==0.10.0
	@touch $@

bench: $(BENCH)/.installed ## influence beside the peer libraries, speed and LDS, into runs/bench (over an hour on 1 core)
	$(BENCH)/bin/python tests/benchmarks/bench_influence.py --out runs/bench
	$(BENCH)/bin/python tests/benchmarks/bench_lds.py --out runs/bench

gpu: $(VENV)/.installed ## what needs a CUDA card: its tests, one card beside one core, a title slice, into runs/gpu (5 minutes)
	$(BIN)/python -m pytest -q -m cuda tests/influence tests/test_training.py
	$(BIN)/python tests/benchmarks/bench_gpu.py --out runs/gpu
	$(BIN)/python -m datalab run 0 --profile smoke --fresh --to runs/gpu/title -p device cuda -p lengths '[100, 1000]' \
		-p reference_lengths '[100, 1000]' -p length_seeds 5

lock: ## lock the dependencies anew (needs uv): uv.lock, then constraints.txt from it
	env -u UV_FIND_LINKS uv lock
	env -u UV_FIND_LINKS uv export --frozen --no-hashes --no-header --no-emit-project --all-extras > constraints.txt

clean: ## remove the virtual environments (records in runs/ stay)
	rm -rf $(VENV) $(BENCH)
