# smartserve: `make run` serves, `make test` tests, `make lint` checks; nothing else is needed.

PYTHON ?= python3
PORT ?= 8080
DATA ?= var
BIN := .venv/bin
# What is set up stands in marker files, so that a second call does nothing.
RUNTIME := .venv/.runtime
DEVELOPMENT := .venv/.development
# Programs that do harm to servers in tests and drills.
HARM := faketime fiu-run slowhttptest strace
# Programs that what stands in deploy/ is tried with.
DEPLOY := nginx prometheus promtool prometheus-blackbox-exporter node systemd-analyze kustomize

.PHONY: run test drill audit lint format lock bench clean fuzz

run: $(RUNTIME)
	@SMARTSERVE_LOG__FORMAT=$${SMARTSERVE_LOG__FORMAT:-console} \
		exec $(BIN)/smartserve serve --samples --port $(PORT) --data-dir $(DATA)

test: $(DEVELOPMENT)
	@sh tests/servers.sh $(HARM) $(DEPLOY) mariadbd tesseract chromium
	$(BIN)/pytest -n 2 $(TESTS)

# Does real harm to real servers, in some ten minutes, and prints what came of it as a table. Other
# drills, of some minutes each: TESTS=tests/platform (hundreds of uploads while all are killed),
# TESTS=tests/deploy (what a live Prometheus sees of three faults), TESTS=tests/ingest, and
# TESTS=tests/npm (inside Next.js, React, Nuxt and unpic); TESTS=tests/page; TESTS=tests/readme.
drill: $(DEVELOPMENT)
	@sh tests/servers.sh $(HARM) $(DEPLOY) mariadbd tesseract npm chromium
	$(BIN)/pytest -m "" $(if $(TESTS),$(TESTS),-n 2 --dist worksteal tests/faults)

# Looks both lock files up in PyPI's database of vulnerabilities; needs the network. A package that
# cannot be looked up is a failure (--strict): pip-audit would pass over it, and nothing is known.
audit: $(DEVELOPMENT)
	@for lock in requirements.lock requirements-dev.lock; do \
		$(BIN)/pip-audit --strict --require-hashes --disable-pip --progress-spinner off -r $$lock \
			|| { echo "make audit: $$lock: a vulnerability is known, or not all could be looked up" >&2; \
				exit 1; }; \
	done

# Sends 20,000 mutants of real pictures through a real server, in some six minutes on two cores
# that nobody else uses, and ends with 1 where an answer was wrong. What crashes a worker is kept in
# ~/.cache/smartserve-fuzz. To go on from where it stopped: make fuzz FUZZ='--seed 1 --first 12000'.
fuzz: $(DEVELOPMENT)
	$(BIN)/python -m tests.fuzz $(FUZZ)

lint: $(DEVELOPMENT)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(DEVELOPMENT)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Measures the server against its peers on this machine, in some ten minutes, into
# tests/benchmarks/RESULTS.md; needs nginx and wrk, for one peer node and npm (Debian packages).
# The peers from PyPI and npm go into environments of their own in ~/.cache/smartserve-bench.
bench: $(DEVELOPMENT)
	@sh tests/servers.sh nginx wrk node npm
	$(BIN)/python -m tests.benchmarks --results

$(RUNTIME): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "smartserve needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q proxy # once, also where nothing is written (PYTHONDONTWRITEBYTECODE)
	@touch $@

$(DEVELOPMENT): requirements-dev.lock $(RUNTIME)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

# Pins every dependency with its hashes; needs `uv` and the network.
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --quiet \
		--group pyproject.toml:build --extra otel pyproject.toml --output-file requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --quiet \
		--group pyproject.toml:build --group pyproject.toml:dev --extra otel pyproject.toml \
		--output-file requirements-dev.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
