# The one door: CI and a laptop call the same targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
OUT    ?= demo-out
DATA   ?= pathmnist.npz
STUBS  ?= proto
# Tests wait as often as they work, so one more than there are cores.
WORKERS ?= $(shell expr $$(nproc 2>/dev/null || echo 2) + 1)
# What the light tests do without.
HEAVY  := torch torchvision timm lightning-fabric flwr
LIGHT  := $(addprefix tests/unit/,audit end_to_end federation metrics_http pki policy runtime server/relay)

.PHONY: install demo bench-quality bench-study bench-service soak test test-light test-slow test-faults fuzz sbom endurance check stale-stubs format proto examples docs docs-api constraints lock image-check package clean oip-server axe screenshots

install: $(STAMP)

SUPPORTED = $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null || \
    { echo "needs Python 3.11 to 3.14, $(PYTHON) is $$($(PYTHON) -V 2>/dev/null || echo missing): make install PYTHON=python3.12" >&2; exit 1; }

# $(call install_into,VENV,PACKAGES): uv takes less than half of pip's time, but asks the public
# index. Where pip's own settings name another, such as a hospital's mirror, or where uv cannot
# reach that index, pip installs.
define install_into
@if [ -x $(BIN)/uv ] && ! $(1)/bin/pip config list | grep -q '[.]index-url=' \
    && VIRTUAL_ENV=$(1) $(BIN)/uv pip install --quiet --compile-bytecode $(2); then :; \
else $(1)/bin/pip install --quiet --disable-pip-version-check $(2); fi
endef

$(STAMP): pyproject.toml constraints.txt
	@$(SUPPORTED)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(call install_into,$(VENV),-c constraints.txt -e ".[dev]")
	touch $@

demo: install
	$(BIN)/moma-server demo --out $(OUT)

# Hours: what was done is kept, the same command goes on. STAGE: quick, search, tuning, final, headline.
# The published rows are in RESULTS already: a run of one's own takes another file.
STAGE  ?= final
bench-quality: RESULTS ?= benchmarks/results/quality.csv
bench-quality: install
	$(BIN)/python -m benchmarks.quality --$(STAGE) --data $(DATA) --results $(RESULTS)
	$(BIN)/python -m benchmarks.quality --summary $(STAGE) --results $(RESULTS)

# A study on anybody's patches: PRESET=benchmarks/paper/nct_crc.yaml DEVICE=cuda
PRESET ?= benchmarks/paper/prostate_two_centres.yaml
DEVICE ?= cpu
bench-study: install
	$(BIN)/python -m benchmarks.study $(PRESET) --all --device $(DEVICE)
	$(BIN)/python -m benchmarks.study $(PRESET) --summary

# Half an hour on a machine that does nothing else; the same command goes on.
bench-service: install
	$(BIN)/python -m benchmarks.service

# Many sites ask one teacher for an hour; then fairness, overload and rolling restarts.
# Less of it: make soak SECONDS=60 SITES=8 RESULTS=build/soak.csv
SITES   ?= 64
soak: SECONDS ?= 3600
soak: RESULTS ?= benchmarks/results/soak.csv
soak: install
	$(BIN)/python -m benchmarks.soak --sites $(SITES) --seconds $(SECONDS) --results $(RESULTS)

# What guards identities and budgets is held to more than the rest.
test: install
	-$(MAKE) --no-print-directory --keep-going oip-server axe
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/coverage report --fail-under=95 \
	    --include='moma_core/pki/*,moma_core/end_to_end/*,moma_core/policy/*,moma_core/audit/*'

# Unit tests that need neither torch nor Flower, with another Python, in a small venv.
test-light:
	@$(SUPPORTED)
	rm -rf build/light
	$(PYTHON) -m venv build/light
	$(PYTHON) tests/light_requirements.py $(HEAVY) > build/light/requirements.txt
	$(call install_into,build/light,-c constraints.txt -r build/light/requirements.txt)
	PYTHONPATH=.:server:client:proto build/light/bin/python -m pytest -n $(WORKERS) --dist loadfile $(LIGHT)

# What takes long and has a shorter test of its kind: kills and restarts, imported teachers,
# the relay. Images and ten thousand queries have targets of their own.
test-slow: install
	$(BIN)/python -m pytest -m slow -n $(WORKERS) --dist loadfile \
	    --ignore tests/e2e/test_images.py --ignore tests/e2e/test_endurance.py

