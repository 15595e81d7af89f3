# Every target sets up what it needs: `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The locks name every package: --no-deps installs just those. pip's resolver would look at a newer
# version of what a package asks for with an extra, and refuse it for want of a hash.
# What is never imported is never compiled, and the rest when it is.
PIP := -m pip install --quiet --disable-pip-version-check --no-compile --no-deps
LOCK := --require-hashes -r
# onnxruntime phones home from its first import on, unless it is told not to.
export ORT_DISABLE_TELEMETRY := 1

.PHONY: help setup demo test test-fast test-long test-serve test-engines test-mlflow test-prefect test-deploy image-test image-size pin-images night audit sbom notices bench-serving fuzz simulate trouble soak gpu gpu-pack check docs docs-reference proto proto-release lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready  ## install everything, pinned and hashed, into .venv

$(VENV)/.ready: requirements/dev.txt requirements/peers.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) $(LOCK) requirements/dev.txt
	$(BIN)/python $(PIP) $(LOCK) requirements/peers.txt
	$(BIN)/python $(PIP) --no-build-isolation --editable .
	touch $@

demo: setup  ## the whole road on drawn photos: draw, train, release, serve, classify
	$(BIN)/hansang demo

test: setup  ## every test but the long ones, four files at a time: most of them wait for processes of their own
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

# What starts no training and hardly a process: 35 s of CPU for over 300 tests.
FAST_TESTS := $(addprefix tests/, test_storage.py flows/local flows/release_gate/test_changes.py \
  flows/release_gate/test_gate.py flows/tasks/test_links.py service/batching service/pixels \
  service/client/test_retries.py service/models/test_metadata.py service/observability/test_metrics.py \
  service/server/test_server.py training/data training/evaluation training/finetuning/test_strategies.py \
  training/loop/test_learning.py training/loop/test_optimizer.py training/model training/tuning/test_tuning_space.py)
test-fast: setup  ## over 300 quick tests in under a minute, for each save
	$(BIN)/python -m pytest -n 2 --dist loadfile $(FAST_TESTS)

test-long: setup  ## tests of minutes each on a slow machine, which `make test` leaves out
	$(BIN)/python -m pytest -n 2 --dist loadfile -m long

# What bears trouble does so with torch at hand, too: it is in `make test` only.
SERVE_TESTS := $(addprefix tests/service/, api cli http pixels client/test_client.py client/test_bulk.py \
  client/test_retries.py models/test_metadata.py models/test_repository.py models/test_repository_kills.py \
  observability/test_metrics.py server/test_server.py)
test-serve: $(VENV)-serve/.ready  ## the service's tests where no torch is installed
	$(VENV)-serve/bin/python -m pytest $(SERVE_TESTS)

$(VENV)-serve/.ready: requirements/serve.txt requirements/serve-test.txt
	test -x $(VENV)-serve/bin/python || $(PYTHON) -m venv $(VENV)-serve
	$(VENV)-serve/bin/python $(PIP) $(LOCK) requirements/serve-test.txt
	touch $@

# Nothing but what serves, and the two engines.
test-engines: $(VENV)-serve/.engines  ## offline classification on Dask and Ray, with workers killed
	$(VENV)-serve/bin/python -m pytest tests/service/offline

$(VENV)-serve/.engines: $(VENV)-serve/.ready requirements/dask.txt requirements/ray.txt
	for engine in dask ray; do \
	  $(VENV)-serve/bin/python $(PIP) $(LOCK) requirements/$$engine.txt || exit 1; done
	touch $@

test-mlflow: setup $(VENV)-mlflow/.ready  ## runs sent to a real MLflow server on SQLite
	HANSANG_MLFLOW=$(VENV)-mlflow/bin/mlflow $(BIN)/python -m pytest -m "" tests/training/reports/test_tracking.py

$(VENV)-mlflow/.ready: requirements/mlflow-server.txt
	test -x $(VENV)-mlflow/bin/python || $(PYTHON) -m venv $(VENV)-mlflow
	$(VENV)-mlflow/bin/python $(PIP) $(LOCK) requirements/mlflow-server.txt
	touch $@

