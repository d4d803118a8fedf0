# Two commands set everything up on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test slow check look fuzz bench bench-check docs clean

run: .venv/installed ## the main job: train a source model, adapt it with GraTa, compare
	$(BIN)/python -m tta_bench +method=grata source=D

test: .venv/installed ## fast tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

slow: .venv/installed ## slow tests
	$(BIN)/python -m pytest -m slow

check: .venv/installed ## style, types, floors, and the fast tests with coverage
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term

look: .venv/installed ## pages in a browser and LaTeX tables on paper: apt-get install chromium texlive-latex-recommended
	$(BIN)/python -m pytest tests/report -k "browser or latex"

fuzz: .venv/installed ## more than 10,000 damaged inputs; `make test` has a seeded few of them
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -n 2 tests/fuzz

bench: .venv/installed ## speed and memory, as ratios to the published procedures
	$(BIN)/python benchmarks/adapt_speed.py

bench-check: .venv/installed ## the same, compared with benchmarks/history.jsonl: a ratio that grew by a tenth fails
	$(BIN)/python benchmarks/adapt_speed.py --check

docs: .venv/installed ## the site of README, docs/ and the reference, in build/site; a broken link is an error
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean: ## everything that can be made again, except results
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is newer than pyproject.toml once the environment has what that file asks for.
.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
