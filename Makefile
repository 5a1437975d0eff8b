# `make demo` and `make test` need Python >= 3.11 and nothing else: each sets up .venv by itself.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test oldest check docs clean

# The demo's network is so small that a second thread costs more than it brings. Digits on black are
# no photographs, so their dreams start without a photograph's brightness and contrast.
demo: export OMP_NUM_THREADS = 1
demo: .venv/.demo
	$(BIN)/python benchmarks/digits.py demo/digits
	$(BIN)/dreamforge synth --teacher data/digits-resnet8.safetensors --n 1024 --steps 200 --no-flip \
		--init pink --out demo/dreams.h5 --overwrite
	$(BIN)/dreamforge preview demo/dreams.h5 --out demo/dreams.png --overwrite
	$(BIN)/recover run --dreams demo/dreams.h5 --sparsity 0.9 --steps 800 --no-flip --shift 1 \
		--eval-data demo/digits/test --out demo/recovered --overwrite
	@echo 'contact sheet of the dreams: demo/dreams.png'

# A process per core: every test computes with one thread. Files stay together, for what they share,
# in the order of tests/conftest.py.
PYTEST := -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: export OMP_NUM_THREADS = 1
test: .venv/.test
	$(BIN)/python $(PYTEST)

# The oldest versions that pyproject.toml admits, in an environment of their own. What they warn of
# is deprecated by packages that are newer than they are.
oldest: .venv-oldest/.test
	.venv-oldest/bin/python $(PYTEST) -W ignore::DeprecationWarning -W ignore::FutureWarning

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python $(PYTEST)

docs: .venv/.test
	$(BIN)/python benchmarks/write_cli_docs.py docs/cli.md

# One stamp per set of extras; pyproject.toml decides when to install again.
.venv/.%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed; try make PYTHON=python3.12 $(MAKECMDGOALS)")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

.venv-oldest/.test: pyproject.toml
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-oldest/bin/uv pip install --quiet --native-tls --python .venv-oldest/bin/python \
		--resolution lowest-direct --editable '.[test]'
	@touch $@

clean:
	rm -rf .venv .venv-oldest demo build dist *.egg-info
