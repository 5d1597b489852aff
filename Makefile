# What one does with this project. `make` alone says what there is.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Of training, one a core; their number divides the 96 clips of a step. With a GPU: 1.
PROCESSES ?= 2
# Whether there is a browser for the tests of the page.
BROWSER := command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null

.PHONY: help setup demo test test-long wheel-test coverage audit lint bench figures train-small score-small clean docs notebook odd-media setup-browser serve

help:
	@echo "make demo         reconstruct a real clip, classify a spoken digit, say where to look"
	@echo "make serve        a page on this machine: drop a video, look, listen, ask"
	@echo "make test         all tests, offline, in some minutes on two cores"
	@echo "make test-long    the tests that take long"
	@echo "make wheel-test   what a fresh environment has from the wheel alone works"
	@echo "make coverage     lines of the package that tests reach, half an hour"
	@echo "make audit        known weaknesses of the pinned packages (asks a service)"
	@echo "make odd-media    what comes of a thousand damaged and odd files; writes docs/reliability.md"
	@echo "make setup        the environment only, in $(VENV)"
	@echo "make setup-browser  Chromium from Debian's packages, for the tests of the page"
	@echo "make lint         ruff and pyright"
	@echo "make docs         the pages in docs/ as a site, in build/docs"
	@echo "make bench        speed and memory against transformers and the machine, some ten minutes"
	@echo "make figures      draw the README's pictures again"
	@echo "make notebook     run notebooks/tutorial.ipynb from top to bottom, and keep what it shows"
	@echo "make train-small  gather clips and train the shipped weights again (hours)"
	@echo "make score-small  how good the shipped weights are on sources never trained on"

setup: $(READY)

# Pinned, and with the CPU build of torch where the index has one; see constraints.txt.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "perceivio needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: setup
	@mkdir -p demo
	$(BIN)/perceivio reconstruct assets/bbb_scene.mp4 --side-by-side --overwrite -o demo/bbb_scene.mp4
	$(BIN)/perceivio classify assets/digit.mp4 --top 3
	@echo
	@echo "The digit is a 5. Neither this image nor this voice was used to teach it digits."
	@echo "Look at demo/bbb_scene.mp4: the original on the left, on the right what the model made of"
	@echo "it from 168 latents a window. Now try a video of your own:"
	@echo "    $(BIN)/perceivio reconstruct YOUR_VIDEO --side-by-side"

serve: setup
	$(BIN)/perceivio serve

test: setup
	@$(BROWSER) || \
		echo "No browser: the tests of the page in one are skipped. To have them: make setup-browser"
	$(BIN)/python -m pytest

test-long: setup
	$(BIN)/python -m pytest -s tests/long
	PERCEIVIO_EXAMPLES=20 $(BIN)/python -m pytest tests/test_properties.py

wheel-test: setup
	$(BIN)/python tests/check_wheel.py

# Of child processes too; see pyproject.toml.
coverage: setup
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Sends the names and versions of constraints.txt to PyPI's service of known weaknesses.
audit:
	$(PYTHON) -m venv .audit
	.audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	.audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

odd-media: setup
	$(BIN)/python tests/odd_media_run.py --docs docs/reliability.md

setup-browser:
	@$(BROWSER) || { \
		ADMIN=$$([ "$$(id -u)" = 0 ] || echo sudo); \
		$$ADMIN apt-get update -qq && \
		$$ADMIN apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; }

lint: setup
	$(BIN)/ruff check src tests recipes benchmarks docs
	$(BIN)/pyright

docs: setup
	$(BIN)/sphinx-build -q -W --keep-going -n -b html -d build/doctrees docs build/docs
	@echo "open build/docs/index.html"

bench: setup
	$(BIN)/python -m benchmarks

figures: setup
	$(BIN)/python -m recipes.figures

notebook: setup
	$(BIN)/python -m recipes.notebook

train-small: setup
	$(BIN)/python -m recipes.small.gather
	$(BIN)/torchrun --nproc-per-node $(PROCESSES) -m recipes.small.train
	rm -rf src/perceivio/weights_small && cp -r .data/small/small src/perceivio/weights_small
	$(BIN)/python -m recipes.small.score small

score-small: setup
	$(BIN)/python -m recipes.small.score small

clean:
	rm -rf $(VENV) .audit demo build test-output
