# make demo    set up and fit the handwritten digits: a table and pictures
# make test    set up and run every check
# make lint    the checks that run nothing: ruff and mypy
# make clean   remove the environment and everything that was built
#
# The environment is .venv, made once by $(PYTHON); another one: make demo PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/.demo
	$(BIN)/genprop demo

test: lint
	$(BIN)/pytest -n auto

lint: .venv/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.venv/.demo: pyproject.toml constraints.txt
	$(call install,.)

.venv/.test: pyproject.toml constraints.txt
	$(call install,.[test])

define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "genprop needs Python 3.11 or later, which '$(PYTHON)' is not. Name one: make $(MAKECMDGOALS) PYTHON=python3.11"; \
	  exit 1; }
	@echo "Setting up .venv: a minute or more the first time, most of it for PyTorch."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '$(1)'
	@touch $@
endef

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
