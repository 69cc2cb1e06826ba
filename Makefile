# The targets of this project; `make demo` and `make test` need nothing but Python 3.9 to 3.12 and a package index.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DATA   ?= data
TEACHER ?= models/mobilenetv2-fashion.onnx
CLASSES ?= models/fashion-classes.txt
TRAIN  := $(DATA)/train-images-idx3-ubyte.gz
TEST   := $(DATA)/t10k-images-idx3-ubyte.gz
OUT    ?= build
THREADS ?= 0
RUNTIMES ?= wheel,onnxruntime,onnxruntime==1.17.3,reference

# What `make quantize train` do by default; CI gives a small slice.
BITS    ?= --weight-bits 4 --activation-bits 4
RECIPE  ?= --epochs 1 --flip --shift 2

.PHONY: install data cut quantize train demo test lint types bench latency results strangers verify accept accept-deploy docs clean

install: $(VENV)/installed
$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -c "import sys; sys.exit('Python 3.9 to 3.12 is needed (onnxruntime-training has no wheel for others); set PYTHON=') if not (3, 9) <= sys.version_info[:2] <= (3, 12) else None"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

data: $(DATA)/complete
$(DATA)/complete:
	$(PYTHON) scripts/get_data.py --to $(DATA)
	touch $@

$(OUT)/logits.onnx: install $(TEACHER)
	mkdir -p $(OUT)
	$(BIN)/onnx-distill cut $(TEACHER) -o $@ --logits MobilenetV2/Predictions/Reshape
cut: $(OUT)/logits.onnx

$(OUT)/student.qdq.onnx: $(OUT)/logits.onnx data
	$(BIN)/onnx-distill quantize $< --data $(TRAIN) $(BITS) --threads $(THREADS) -o $@
quantize: $(OUT)/student.qdq.onnx

train: $(OUT)/student.qdq.onnx
	$(BIN)/onnx-distill train $< --teacher $(TEACHER) --data $(TRAIN) $(RECIPE) --class-names $(CLASSES) --threads $(THREADS) --resume -o $(OUT)

# The main job on the real teacher: 4-bit weights and activations, one epoch.
demo: install data
	$(BIN)/onnx-distill run $(TEACHER) --data $(TRAIN) --test-data $(TEST) $(BITS) $(RECIPE) --class-names $(CLASSES) --threads $(THREADS) --resume -o $(OUT)/demo

# Test files side by side on all cores; `python -m pytest` runs them one by one.
test: install data
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# docs/performance.md, measured: a training step beside PyTorch's and the machine's limit; an hour on 2 cores.
bench: install $(VENV)-torch/installed
	$(BIN)/python benchmarks/training.py --torch-python $(VENV)-torch/bin/python
$(VENV)-torch/installed:
	$(PYTHON) -m venv $(VENV)-torch
	$(VENV)-torch/bin/pip install --quiet torch onnx numpy
	touch $@

# The latency tables of docs/performance.md: ours, float and quantize_static's; 20 minutes on 2 cores.
latency: install $(VENV)-deploy/installed
	$(BIN)/python benchmarks/latency.py --deploy-python $(VENV)-deploy/bin/python

# docs/results.md, measured: under an hour on 2 cores.
results: install data $(VENV)-deploy/installed
	$(BIN)/python benchmarks/results.py --deploy-python $(VENV)-deploy/bin/python

# docs/strangers.md, measured: networks that nobody here made; hours on 2 cores, kept row by row in runs/strangers. Wants data/photos and data/heldout,
# which scripts/photos_teacher.py and scripts/heldout_teacher.py make with PyTorch.
strangers: install data $(VENV)-deploy/installed
	$(BIN)/pip install --quiet --editable '.[accept]'
	$(BIN)/python benchmarks/strangers.py --deploy-python $(VENV)-deploy/bin/python --out docs/strangers.md

# The student of `make demo` under every runtime that can be installed here, on all test images.
verify: demo
	$(BIN)/onnx-distill verify $(OUT)/demo/student.int8.onnx --teacher $(TEACHER) --data $(TEST) --simulation $(OUT)/demo/trained.qdq.onnx --runtimes $(RUNTIMES)
$(VENV)-deploy/installed:
	$(PYTHON) -m venv $(VENV)-deploy
	$(VENV)-deploy/bin/pip install --quiet onnxruntime onnx numpy sympy
	touch $@

# Real classifiers the whole way: the nine that onnx ships, and the text-direction classifier of rapidocr on rendered lines.
accept: install
	$(BIN)/pip install --quiet --editable '.[accept]'
	$(BIN)/python scripts/acceptance_light.py --threads $(THREADS)
	$(BIN)/python scripts/acceptance_text.py --data $(DATA)/text -o runs/text -- --threads $(THREADS)

# What targets promise and whether runtimes agree, for docs/acceptance.md: half an hour on 2 cores, the students included.
accept-deploy: install data
	$(BIN)/pip install --quiet --editable '.[accept]'
	$(BIN)/python scripts/acceptance_targets.py --data $(DATA) --threads $(THREADS)
	$(BIN)/python scripts/acceptance_runtimes.py --data $(DATA) --text-data $(DATA)/text --threads $(THREADS)

# The pages that are made from the code.
docs: install
	$(BIN)/python scripts/make_cli_page.py > docs/cli.md
	$(BIN)/python scripts/make_targets_page.py
	$(BIN)/python scripts/make_operators_page.py

clean:
	rm -rf $(OUT) runs *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
