# make check      lint, unit and contract tests: after every change
# make test       lint, and all tests that are not slow (installs what it needs, pinned)
# make test-slow  the slow tests: fuzzing, hostile input, cancel at every moment, soak; and others through a cluster
# make coverage   make test, counting also the processes that tests start
# make conformance  public suites, SDKs, frameworks and agents as clients, against a live server: docs/compatibility.md
# make lint       style, types and import contracts
# make demo       the real Codex and Claude Code CLIs answer through clinvk, without an account
# make bench      what clinvk costs, measured on this machine
# make docs       build the documentation as a site into src/clinvk/site/, with a check of links and anchors
# make dist       build into dist/ what a release publishes, and try it
# make lock       regenerate the lock files after changing requirements
# make clean      remove everything that make installed
#
# Needs Python 3.11 or later (with venv), Node.js 20 or later with npm, and make. PYTHON=… picks another Python.

VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := .venv-demo
DOCS   := .venv-docs
DIST   := .venv-dist
AGENTS := .agents
CLIS   := tests/agents/clis
CLIENTS := tests/agents/clients
PYTHON_CLIENTS := frameworks instructor
MORE_CLIENTS := more_frameworks crewai
SUITES_IN := tests/conformance
PIP    := -m pip --disable-pip-version-check --quiet install
JOBS   ?= 3
PYTEST ?=
BENCH  ?=
SUITES ?=

.DELETE_ON_ERROR:
.PHONY: help install check test test-slow coverage lint demo bench docs dist lock chromium nginx clients conformance clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

install: $(VENV)/installed $(AGENTS)/installed

check: lint nginx
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m "not slow" tests/unit tests/contract $(PYTEST)

test: lint chromium nginx clients
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m "not slow" $(PYTEST)

test-slow: install chromium clients
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m slow $(PYTEST)
	$(BIN)/pytest -n $(JOBS) --dist worksteal --through-cluster $(CLUSTERED)

CLUSTERED := $(patsubst %,tests/integration/test_%.py,http_prompt http_answers http_batch http_batch_detached \
	http_ephemeral http_events http_interactions http_keys http_live http_runs http_sessions busy_sessions client_tools \
	openai_chat openai_continuation openai_responses anthropic_messages)

coverage:
	COVERAGE_PATCH=subprocess $(MAKE) test PYTEST="--cov --cov-report=term:skip-covered $(PYTEST)"

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(AGENTS)/node_modules/.bin/pyright
	$(BIN)/lint-imports

demo: $(DEMO)/installed
	$(DEMO)/bin/python examples/demo.py

bench: install
	$(BIN)/python -m bench $(BENCH)

docs: $(DOCS)/installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --config-file packaging/site/mkdocs.yml

# The image has the newest packages of Debian and the newest agents: their versions are not pinned (DL3008, DL3016).
dist: export SOURCE_DATE_EPOCH := $(shell git log -1 --format=%ct)
dist: $(DIST)/installed docs
	$(DIST)/bin/hadolint --failure-threshold warning --ignore DL3008 --ignore DL3016 packaging/Dockerfile
	sh packaging/make_dist.sh $(DIST)

# Create the venv if it is missing; update packages when the lock changes.
$(VENV)/installed: tests/requirements.txt pyproject.toml
	@test -x $(BIN)/python || sh tests/make_venv.sh $(VENV) $(PYTHON)
	$(BIN)/python $(PIP) --require-hashes -r tests/requirements.txt
	$(BIN)/python $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

PINNED := $(CLIS)/package.json $(CLIS)/package-lock.json $(CLIS)/.npmrc

$(DEMO)/installed: examples/requirements-demo.txt pyproject.toml $(PINNED)
	$(NEEDS_NODE)
	@echo "downloading Claude Code, Codex and Python packages: 375 MB, 0.95 GB in $(DEMO)/"
	@test -x $(DEMO)/bin/python || sh tests/make_venv.sh $(DEMO) $(PYTHON)
	$(DEMO)/bin/python $(PIP) --no-deps --require-hashes -r examples/requirements-demo.txt
	$(DEMO)/bin/python $(PIP) --no-deps --no-build-isolation -e .
	cp $(PINNED) $(DEMO)/
	npm ci --prefix $(DEMO) --omit=dev --loglevel=error
	@touch $@

$(DOCS)/installed: packaging/site/requirements.txt
	@test -x $(DOCS)/bin/python || sh tests/make_venv.sh $(DOCS) $(PYTHON)
	$(DOCS)/bin/python $(PIP) --require-hashes -r packaging/site/requirements.txt
	@touch $@

$(DIST)/installed: packaging/requirements-dist.txt
	@test -x $(DIST)/bin/python || sh tests/make_venv.sh $(DIST) $(PYTHON)
	$(DIST)/bin/python $(PIP) --require-hashes -r packaging/requirements-dist.txt
	@touch $@

