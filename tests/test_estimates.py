"""Time: operations as torch counts them, steps as the paper has them; assumptions that can be counted."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from test_memory import adapted, micro
from torch.utils.flop_counter import FlopCounterMode

from cft import CftError
from cft.batches import batch_loss
from cft.benchmark_settings import Benchmarks, McqBenchmark
from cft.benchmarks import novelty, open_ended
from cft.costs import Costs, read_costs
from cft.estimates import Job, forward, perplexity, prompts_of, seconds, steps_and_values
from cft.memory import MicroBatch
from cft.settings import check
from cft.target import make_target

ROOT = Path(__file__).resolve().parents[1]
COSTS = read_costs(ROOT / "config" / "costs.yaml")
pytestmark = pytest.mark.usefixtures("one_thread")


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
        batch_loss(model, micro(batch)).backward()
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


def test_prompts_are_counted_of_benchmarks_only(monkeypatch):
    values = COSTS.model_dump()
    values["prompts"]["roulette"] = 6
    with pytest.raises(CftError, match=r"prompts: unknown key roulette; it is no benchmark"):
        check(Costs, values, "costs.yaml")

    class More(Benchmarks):
        roulette: McqBenchmark | None = None

    monkeypatch.setattr("cft.costs.Benchmarks", More)
    assert check(Costs, values, "costs.yaml").model_dump()["prompts"]["roulette"] == 6
