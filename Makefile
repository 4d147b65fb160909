# make demo and make test do all their own set-up: they need Python 3.10+ with venv, and make.
PYTHON ?= python3
REQUIRE ?=
DEMO := .venv-demo
DEV := .venv

.PHONY: demo test check typecheck-tensorrt bench clean

demo: $(DEMO)/installed
	$(DEMO)/bin/qharness demo

test: $(DEV)/installed check
	$(DEV)/bin/python -m pytest --cov --cov-fail-under=90 $(if $(REQUIRE),--require=$(REQUIRE))

check: $(DEV)/installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy
	$(MAKE) typecheck-tensorrt

# The packages are checked against the newest of the three sets of signatures; what wraps TensorRT against all.
typecheck-tensorrt: $(DEV)/installed
	for version in 8.6 10.16 11.4; do \
	  MYPYPATH=stubs/tensorrt-$$version $(DEV)/bin/mypy --cache-dir .mypy_cache/tensorrt-$$version -p engines.trt || exit 1; \
	done

bench: $(DEV)/installed
	$(DEV)/bin/python -m benchmarks

$(DEMO)/installed: pyproject.toml
	$(PYTHON) -m venv --clear $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet --editable '.[cpu]'
	touch $@

$(DEV)/installed: pyproject.toml
	$(PYTHON) -m venv --clear $(DEV)
	$(DEV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(DEMO) $(DEV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
