# Every target makes .venv in this checkout when it is missing, with the exact versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin

EXTRAS_demo := demo
EXTRAS_lint := dev
EXTRAS_docs := docs
EXTRAS_test := dev,peer,demo,peft,faiss,usearch,images,phrases,distill,tensorboard,wandb,mlflow,plots,onnx,openvino,serve
EXTRAS_newest := dev,peer,demo,peft,tensorboard,wandb,mlflow
EXTRAS_bench := peer,demo,peft,onnx,openvino,serve

# No model hub, no usage report, no cluster that happens to run on this machine.
export HF_HUB_OFFLINE := 1
export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help demo check test test-newest test-long test-gpu lint docs format bench bench-sampler bench-stream bench-first-step bench-train bench-evaluators bench-encode bench-serve bench-backends bench-architectures bench-mine bench-startup bench-weights bench-bf16 bench-gpu bench-search bench-search-scale bench-hpo bench-faults clean

help: ## say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: .venv/.installed-demo ## fine-tune all-MiniLM-L6-v2 to search API documentation, on two workers
	RAY_ADDRESS=local $(BIN)/python examples/demo.py

check: .venv/.installed-test lint ## before a commit: lint, types, and the tests that start no Ray and aren't slow; 6 minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -q -m "not ray and not slow and not long" $(ARGS)

test: .venv/.installed-test lint docs ## lint, types, documentation, and all tests but the long ones
	RAY_ADDRESS=local OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not long" $(ARGS)

test-newest: ## the core's tests with the newest releases in range, in an environment of their own; says what breaks
	$(PYTHON) -m venv .venv-newest
	grep '^torch==' constraints.txt > .venv-newest/torch.txt # a plain torch would bring gigabytes of CUDA
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -c .venv-newest/torch.txt -e '.[$(EXTRAS_newest)]'
	OMP_NUM_THREADS=1 .venv-newest/bin/python tests/newest.py

test-long: .venv/.installed-test ## the long tests: processes are killed and runs go on
	RAY_ADDRESS=local OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long $(ARGS)

# With the Python of a machine that has a GPU, and its releases of torch and transformers; Ray may be missing.
test-gpu: ## the tests that need a GPU, in $(PYTHON)'s environment; 8 minutes on one GPU
	PYTHONPATH=$(CURDIR) $(PYTHON) -m pytest -m gpu -W default tests/gpu $(ARGS)

lint: .venv/.installed-lint ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/.installed-docs ## build the documentation into build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: .venv/.installed-lint ## put the code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.installed-bench ## compare with the peer; see benchmarks/README.md
	RAY_ADDRESS=local $(BIN)/python benchmarks/run.py

bench-sampler: .venv/.installed-bench ## rows planned a second, beside the peer
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/sampler.py

bench-stream: .venv/.installed-bench ## data larger than the object store: rates, memory, waiting
	RAY_ADDRESS=local $(BIN)/python benchmarks/stream.py epoch --rows 100000 1000000

bench-first-step: .venv/.installed-bench ## from train() to the first step, by rows and token cache
	RAY_ADDRESS=local $(BIN)/python benchmarks/first_step.py --rows 1000 100000 1000000 --rounds 1 --peer

# These read real texts: DATA is a folder with stsb/, sick/ and trecqa/.
DATA ?= ../shared/data

bench-train: .venv/.installed-bench ## samples a second in training, beside the peer
	RAY_ADDRESS=local $(BIN)/python benchmarks/train_throughput.py --rows $(DATA)/stsb/train.csv $(DATA)/trecqa/train.csv

bench-evaluators: .venv/.installed-bench ## figures of every evaluator, beside the peer's
	$(BIN)/python benchmarks/evaluators.py --data $(DATA)
	$(BIN)/python benchmarks/evaluate.py --rows $(DATA)/stsb/*.csv $(DATA)/sick/SICK_*.txt $(DATA)/trecqa/*.csv

bench-encode: .venv/.installed-bench ## texts a second, one process and two, beside the peer
	RAY_ADDRESS=local $(BIN)/python benchmarks/encode.py --rows $(DATA)/stsb/train.csv $(DATA)/trecqa/dev.csv

bench-serve: .venv/.installed-bench ## requests a second to a served model, and what is lost when a replica is killed
	RAY_ADDRESS=local OMP_NUM_THREADS=1 $(BIN)/python benchmarks/serve.py --rows $(DATA)/stsb/train.csv

bench-architectures: .venv/.installed-bench ## training and encoding on ten architectures, beside the peer
	$(BIN)/python benchmarks/architectures.py --rows $(DATA)/stsb/train.csv $(DATA)/trecqa/dev.csv

bench-backends: .venv/.installed-bench ## texts a second: torch, ONNX and OpenVINO, float and int8, beside the peer's torch
	$(BIN)/python benchmarks/backends.py --data $(DATA)

bench-mine: .venv/.installed-bench ## mining hard negatives over 100 thousand pairs, beside the peer
	$(BIN)/python benchmarks/mine.py

bench-startup: .venv/.installed-bench ## from train() to the first step, beside a bare TorchTrainer
	RAY_ADDRESS=local $(BIN)/python benchmarks/startup.py

bench-weights: .venv/.installed-bench ## memory, bytes and waiting that weights cost on their way
	$(BIN)/python benchmarks/weights.py

bench-bf16: .venv/.installed-bench ## a folder in bfloat16, trained beside float32 and beside no float32 masters
	$(BIN)/python benchmarks/bf16_folder.py --train $(DATA)/stsb/train.csv --test $(DATA)/stsb/test.csv

bench-gpu: ## what a GPU does with models of real shapes, in $(PYTHON)'s environment, without Ray
	for what in encode train loss start ingest search; do PYTHONPATH=$(CURDIR) $(PYTHON) benchmarks/gpu.py $$what --json || exit 1; done

bench-search: .venv/.installed-bench ## what a trial costs beyond its training
	RAY_ADDRESS=local $(BIN)/python benchmarks/search.py

bench-search-scale: .venv/.installed-bench ## 512 trials over 64 pretended GPUs on 8 nodes: idle slots, the driver's share of a core
	for what in "asha" "halving" "asha --gpu 0.5 --nodes 4"; do RAY_ADDRESS= OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR) $(BIN)/python benchmarks/search_scale.py --scheduler $$what || exit 1; done

bench-hpo: .venv/.installed-bench ## searches over four tasks, beside the peer's and random search; hours, goes on where it was
	RAY_ADDRESS=local $(BIN)/python benchmarks/hpo.py search --data $(DATA)

bench-faults: .venv/.installed-bench ## 20 minutes of faults, one every 3: the share of the time in which training went on
	RAY_ADDRESS= OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR) $(BIN)/python tests/faults/steady.py --folder build/faults --elastic

clean: ## remove the environment, outputs and caches
	rm -rf .venv build outputs .mypy_cache .pytest_cache .ruff_cache

# One stamp for each set of extras; what one needs and another has is not installed twice.
.venv/.installed-%: pyproject.toml constraints.txt | .venv/pyvenv.cfg
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS_$*)]'
	@touch $@

.venv/pyvenv.cfg:
	$(PYTHON) -m venv .venv
