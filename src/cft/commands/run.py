"""Sub-commands that make what is measured: prompts, data, models, adapters, draws, laws, scores."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cft.commands import (
    Adapter,
    CacheTokens,
    Distributions,
    Families,
    ModelFolder,
    Out,
    Seed,
    Setting,
    Threads,
    UpstreamFiles,
    Vllm,
    app,
)  # fmt: skip


@app.command("benchmark-prompts")
def benchmark_prompts(
    benchmark: str,
    settings: Setting,
    out: Out,
    distributions: Distributions = Families,
    assets: Annotated[Path, typer.Option(help="the table of upstream files")] = UpstreamFiles,
    mirror: Annotated[Path | None, typer.Option(help="a folder that holds the upstream files")] = None,
    cache: Annotated[Path, typer.Option(help="where downloads are kept")] = Path("results/assets"),
) -> None:
    """Write the prompts of a benchmark."""
    from cft.assets import Assets
    from cft.benchmarks import load
    from cft.distributions import registry
    from cft.provenance import write_table
    from cft.settings import read_yaml

    module = load(benchmark)
    chosen = _benchmark_settings(benchmark, settings)
    frame = module.prompts(chosen, registry(distributions), Assets(read_yaml(assets), mirror, cache))
    write_table(frame, out, benchmark=benchmark, settings=chosen.model_dump())


@app.command()
def model(settings: Setting, out: Out) -> None:
    """Fetch, unpack or make a model; every other command loads it from the folder that this one writes."""
    from cft.config import ModelSource
    from cft.models import prepare
    from cft.settings import setting

    prepare(setting(ModelSource, settings), out)


@app.command()
def data(settings: Setting, seed: Seed, out: Out, distributions: Distributions = Families) -> None:
    """Write the ordered training examples of a method and seed."""
    from cft.config import FinetuneMethod
    from cft.data import write_data
    from cft.distributions import registry
    from cft.settings import setting

    write_data(registry(distributions), setting(FinetuneMethod, settings), seed, out)


@app.command()
def finetune(
    model: ModelFolder,
    data: Annotated[Path, typer.Option(help="a folder made by `cft data`")],
    settings: Setting,
    seed: Seed,
    out: Out,
    micro_batch: Annotated[int, typer.Option(min=1, help="values in one forward pass")] = 32,
    threads: Threads = 2,
) -> None:
    """Train an adapter; run again after a kill, it continues."""
    from cft.config import FinetuneMethod
    from cft.settings import setting
    from cft.train import finetune

    method = setting(FinetuneMethod, settings)
    _use_threads(threads)
    finetune(model, data, method, seed, micro_batch, out)


@app.command()
def sample(
    benchmark: str,
    settings: Setting,
    prompts: Annotated[Path, typer.Option(help="a file made by `cft benchmark-prompts`")],
    model: ModelFolder,
    seed: Seed,
    out: Out,
    adapter: Adapter = None,
    identity: Annotated[str, typer.Option(help="JSON object of further constant columns")] = "{}",
    cache_tokens: CacheTokens = 65536,
    vllm: Vllm = "{}",
    threads: Threads = 2,
) -> None:
    """Draw texts for every prompt of a benchmark."""
    from cft.config import VllmSettings
    from cft.generate import plan, sample
    from cft.provenance import read_table
    from cft.settings import setting

    chosen, how = _benchmark_settings(benchmark, settings), setting(VllmSettings, vllm)
    _use_threads(threads)
    job = plan(read_table(prompts, ["prompt_id", "prompt"]), chosen, seed, model, adapter, cache_tokens, how)
    sample(job, {**json.loads(identity), "benchmark": benchmark}, out)


@app.command()
def law(
    benchmark: str,
    settings: Setting,
    prompts: Annotated[Path, typer.Option(help="a file made by `cft benchmark-prompts`")],
    model: ModelFolder,
    out: Out,
    adapter: Adapter = None,
    identity: Annotated[str, typer.Option(help="JSON object of further constant columns")] = "{}",
    cache_tokens: CacheTokens = 65536,
    threads: Threads = 2,
    distributions: Distributions = Families,
) -> None:
    """Compute a model's own law on every prompt of a benchmark, without draws."""
    from cft.distributions import registry
    from cft.law import write_law
    from cft.provenance import read_table

    chosen = _benchmark_settings(benchmark, settings)
    _use_threads(threads)
    frame = read_table(prompts, ["prompt_id", "prompt"])
    write_law(chosen, frame, registry(distributions), model, adapter, json.loads(identity), cache_tokens, out)


@app.command()
def score(
    benchmark: str,
    draws: Path,
    law: Annotated[Path | None, typer.Option(help="a file made by `cft law`")] = None,
    out: Annotated[Path | None, typer.Option(help="write tidy scores here instead of printing a summary")] = None,
    distributions: Distributions = Families,
) -> None:
    """Score a file of draws (.jsonl or .parquet): print a summary as JSON, or write tidy scores."""
    from cft.benchmarks import load, read_draws
    from cft.distributions import registry
    from cft.provenance import read_table, write_table

    module = load(benchmark)
    frame = read_draws(draws, benchmark)
    if out is None:
        print(json.dumps(module.summary(frame, registry(distributions)), indent=2))
        return
    scores = module.score(frame, read_table(law, ["prompt_id"]) if law else None, registry(distributions))
    for position, column in enumerate(("model", "method", "seed", "benchmark")):
        scores.insert(position, column, frame[column].iloc[0])
    write_table(scores, out, draws=str(draws), law=str(law) if law else None)


def _benchmark_settings(benchmark: str, text: str) -> Any:
    """Settings of a benchmark from the command line; raises CftError for an unknown one."""
    from cft.benchmarks import load
    from cft.config import Benchmarks
    from cft.settings import setting

    load(benchmark)
    return setting(Benchmarks.model_fields[benchmark].annotation, text)


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