test-deploy: setup $(VENV)-deploy/.ready  ## what needs tools: manifests, Envoy, object storage
	PATH="$(CURDIR)/$(VENV)-deploy/bin:$$PATH" $(BIN)/python -m pytest -m "" $(addprefix tests/, service/deploy service/offline training/buckets \
	  service/models/test_bucket.py service/client/test_balancing.py service/observability/test_monitoring.py flows/test_bucket.py flows/pruning/test_photos.py)

image-test: setup $(VENV)-deploy/.ready  ## build the images and look at them; needs a Docker engine
	PATH="$$PATH:$(CURDIR)/$(VENV)-deploy/bin" PYTHON=$(BIN)/python deploy/image_test.sh

image-size: setup  ## what the image serve-cpu weighs, added up where no Docker engine is
	$(BIN)/python deploy/image_size.py build/image

pin-images:  ## pin the images that Compose takes from others by digest, in .env; needs a Docker engine
	deploy/pin_images.sh

SBOM ?= build/sbom
sbom: $(VENV)-deploy/.ready  ## what the images hold, as CycloneDX: build/sbom/
	mkdir -p $(SBOM)
	@# Each image installs two locks; what is in both is in one version, and told once.
	for role in serve-cpu serve train; do \
	  lock=$$role; [ $$role != serve-cpu ] || lock=serve-openvino; \
	  awk '/^[^ ]/ { new = !seen[$$1]++ } new' requirements/$$lock.txt requirements/otel.txt \
	    | $(VENV)-deploy/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
	      -o $(SBOM)/$$role.json - || exit 1; done

notices: setup sbom  ## third-party notices of what the images hold: build/sbom/*.md
	for role in serve-cpu serve train; do \
	  $(BIN)/python deploy/notices.py $(SBOM)/$$role.json > $(SBOM)/$$role.md || exit 1; done

$(VENV)-deploy/.ready: requirements/deploy.txt
	test -x $(VENV)-deploy/bin/python || $(PYTHON) -m venv $(VENV)-deploy
	$(VENV)-deploy/bin/python $(PIP) $(LOCK) requirements/deploy.txt
	touch $@

test-prefect: setup $(VENV)-deploy/.ready  ## runs killed in every way, with a real server and workers, and PostgreSQL: 20 minutes
	HANSANG_TEST_PREFECT=1 PATH="$(CURDIR)/$(VENV)-deploy/bin:$$PATH" $(BIN)/python -m pytest tests/flows/prefect_setup tests/flows/release_gate/test_kills.py -v

night: test-long test-prefect test-deploy test-engines test-mlflow fuzz  ## all that `make test` leaves out, two or three hours; also image-test where Docker is
	if docker info >/dev/null 2>&1; then $(MAKE) --no-print-directory image-test; else \
	  echo "night: no Docker engine answers; the images were not built" >&2; fi

