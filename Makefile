# `make demo` and `make test` are all a newcomer needs; both set up .venv themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Two workers of one thread each use both cores of a small machine; -n 0 runs the tests in this process.
WORKERS ?= 2
# In the virtual environment where the machine has none.
CMAKE  := PATH="$(abspath $(BIN)):$$PATH" cmake
# With NDSNN_NO_NATIVE=1 there is no native engine to build or to check.
NATIVE := $(if $(filter-out 0,$(NDSNN_NO_NATIVE)),,yes)
CSRC   := $(wildcard csrc/*.h csrc/*.cpp csrc/kernels/*.h csrc/kernels/*.cpp)
# With LOCKED=1, exactly the files of this list are installed; without, whatever pyproject.toml admits.
LOCK   := .ci/requirements.lock
LOCKED ?= 0
PINNED := $(filter-out 0,$(LOCKED))
# Fuzzing by coverage and ThreadSanitizer take Clang, and LLVM's OpenMP.
CLANG  ?= $(firstword $(foreach name,clang++ clang++-19 clang++-18 clang++-17 clang++-16,$(shell command -v $(name))) none)
CLANG_LIBRARY = $(shell $(CLANG) -print-file-name=libclang_rt.$(1)-$(shell uname -m).so)
MINUTES ?= 10

.PHONY: demo test lint format types unit sanitize fuzz tsan native bench docs lock clean

demo: $(VENV)/.installed-demo
	$(BIN)/ndsnn train --output runs/demo --overwrite true
	$(BIN)/ndsnn inspect runs/demo

test: lint types $(if $(NATIVE),sanitize) unit

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CSRC)

types: $(VENV)/.installed-test
	$(BIN)/mypy

unit: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# The tests marked `sanitize`, on a build of the native engine that stops at the first access out of bounds or
# undefined operation. Python itself is not built like that, so the libraries of the sanitizers are loaded before it.
sanitize: $(VENV)/.installed-test
	$(CMAKE) -S . -B build/sanitize -DCMAKE_BUILD_TYPE=Sanitize -DPython_EXECUTABLE=$(abspath $(BIN)/python) >/dev/null
	$(CMAKE) --build build/sanitize --parallel $(WORKERS) >/dev/null
	module=$$(echo $(CURDIR)/build/sanitize/_native*.so) && \
	LD_PRELOAD="$$(ldd $$module | awk '/lib(asan|ubsan)/ { print $$3 }' | xargs)" NDSNN_NATIVE_MODULE=$$module \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=2 \
	$(BIN)/python -m pytest -q -m sanitize --capture=no tests/engine tests/fuzz

# Readers of files and every function of the native engine, fed with what a fuzzer makes of good inputs, for MINUTES.
fuzz: $(VENV)/.installed-fuzz $(VENV)/.installed-test
	$(CMAKE) -S . -B build/fuzz -DCMAKE_BUILD_TYPE=Fuzz -DCMAKE_CXX_COMPILER=$(CLANG) -DPython_EXECUTABLE=$(abspath $(BIN)/python) >/dev/null
	$(CMAKE) --build build/fuzz --parallel $(WORKERS) >/dev/null
	$(BIN)/python tests/fuzz/fuzz.py --minutes $(MINUTES) --native-module $$(echo $(CURDIR)/build/fuzz/_native*.so) \
	--native-preload $$($(BIN)/python -c 'import atheris; print(atheris.path())')/asan_with_fuzzer.so

# The kernels with four threads under ThreadSanitizer. Archer tells it how OpenMP orders what the threads do.
tsan: $(VENV)/.installed-test
	$(CMAKE) -S . -B build/tsan -DCMAKE_BUILD_TYPE=Thread -DCMAKE_CXX_COMPILER=$(CLANG) -DPython_EXECUTABLE=$(abspath $(BIN)/python) >/dev/null
	$(CMAKE) --build build/tsan --parallel $(WORKERS) >/dev/null
	LD_PRELOAD=$(call CLANG_LIBRARY,tsan) NDSNN_NATIVE_MODULE=$$(echo $(CURDIR)/build/tsan/_native*.so) OMP_NUM_THREADS=4 \
	OMP_TOOL_LIBRARIES=$(shell $(CLANG) -print-file-name=libarcher.so) TSAN_OPTIONS=ignore_noninstrumented_modules=1:allocator_may_return_null=1 \
	setarch -R $(BIN)/python tests/fuzz/threads.py

# Compiles what changed in csrc and puts it into the editable install, with the compiler's warnings on view.
native: $(VENV)/.build-requirements
	$(BIN)/python -m pip install --verbose --no-build-isolation --no-deps --editable .

format: $(VENV)/.installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(CSRC)

bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/augmentation.py

# The documentation site in site/, to be opened from the disk: site/index.html. Building it needs no network.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ndsnn needs Python 3.11 or newer; say make PYTHON=python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

# What CI installs, chosen anew from what pyproject.toml admits. Names of files only, no addresses.
lock:
	$(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install --quiet uv
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' >build/lock/build.in
	build/lock/bin/uv pip compile pyproject.toml build/lock/build.in --extra test --extra fuzz --generate-hashes --quiet --upgrade \
	--python-version 3.11.7 --python-platform x86_64-manylinux_2_36 --no-header --no-annotate --no-emit-index-url -o build/lock/pins
	(head -1 $(LOCK); cat build/lock/pins) >build/lock/new && mv build/lock/new $(LOCK)

# What pyproject.toml asks for, then cmake and ninja where the machine lacks them.
$(VENV)/.build-requirements: pyproject.toml $(VENV)/.created $(if $(PINNED),$(LOCK))
	$(if $(PINNED),$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement $(LOCK))
	$(BIN)/python -m pip install --quiet $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])')
	tools=$$($(BIN)/python -c 'from scikit_build_core.build import get_requires_for_build_editable as tools; print(*tools())') && \
	{ [ -z "$$tools" ] || $(BIN)/python -m pip install --quiet $$tools; }
	touch $@

# An extra is installed again only when pyproject.toml or the native engine changes. Without build isolation, nanobind
# stays where the build directory knows it, and only the sources that changed are compiled again.
$(VENV)/.installed-%: pyproject.toml CMakeLists.txt $(CSRC) $(VENV)/.build-requirements
	$(BIN)/python -m pip install --quiet --no-build-isolation $(if $(PINNED),--no-deps) --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis runs site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