$(AGENTS)/installed: $(PINNED)
	$(NEEDS_NODE)
	@mkdir -p $(AGENTS)
	cp $^ $(AGENTS)/
	npm ci --prefix $(AGENTS) --include=dev --loglevel=error
	@touch $@

define NEEDS_NODE
@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null && command -v npm >/dev/null \
	|| { echo "make: the agent CLIs need Node.js 20 or later with npm on PATH" >&2; exit 1; }
endef

# The clients that bring tools of their own: instructor does not fit the newest OpenAI SDK, so it has an environment.
# `npm ci` refuses a lock without the optional programs for other systems, some of which registries do not have.
clients: install .clients/installed
.clients/installed: $(PYTHON_CLIENTS:%=$(CLIENTS)/%.txt) $(wildcard $(CLIENTS)/package*.json) $(CLIENTS)/.npmrc
	@mkdir -p .clients
	cp $(CLIENTS)/package.json $(CLIENTS)/package-lock.json $(CLIENTS)/.npmrc .clients/
	npm install --prefix .clients --loglevel=error
	$(call IN_ENVIRONMENTS,$(PYTHON_CLIENTS))
	@touch $@

# Heavy, and only in `make conformance`: Semantic Kernel does not fit the newest SDK of MCP, CrewAI that of OpenAI.
.clients/all: .clients/installed $(MORE_CLIENTS:%=$(CLIENTS)/%.txt)
	$(call IN_ENVIRONMENTS,$(MORE_CLIENTS))
	@touch $@

define IN_ENVIRONMENTS
for name in $(1); do \
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .clients/$$name && \
	$(BIN)/uv pip install --quiet --require-hashes --python .clients/$$name -r $(CLIENTS)/$$name.txt || exit 1; \
done
endef

# `make conformance SUITES="mcp_conformance --docs"` runs one suite, and writes the outcome into docs/compatibility.md.
conformance: install clients .clients/all .conformance/installed
	PYTHONPATH=tests $(BIN)/python -m conformance $(SUITES)

.conformance/installed: $(SUITES_IN)/requirements.txt $(SUITES_IN)/package.json $(SUITES_IN)/package-lock.json $(SUITES_IN)/.npmrc
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .conformance
	$(BIN)/uv pip install --quiet --require-hashes --python .conformance -r $(SUITES_IN)/requirements.txt
	cp $(SUITES_IN)/package.json $(SUITES_IN)/package-lock.json $(SUITES_IN)/.npmrc .conformance/
	npm ci --prefix .conformance --ignore-scripts --loglevel=error
	@touch $@

# The browser tests drive Debian's chromium. Without it, those tests report that they are skipped.
chromium:
	@ls tests/browser/test_*.py >/dev/null 2>&1 || exit 0; \
	command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing chromium for the browser tests"; \
		{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } \
			>/dev/null || echo "make: chromium could not be installed" >&2; \
	else \
		echo "make: no chromium, and no right to install it" >&2; \
	fi

# nginx checks the sample in packaging/. It is unpacked and not installed, because an installed nginx starts.
nginx:
	@command -v nginx >/dev/null || [ -e .nginx/usr/sbin/nginx ] || { mkdir -p .nginx && cd .nginx && \
	{ [ "$$(id -u)" != 0 ] || apt-get update; } && apt-get download nginx && dpkg -x nginx_*.deb .; } \
		>/dev/null 2>&1 || echo "make: no nginx" >&2

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras \
	--no-emit-index-url --no-header
lock:
	$(COMPILE) --extra otel --extra cluster --extra push pyproject.toml tests/requirements.in -o tests/requirements.txt
	printf 'editables\nhatchling\nopenai\n' | $(COMPILE) -c tests/requirements.txt pyproject.toml - >examples/requirements-demo.txt
	$(COMPILE) pyproject.toml -o packaging/requirements.txt
	printf 'hatchling\n' | $(COMPILE) - >packaging/requirements-build.txt
	$(COMPILE) packaging/requirements-dist.in -o packaging/requirements-dist.txt
	printf 'mkdocs-material\n' | $(COMPILE) - >packaging/site/requirements.txt
	for name in $(PYTHON_CLIENTS) $(MORE_CLIENTS); do $(COMPILE) $(CLIENTS)/$$name.in -o $(CLIENTS)/$$name.txt; done
	$(COMPILE) $(SUITES_IN)/requirements.in -o $(SUITES_IN)/requirements.txt
	for folder in $(CLIS) $(CLIENTS) $(SUITES_IN); do (cd $$folder && npm install --package-lock-only --ignore-scripts); done

clean:
	rm -rf $(VENV) $(DEMO) $(DOCS) src/clinvk/site $(DIST) dist $(AGENTS) .clients .conformance .nginx .coverage .coverage.* .pytest_cache .hypothesis .ruff_cache .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
