# Every target sets up what it needs first. Paths are relative and quoted: the folder's name may hold blanks.

.DEFAULT_GOAL := help
.PHONY: help demo test check lint docs clean
# Images for containers often set it. Each of the hundreds of Pythons that the tests start would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

# The folder of this file, also for "make -f". Make splits its own list of files at blanks, the shell does not.
HERE := $(shell list='$(MAKEFILE_LIST)'; cd "$$(dirname "$${list# }")" && pwd)
SETUP = cd '$(HERE)' && ./scripts/bootstrap.sh
PYTHON = .venv/bin/python

help:  ## Say what there is.
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' '$(HERE)/Makefile' | expand -t 16

demo:  ## Build a small model that can read, start Triton, ask what a sign says. Leaves everything in demo/.
	@$(SETUP) serve && $(PYTHON) scripts/demo.py

test: lint  ## Format, lint, types and all tests.
	@$(SETUP) dev && $(PYTHON) -m pytest --numprocesses 2 --dist loadscope $(PYTEST_ARGS)

check: test  ## The same as test: everything that must pass.

lint:  ## Format, lint and types alone.
	@$(SETUP) dev && $(PYTHON) -m ruff format --check --quiet . && $(PYTHON) -m ruff check --quiet . && $(PYTHON) -m mypy

docs:  ## Write the generated pages of docs/.
	@$(SETUP) serve && $(PYTHON) scripts/generate_docs.py

clean:  ## Remove what the targets above made.
	@cd '$(HERE)' && rm -rf .venv demo dist .mypy_cache .ruff_cache .pytest_cache .hypothesis && \
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