# Half an hour: signals, links, memory and clocks fail at random while real runs go on. One
# mode or one kind alone: make test-faults COUNT=100 SEED=7 ONLY=cached
COUNT ?= 25
SEED  ?= 1
ONLY  ?=
test-faults: install
	$(BIN)/python -m pytest -m faults tests/faults -n 2 --dist load \
	    --count $(COUNT) --seed $(SEED) $(if $(ONLY),-k "$(ONLY)") -o log_level=INFO

# A minute for each parser of outside bytes, half an hour in all; by night SECONDS=600. One
# alone: ONLY=images. What was found, and the corpora, stay in build/fuzz.
fuzz: SECONDS ?= 60
fuzz: install
	$(call install_into,$(VENV),-c constraints.txt -e ".[fuzz]")
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --out build/fuzz $(ONLY)

# What is installed, as CycloneDX: every package with version, licence and where it is from.
sbom: install
	test -x build/sbom/bin/cyclonedx-py || $(PYTHON) -m venv build/sbom
	$(call install_into,build/sbom,cyclonedx-bom==7.5.0)
	build/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application \
	    --output-reproducible --of JSON -o build/sbom.json $(BIN)/python

# A server of the Open Inference Protocol for its tests, which skip without it. It wants
# other packages than ours, and no Python above 3.12.
oip-server: build/oip/.installed

build/oip/.installed:
	$(PYTHON) -m venv build/oip
	$(call install_into,build/oip,mlserver==1.7.1)
	touch $@

# Minutes: ten thousand queries, forty kills, and ledger and log compared.
endurance: install
	$(BIN)/python -m pytest -m slow -k 10000 --log-cli-level=INFO tests/e2e/test_endurance.py

check: install stale-stubs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	cd proto && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code

# The compiler's output, held against the stubs that lie here: needs no git.
stale-stubs: install
	rm -rf build/stubs && mkdir -p build/stubs
	$(MAKE) --no-print-directory proto STUBS=build/stubs
	@! diff -rq build/stubs proto | grep _pb2 || { echo "stale: make proto" >&2; exit 1; }

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	cd proto && ../$(BIN)/buf format --write

proto: install
	$(BIN)/python -m grpc_tools.protoc -I proto \
	    --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	    --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	    --python_out=$(STUBS) --grpc_python_out=$(STUBS) \
	    --mypy_out=$(STUBS) --mypy_grpc_out=$(STUBS) \
	    proto/moma_proto/v1/*.proto proto/moma_proto/oip/*.proto

# What the tests of the dashboard ask about accessibility; they skip it without.
axe: build/axe/package/axe.min.js

build/axe/package/axe.min.js:
	mkdir -p build/axe
	cd build/axe && npm pack --silent axe-core@4.14.1 && tar xzf axe-core-*.tgz package/axe.min.js package/LICENSE
	touch $@

# Minutes: a real run's dashboards in Chromium, into build/screenshots and docs/images.
screenshots: install axe
	$(BIN)/python -m tests.screenshots

examples: install
	$(BIN)/python tests/deploy_examples.py

docs: install
	$(BIN)/python docs/make_configuration.py

# API pages, build/api/index.html: what a researcher imports, and the parts behind it.
API := moma_core $(addprefix moma_core.,api audit data distillation evaluation federation models policy teacher training)

docs-api: install
	rm -rf build/api
	$(BIN)/pdoc --docformat google --no-show-source -o build/api $(API)

# A constraint on the project itself would name the folder it was made in.
constraints: install
	$(BIN)/pip-compile --quiet --all-extras --strip-extras --no-annotate --no-header \
	    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	    --unsafe-package pip --unsafe-package setuptools \
	    --unsafe-package moma-service -o constraints.txt pyproject.toml

# What the images install: each file by its hashes. With TORCH_INDEX=https://..., the index
# that has torch's CPU build, for the CPU variant too.
lock: install
	$(BIN)/python deploy/docker/make_lock.py $(TORCH_INDEX)

# A quarter of an hour and 30 GB of disk, as root: the images are built and run. The CPU
# variant, after `make lock` with the same: make image-check VARIANT=cpu TORCH_INDEX=https://...
image-check: export VARIANT ?= cuda
image-check: export TORCH_INDEX ?=
image-check: install
	@command -v buildah mmdebstrap >/dev/null || { echo "needs buildah and mmdebstrap: apt-get install buildah mmdebstrap" >&2; exit 1; }
	$(BIN)/python -m pytest -m slow -s tests/e2e/test_images.py

package: install
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation
	$(BIN)/python tests/package_check.py dist/*.whl

clean:
	rm -rf build dist .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache
