"""How long a job takes: seconds on GPUs, from a model's shape and the assumptions in config/costs.yaml.

A roofline: a pass takes the time of its multiplications or of reading its weights and caches, whichever is longer, and
some time to start the kernels of each layer. Attention's own multiplications are left out: prompts are short.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from cft.config import Experiment
from cft.costs import GB, Costs, JudgeCost
from cft.method_settings import FinetuneMethod
from cft.model_settings import ModelSettings
from cft.shapes import BYTES, Shape


class Job(NamedTuple):
    """A job as the functions below know it; a name is empty where the job has none."""

    experiment: Experiment
    costs: Costs
    model: ModelSettings
    shape: Shape
    method: str
    benchmark: str


def seconds(rule: str, job: Job) -> float | None:
    """How long a job holds its GPUs; None for a rule that needs none, and for a benchmark that is not counted."""
    work = WORK.get(rule)
    return None if work is None or not counted(job) else work(job)


def counted(job: Job) -> bool:
    """Whether config/costs.yaml has the prompts and tokens of the job's benchmark; true where it has none."""
    tokens = job.costs.tokens
    return not job.benchmark or (
        hasattr(job.costs.prompts, _prompts_key(job))
        and job.benchmark in tokens.prompt
        and job.benchmark in tokens.answer
    )


def steps_and_values(prompts: int, method: FinetuneMethod) -> tuple[int, int]:
    """Optimiser steps of a training run, and the values that it trains on."""
    each = prompts * method.draws
    steps, values = method.epochs * math.ceil(each / method.batch_size), method.epochs * each
    if method.max_steps is not None and method.max_steps < steps:
        return method.max_steps, min(values, method.max_steps * method.batch_size)
    return steps, values


def forward(job: Job, tokens: float, passes: float, logits: float, cached: float = 0, vllm: bool = False) -> float:
    """Seconds of forward passes.

    tokens   computed in all of them
    passes   how many; each reads all weights
    logits   rows of logits
    cached   tokens whose keys and values are read, summed over the tokens that read them
    vllm     whether vLLM runs them, whose kernels are started together
    """
    costs, dtype, shape = job.costs, job.model.dtype, job.shape
    flops = 2 * ((shape.active - shape.output_layer) * tokens + shape.output_layer * logits)
    read = passes * (shape.parameters - shape.other) * BYTES[dtype] + cached * shape.cache_bytes(dtype)
    limits = (
        flops / (costs.gpu.tflops * 1e12 * costs.reached.prefill),
        read / (costs.gpu.bandwidth_tb_s * 1e12 * costs.reached.decoding),
    )
    started = costs.overhead.step_ms if vllm else shape.layers * costs.overhead.layer_ms
    return max(limits) + passes * started / 1e3


def start(job: Job, vllm: bool = False) -> float:
    """Seconds until a job computes: the process, the weights from disk, vLLM's own start."""
    over = job.costs.overhead
    load = job.shape.weight_bytes(job.model.dtype) / GB / over.load_gb_s
    return over.start_s + (over.vllm_start_s + 2 * load if vllm else load)


def finetune(job: Job) -> float:
    """Forward, and backward through the frozen weights: 4 operations per weight and token, 6 with checkpointing."""
    costs, model, shape = job.costs, job.model, job.shape
    method = job.experiment.methods[job.method]
    assert isinstance(method, FinetuneMethod)
    steps, values = steps_and_values(costs.prompts.train, method)
    again = model.gradient_checkpointing
    prompt = costs.tokens.prompt["structured"] / method.draws_per_prompt
    tokens, labels = values * (prompt + costs.tokens.value - 1), values * costs.tokens.value
    adapter = 6 * shape.trainable(method.lora.rank, method.lora.targets) * tokens
    flops = (6 if again else 4) * (shape.active - shape.output_layer) * tokens + 4 * shape.output_layer * labels
    work = (flops + adapter) / (costs.gpu.tflops * 1e12 * costs.reached.training) / model.processes
    # Backward is twice the kernels of a pass.
    passes = steps * math.ceil(method.batch_size / model.processes / model.micro_batch) * (4 if again else 3)
    return start(job) + work + passes * shape.layers * costs.overhead.layer_ms / 1e3


def _prompts_key(job: Job) -> str:
    chosen = getattr(job.experiment.benchmarks.chosen()[job.benchmark], "prompts", job.benchmark)
    return job.benchmark if chosen == "upstream" else chosen


def prompts_of(job: Job) -> int:
    """The prompts of a benchmark that draws texts, and that is `counted`."""
    settings, key = job.experiment.benchmarks.chosen()[job.benchmark], _prompts_key(job)
    count = getattr(job.costs.prompts, key)
    splits = 2 if key == "novelty" else 1
    limit = getattr(settings, "limit", None)
    return count if limit is None else min(count, splits * limit)


