# The one door: CI and a laptop call the same targets.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
OUT    ?= demo-out

.PHONY: install demo test check format proto constraints package clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: install
	$(BIN)/moma-server demo --out $(OUT)

test: install
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd proto && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code
	$(MAKE) --no-print-directory proto && git diff --exit-code -- proto/

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	cd proto && ../$(BIN)/buf format --write

proto: install
	$(BIN)/python -m grpc_tools.protoc -I proto \
	    --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	    --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	    --python_out=proto --grpc_python_out=proto \
	    --mypy_out=proto --mypy_grpc_out=proto proto/moma_proto/v1/*.proto

constraints:
	$(BIN)/pip-compile --quiet --all-extras --strip-extras --no-annotate --no-header \
	    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	    -o constraints.txt pyproject.toml

package: install
	$(BIN)/python tests/package_check.py

clean:
	rm -rf dist .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache
