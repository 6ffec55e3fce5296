PYTHON ?= python3
VENV ?= .venv
export PYTHON
PY = "$(VENV)/bin/python"

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow parity bench-encoder bench-data bench-loaders bench-train bench-engine bench-ray bench-evaluation bench-service bench-onnx experiments reproduction-page lint format clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'
	@echo "Settings: PYTHON=python3.12 VENV=folder TORCH_INDEX=address ARGS='more arguments'"

setup: ## make the virtual environment (the other targets do it themselves)
	@bash tools/setup.sh "$(VENV)"

demo: setup ## train on English, search in all languages, print the table: ten minutes
	@$(PY) -m colbertxm.demo $(ARGS)

test: setup ## the tests: no network, no GPU; up to four at a time (ARGS='-n 0' for one)
	@$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-slow: setup ## the tests that need minutes, downloads or a GPU
	@$(PY) -m pytest -m slow $(ARGS)

parity: setup ## our vectors beside colbert-ai's, PyLate's and sentence-transformers' (ARGS=--record keeps theirs)
	@$(PY) -m benchmarks.parity.run $(ARGS)

bench-encoder: setup ## the encoder beside transformers' XmodModel at its real size: four minutes, 9 GB
	@$(PY) benchmarks/encoder.py $(ARGS)

bench-data: setup ## the data stream at MS MARCO's full size: minutes, 15 GB of disk (ARGS=--scale=0.01 for a look)
	@$(PY) benchmarks/data.py $(ARGS)

bench-loaders: setup ## our training loader beside datasets' streaming and PyLate's: ten minutes (ARGS='--turns=1')
	@$(PY) -m benchmarks.loaders.run $(ARGS)

bench-train: setup ## training beside PyLate and sentence-transformers, and its memory: 17 minutes, 15 GB
	@$(PY) -m benchmarks.train.run $(ARGS)

bench-engine: setup ## our search beside fast-plaid, tachiom, xtr-warp-rs and LanceDB: hours (PEERS= for ours alone: minutes)
	@$(PY) -m benchmarks.engine.run $(if $(filter undefined,$(origin PEERS)),,--peers "$(PEERS)") $(ARGS)

bench-ray: setup ## encoding by one and by two Ray actors, and whether the bytes are one machine's (needs colbertxm[ray])
	@$(PY) -m benchmarks.ray.run $(ARGS)

bench-evaluation: setup ## measuring 6,980 queries x 1,000, and smart_home in 17 languages (ARGS='--only measure')
	@$(PY) benchmarks/evaluation.py $(ARGS)

bench-service: setup ## the service under load: 16 clients for 60 seconds on the loopback (ARGS='--model FOLDER')
	@$(PY) -m benchmarks.service.run $(ARGS)

bench-onnx: setup ## one query by torch and by ONNX Runtime (needs colbertxm[onnx])
	@$(PY) -m benchmarks.onnx_latency $(ARGS)

experiments: setup ## the paper's questions, the small size of all, energy estimated: an hour on two cores (ARGS='question=data_scaling')
	@$(PY) -m pip --disable-pip-version-check install --quiet -e '.[energy]'
	@$(PY) -m colbertxm.experiment all size=small $(ARGS)

reproduction-page: setup ## write experiments/reproduction/README.md from the YAML files beside it
	@$(PY) -m colbertxm.reproduce page

lint: setup ## ruff and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: setup ## let ruff mend what it can
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

clean: ## remove caches and built files; keeps .venv and outputs
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find colbertxm tests -name __pycache__ -type d -prune -exec rm -rf {} +