def answer_tokens(job: Job) -> int:
    """The mean length of a draw, as a method that prompts changes it."""
    settings, method = job.experiment.benchmarks.chosen()[job.benchmark], job.experiment.methods[job.method]
    mean = job.costs.tokens.answer.get(method.kind, job.costs.tokens.answer[job.benchmark])
    return min(mean, getattr(method, "max_new_tokens", settings.max_new_tokens))


def sample(job: Job) -> float:
    """Each prompt once, then a token of every draw in each step."""
    settings = job.experiment.benchmarks.chosen()[job.benchmark]
    vllm = settings.engine == "vllm"
    prompts, length, answer = prompts_of(job), job.costs.tokens.prompt[job.benchmark], answer_tokens(job)
    draws = prompts * settings.draws
    fit = max(1, job.model.cache_tokens // (length + answer))
    rows = min(draws, job.costs.overhead.rows if vllm else fit)
    batches = max(1, math.ceil(prompts / rows))
    work = forward(job, prompts * length, batches, prompts, vllm=vllm)
    work += forward(
        job, draws * answer, draws * answer / rows, draws * answer, draws * answer * (length + answer / 2), vllm
    )
    return start(job, vllm) + work / ((job.model.vllm.tensor_parallel or max(1, job.model.gpus)) if vllm else 1)


def trie_seconds(job: Job, prompts: int, max_bins: int) -> float:
    """Walks of tries, a token of many prefixes in each pass."""
    length = job.costs.tokens.prompt["structured"]
    tokens = prompts * job.costs.law.tokens * min(1.0, max_bins / job.costs.law.values)
    rows = max(1, job.model.cache_tokens // (2 * length))
    passes = max(tokens / rows, prompts * job.costs.law.levels)
    return forward(job, prompts * length + tokens, prompts + passes, prompts + tokens, tokens * length)


def law(job: Job) -> float:
    """Seconds of the laws of a benchmark's prompts."""
    prompts = prompts_of(job)
    if job.benchmark == "structured":
        tokens, passes = prompts * job.costs.law.bounds, prompts * 2 * job.costs.law.levels
        bounds = forward(job, tokens, passes, tokens, tokens * job.costs.tokens.prompt["structured"])
        max_bins = job.experiment.benchmarks.chosen()["structured"].max_bins
        return start(job) + trie_seconds(job, prompts, max_bins) + bounds
    return start(job) + forward(job, prompts * job.costs.tokens.prompt[job.benchmark], prompts, prompts)


def temperature(job: Job) -> float:
    """Two grids of temperatures; each walks the tries of some training prompts once."""
    method = job.experiment.methods[job.method]
    prompts = job.costs.prompts.families * getattr(method, "prompts_per_family", 1)
    return start(job) + 2 * trie_seconds(job, prompts, getattr(method, "max_bins", job.costs.law.values))


def retention(job: Job) -> float:
    """Seconds of tinyBenchmarks: what is read, and answers to GSM8K."""
    settings, assumed = job.experiment.benchmarks.tinybenchmarks, job.costs.retention
    assert settings is not None
    vllm, answer = settings.engine == "vllm", min(assumed.answer, settings.max_new_tokens)
    rows = max(1, min(assumed.written, job.model.cache_tokens // (assumed.tokens + answer)))
    written = assumed.written * answer
    read = forward(job, assumed.items * assumed.tokens, assumed.items, assumed.items * assumed.answer, vllm=vllm)
    work = read + forward(job, written, written / rows, written, written * assumed.tokens, vllm)
    return start(job, vllm) + work


def perplexity(job: Job) -> float:
    """Seconds of PALOMA's windows."""
    settings, paloma = job.experiment.benchmarks.paloma, job.costs.paloma
    assert settings is not None
    scored = sum(paloma.slices.get(name, 0) for name in settings.slices)
    # Windows overlap: most tokens are computed once more as the context of the next.
    computed = scored * settings.context / settings.stride
    return start(job) + forward(job, computed, computed / job.model.window_tokens, scored)


def judge(job: Job) -> float:
    """Both judges read every answer: multiplications only, as their batches are large."""
    settings = job.experiment.benchmarks.novelty
    assert settings is not None
    costs, found, prompts = job.costs, job.costs.overhead.start_s, prompts_of(job._replace(benchmark="novelty"))
    for name in ("similarity", "reward"):
        cost: JudgeCost = getattr(costs.judges, name)
        texts = prompts * cost.pairs * settings.draws / 10
        flops = 2 * cost.parameters_b * 1e9 * cost.tokens * texts
        size = cost.parameters_b * BYTES[getattr(job.experiment.judges, name).dtype]
        found += flops / (costs.gpu.tflops * 1e12 * costs.reached.prefill) + size / costs.overhead.load_gb_s
    return found


WORK: dict[str, Callable[[Job], float]] = {
    "finetune": finetune,
    "sample": sample,
    "law": law,
    "temperature": temperature,
    "retention": retention,
    "perplexity": perplexity,
    "judge": judge,
}
