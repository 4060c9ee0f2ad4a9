# `make demo` and `make test` are all that a newcomer needs: both set up everything first.
# Recipes use relative paths only, so that the folder's own path may hold spaces.

PY := .venv/bin/python
PACKAGES := adapterdistill actors serve
PROTOS := adapterdistill/registry/v1/registry adapterdistill/serving/v1/serving
PROTOC = $(PY) -m grpc_tools.protoc -I proto $(PROTOS:%=proto/%.proto)
STUBS := $(foreach proto,$(PROTOS),$(proto)_pb2.py $(proto)_pb2.pyi $(proto)_pb2_grpc.py)
RELEASED := proto/released.binpb
# An interpreter to build .venv with; found when empty.
PYTHON ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

.PHONY: help
help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' Makefile | expand -t 12

.PHONY: setup
setup: .venv/.setup  ## make .venv with the pinned dependencies (once)

.venv/.setup: pyproject.toml constraints.txt
	@python="$(PYTHON)"; \
	for candidate in python3.11 python3; do \
		if [ -z "$$python" ] && "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
		then python="$$candidate"; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "setup: needs Python 3.11 or later: install it, or name one with make PYTHON=/path/to/python" >&2; exit 1; \
	fi; \
	if [ ! -x $(PY) ]; then echo "setup: creating .venv with $$python"; "$$python" -m venv .venv; fi
	@echo "setup: installing pinned packages (a minute or two)"
	@# torch first and by its exact version: a range may bring a build with gigabytes of CUDA.
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

.PHONY: check
check: setup proto-check  ## formatting, lint, types, layers, protobuf, known vulnerabilities
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m ruff check --quiet .
	@$(PY) -m mypy --no-error-summary
	@.venv/bin/lint-imports --no-logo
	@echo "check: all passed; known vulnerabilities:"
	@# Last, so that the last line says whether it could look.
	@$(PY) .ci/audit.py

.PHONY: lock
lock: setup  ## resolve again what the image installs, with digests (needs the network)
	@$(PY) .ci/lock.py

.PHONY: sbom
sbom: setup  ## write the image's software bill of materials (CycloneDX) to build/
	@$(PY) .ci/sbom.py build/sbom.cdx.json

.PHONY: test
test: setup test-unit test-drills  ## every test but those of test-system (under 12 minutes on 2 cores)
	@# Ray waits for half of its time: three files at once, the longest first.
	@$(PY) -m pytest -n 3 --dist loadfile tests/e2e tests/cluster

.PHONY: test-unit
test-unit: setup  ## unit and contract tests only: no Ray (under 3 minutes)
	@# Two processes of one torch thread each; what a file's tests share is made once.
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile tests/unit tests/contract

.PHONY: test-drills
test-drills: setup  ## the drills and the registry's benchmark, in a tiny size
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 3 tests/drills

.PHONY: test-system
test-system: setup  ## what needs an environment of its own: the wheel with its base dependencies
	@$(PY) -m pytest tests/system

.PHONY: test-hosts
test-hosts: setup  ## clusters on several hosts, made of namespaces, and their faults (10 minutes; root)
	@# Where they cannot be installed, the tests are skipped and say what is missing.
	@if ! { command -v nft && command -v ip; } >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get install -y -qq iproute2 nftables >/dev/null || true; \
	fi
	@$(PY) -m pytest -rs tests/hosts

.PHONY: coverage
coverage: setup  ## lines and branches that the unit and contract tests run (minutes)
	@# Not by coverage alone: xdist gives a process 10 s to end, which can be too few to write.
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --cov --cov-report= tests/unit tests/contract
	@$(PY) -m coverage report --skip-covered
	@for package in $(PACKAGES); do \
		printf '%-15s ' $$package; $(PY) -m coverage report --include="$$package/*" | tail -1; \
	done

.PHONY: mutants
mutants: setup  ## change the code that decides, line by line, and see which tests notice (about 10 minutes)
	@OMP_NUM_THREADS=1 $(PY) -m mutmut run --max-children 2
	@$(PY) -m mutmut results

.PHONY: demo
demo: setup  ## the main job on the sample tenants (under 6 minutes on 2 cores)
	@.venv/bin/adapterdistill demo $(DEMO_ARGS)

.PHONY: proto
proto: setup  ## regenerate the gRPC stubs, which are committed
	@$(PROTOC) --python_out=. --pyi_out=. --grpc_python_out=.

.PHONY: proto-check
proto-check: setup
	@.venv/bin/buf lint
	@.venv/bin/buf breaking --against $(RELEASED) || \
		{ echo "check: proto/ breaks clients of the last release: only add to it" >&2; exit 1; }
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(PROTOC) --python_out="$$fresh" --pyi_out="$$fresh" --grpc_python_out="$$fresh" && \
	for stub in $(STUBS); do \
		cmp -s "$$stub" "$$fresh/$$stub" || \
		{ echo "check: $$stub is stale: run 'make proto'" >&2; exit 1; }; \
	done

.PHONY: proto-release
proto-release: setup  ## at a release: keep its protocol and a session of its client
	@.venv/bin/buf build --exclude-source-info -o $(RELEASED)
	@$(PY) -m tests.contract.record_client

.PHONY: federation
federation: setup  ## three owners' clusters and a registry that they share (under 4 minutes)
	@.venv/bin/adapterdistill federation $(FEDERATION_ARGS)

.PHONY: clean
clean:  ## remove .venv, caches and what the demo left
	@rm -rf .venv .demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage* mutants
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
