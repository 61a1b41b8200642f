# Everything starts here: `make` alone lists the targets. Each one makes .venv and
# installs what it needs on first use, from requirements.lock; later it starts at once.
#
#   make train ARGS="--preset seed --steps 200"     options for tinygpt
#   make train PYTHON=python3.12                        another Python for .venv

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
# The models that a page runs itself, each as one script file.
WEB := $(patsubst %,book/_static/models/%/model.js,story pocket-gpt2 pocket-chat tiny)
.DEFAULT_GOAL := help
.NOTPARALLEL:
# An install compiles nothing: Python does, at a module's first import, and keeps it.
unexport PYTHONDONTWRITEBYTECODE
.SECONDEXPANSION:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

train: .venv/.core ## train a small GPT on the CPU and let it speak
	$(BIN)/tinygpt train $(ARGS)

# No page shows an output that today's code would not print: what is stale runs again.
book: .venv/.book $(WEB) ## build the site into book/_build/html
	$(BIN)/python book/notebooks.py --stale
	$(BIN)/jupyter-book build . --path-output book -n -W --keep-going

book/_static/models/%/model.js: $$(wildcard data/$$*/*.safetensors) tinygpt/formats/web.py | .venv/.book
	$(BIN)/tinygpt export --model data/$* --format web --out $(@D)

serve: book ## build the site and open it in the browser
	@(sleep 1; $(BIN)/python -m webbrowser http://localhost:8000/) &
	$(BIN)/python -m http.server 8000 --bind 127.0.0.1 --directory book/_build/html

lab: .venv/.lab ## open the chapters in JupyterLab
	$(BIN)/jupyter lab chapters

handout: .venv/.book ## the notebooks for a class, with and without solutions, as zips
	$(BIN)/python book/handout.py

slides: .venv/.book ## a deck of slides for each chapter, in book/_build/html/slides
	$(BIN)/python book/slides.py

pdf: .venv/.dev book ## the course as a PDF, in book/_build/html (needs Chromium)
	$(BIN)/python book/pdf.py

# All benchmarks, sides in turn, then one table with the goals. The seed demo's own run
# (benchmarks/seed_demo.py, half an hour or so) is made once and kept in its result. A
# first look leaves out the text of a gigabyte and the browser.
QUICK ?=
BENCHES := $(patsubst %,benchmarks/%.py,time_to_quality training_step generation \
	tokenizer start_up growth $(if $(QUICK),,bigger_text web_speed web_training))
bench: .venv/.bench ## measure speed against others (QUICK=1: a first look, 5 minutes)
	@for file in $(BENCHES); do echo "== $$file"; \
	$(BIN)/python $$file $(if $(QUICK),--quick) || exit 1; done
	@$(if $(QUICK),,$(BIN)/python benchmarks/draw.py)
	@echo && $(BIN)/python benchmarks/summary.py $(if $(QUICK),--quick)

models: .venv/.core ## train the models in data/ again (about an hour)
	OMP_NUM_THREADS=1 $(BIN)/python resources/models.py $(ARGS)

# Three workers with one thread each keep two cores busy while a browser or a child is
# waited for. They take the files in the order of tests/conftest.py, not those of the most
# tests first. nbval runs the chapters and compares what they show with what is stored.
# COVER=1 counts the lines of the package that ran, which takes half as long again.
NBVAL := --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg
FAST ?=
COVER ?=
test: .venv/.dev ## run all tests and chapters (FAST=1: the quick ones, no chapters and no browser)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder \
		$(if $(FAST),-m "not slow" tests,$(if $(COVER),--cov=tinygpt) $(NBVAL)) $(ARGS)

FUZZ_SECONDS ?= 120
fuzz: .venv/.dev ## try files and commands that nobody would write, for two minutes
	$(BIN)/python tests/fuzz/fuzz.py --seconds $(FUZZ_SECONDS) $(ARGS)

links: .venv/.book ## ask all links of the course whether they lead somewhere
	$(BIN)/jupyter-book build . --path-output book/_build/links --builder linkcheck

release: book handout slides .venv/.dev ## build what a release carries into dist/
	$(BIN)/python resources/release.py $(TAG)

lint: .venv/.dev ## check style, types, and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## remove what was built; .venv and runs/ stay
	rm -rf build dist book/_build book/_static/models .coverage .coverage.* *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

# litgpt asks for versions that the rest does not take (huggingface-hub below 1.4), so it
# stands in a folder of its own, with the packages that importing its model needs.
LITGPT := litgpt==0.5.13 lightning==2.6.6 lightning-utilities==0.15.3 \
	torchmetrics==1.9.0 jsonargparse==4.53.0

# A stamp per set of packages. The plain set is part of each, so its stamp is renewed.
PIP := $(BIN)/python -m pip install -qq --no-compile
.venv/.core: WHAT := torch and what training needs
.venv/.book: WHAT := torch, what training needs, and Jupyter Book
.venv/.book: EXTRAS := [book]
.venv/.dev: WHAT := everything that the tests need
.venv/.dev: EXTRAS := [dev,hub,book]
.venv/.bench: .venv/.dev
	@$(PIP) --no-deps --target .venv/litgpt --upgrade $(LITGPT)
	@$(PIP) "ctranslate2>=4.8"
	@touch $@
.venv/.lab: .venv/.book
	@$(PIP) "jupyterlab>=4.2"
	@touch $@
.venv/.core .venv/.book .venv/.dev: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("TinyGPT needs Python 3.10 or newer: make PYTHON=python3.12")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing $(WHAT) into .venv ..."
	@$(PIP) -c requirements.lock -e ".$(EXTRAS)"
	@touch .venv/.core $@

.PHONY: help train models book serve lab handout slides pdf test fuzz lint links release bench clean