audit: $(VENV)-deploy/.ready  ## known faults of all pinned packages, from PyPI's database
	for lock in requirements/*.txt; do echo "$$lock"; \
	  $(VENV)-deploy/bin/pip-audit --strict --disable-pip --require-hashes -r $$lock || exit 1; done

SIMULATE ?= --calls 1e8 --first $$(date +%s)
simulate: setup  ## the server in virtual time: a hundred million calls, or one seed again with SEED=…
	$(BIN)/python -m tests.service.simulation $(if $(SEED),--seed $(SEED),$(SIMULATE))

# Minutes for each target; what it found is in build/fuzz/TARGET/crash-*, and the rest of the corpus
# is where the next night goes on.
MINUTES ?= 10
FUZZED ?= image exif tensor config stream body
fuzz: $(VENV)-serve/.fuzz  ## fuzz all that reads what callers send: FUZZED="image body" MINUTES=3
	@found=0; for target in $(FUZZED); do \
	  $(VENV)-serve/bin/python -m tests.fuzz.run $$target $(MINUTES) build/fuzz/$$target || found=1; \
	done; exit $$found

$(VENV)-serve/.fuzz: requirements/fuzz.txt $(VENV)-serve/.ready
	$(VENV)-serve/bin/python $(PIP) $(LOCK) requirements/fuzz.txt
	touch $@

trouble: setup  ## drains, swaps, overload, bad images and hostile calls at length, with their figures as JSON
	@# Both, whether or not the first one holds.
	held=0; $(BIN)/python -m benchmarks.trouble drain swap overload fuzz hostile || held=1; \
	  $(BIN)/python -m benchmarks.trouble --http drain swap overload fuzz || held=1; exit $$held

BENCHES := $(addprefix $(VENV)-, bench bench-mlserver bench-bentoml)
bench-serving: setup $(addsuffix /.ready, $(BENCHES))  ## serving against its limit, LitServe, mosec, MLServer, BentoML and plain grpc
	$(BIN)/python -m benchmarks.serving --peers $(VENV)-bench

$(addsuffix /.ready, $(BENCHES)): $(VENV)-%/.ready: requirements/%.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) $(LOCK) $<
	touch $@

soak: setup  ## half an hour of everything at once; memory, threads and files must stay flat
	$(BIN)/python -m benchmarks.soak --minutes 30

DEVICE ?= cuda
# A rehearsal on a CPU runs in what a bare CUDA machine has, and no more.
GPU := PYTHONPATH=$(if $(filter cpu,$(DEVICE)),benchmarks/bare:).$(if $(PYTHONPATH),:$(PYTHONPATH)) $(BIN)/python

gpu: setup  ## all that a GPU is asked, in one call of 8 minutes; DEVICE=cpu rehearses it (docs/guides/gpu.md)
	$(GPU) benchmarks/gpu.py --device $(DEVICE)

ARCH ?= 90
gpu-pack: setup  ## what a bare GPU machine lacks, in build/gpu-pack; ARCH=90 for an H100 (docs/guides/gpu.md)
	$(BIN)/python benchmarks/gpu_pack.py --arch $(ARCH)

check: setup  ## lint, types, architecture, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	rm -rf build/proto && $(MAKE) --no-print-directory proto OUT=build/proto
	diff -r -x '*.py[co]' -x __pycache__ build/proto/service/pb service/pb
	$(PROTOS) --descriptor_set_out=build/proto/now.binpb
	$(BIN)/python proto/breaking.py proto/released.binpb build/proto/now.binpb
	$(BIN)/python docs/generate.py --check

docs: setup  ## the documentation as a site, its links checked: build/site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

docs-reference: setup  ## write docs/reference from the code
	$(BIN)/python docs/generate.py

PROTOS := $(BIN)/python -m grpc_tools.protoc -I proto --include_imports hansang/v1/classifier.proto inference/inference.proto
proto-release: setup  ## make the protos as they are what clients have: proto/released.binpb
	$(PROTOS) --descriptor_set_out=proto/released.binpb

OUT ?= .
proto: setup  ## generate service/pb from proto/
	mkdir -p $(OUT)
	@# The virtual path makes the generated imports resolve as service.pb.
	$(BIN)/python -m grpc_tools.protoc -I service/pb=proto/hansang/v1 -I service/pb=proto/inference \
	  -I proto \
	  --python_out=$(OUT) --pyi_out=$(OUT) --grpc_python_out=$(OUT) \
	  service/pb/classifier.proto service/pb/inference.proto

lock:  ## resolve requirements/*.in again into hashed locks (needs uv)
	cd requirements && for role in dev train serve serve-cpu serve-openvino serve-test otel mlflow dask ray heif fuzz; do \
	  uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    $$( [ $$role = dev ] || echo -c dev.txt ) -o $$role.txt $$role.in || exit 1; done
	cd requirements && uv pip compile --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-deps -o peers.txt peers.in
	cd requirements && uv pip compile --python-platform x86_64-manylinux_2_28 --python-version 3.12 \
	    --generate-hashes --no-emit-index-url --no-deps -c dev.txt -o gpu.txt gpu.in
	cd requirements && uv pip compile --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url -o mlflow-server.txt mlflow-server.in
	cd requirements && uv pip compile --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url -o deploy.txt deploy.in
	cd requirements && for role in bench bench-mlserver bench-bentoml; do \
	  uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    -o $$role.txt $$role.in || exit 1; done

clean:  ## remove what is built here; photos, runs and models stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
