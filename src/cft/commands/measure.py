"""Sub-commands of single benchmarks and methods: judges, retention, perplexity, instructions, temperatures; scores."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cft.commands import (
    Adapter,
    AssetCache,
    CacheTokens,
    Distributions,
    Downloads,
    Families,
    Identity,
    Mirror,
    ModelFolder,
    Out,
    OutFolder,
    OutTable,
    Prompts,
    Replace,
    Setting,
    Threads,
    UpstreamFiles,
    UpstreamTable,
    Vllm,
    app,
    parquet,
    upstream,
    use_threads,
)


@app.command()
def instructions(
    settings: Setting,
    out: Out,
    assets: UpstreamTable = UpstreamFiles,
    mirror: Mirror = None,
    cache: AssetCache = Downloads,
) -> None:
    """Write what a prompting method tells the model before the question."""
    from cft.method_settings import PromptingMethod
    from cft.prompting import write_instructions
    from cft.settings import setting

    write_instructions(setting(PromptingMethod, settings), upstream(assets, mirror, cache), out)


@app.command()
def temperature(
    settings: Setting,
    model: ModelFolder,
    out: Out,
    cache_tokens: CacheTokens = 65536,
    threads: Threads = 2,
    distributions: Distributions = Families,
) -> None:
    """Find the temperature at which an untouched model is closest to the targets of training prompts."""
    from cft.distributions import registry
    from cft.method_settings import TemperatureMethod
    from cft.settings import setting
    from cft.temperature import fit

    method = setting(TemperatureMethod, settings)
    use_threads(threads)
    fit(method, registry(distributions), model, cache_tokens, out)


@app.command()
def judge(
    draws: Path,
    prompts: Prompts,
    similarity: Annotated[Path, typer.Option(help="the judge of sameness, made by `cft model`")],
    reward: Annotated[Path, typer.Option(help="the judge of quality, made by `cft model`")],
    out: OutTable,
    similarity_tokens: Annotated[int, typer.Option(min=1, help="tokens in one forward pass")] = 16384,
    reward_tokens: Annotated[int, typer.Option(min=1, help="tokens in one forward pass")] = 16384,
    threads: Threads = 2,
) -> None:
    """Judge draws of NoveltyBench: which answers say the same, and how good each is."""
    from cft.benchmarks import read_draws
    from cft.judges import judge
    from cft.provenance import read_table

    use_threads(threads)
    frame = read_draws(draws, "novelty")
    judge(
        frame, read_table(prompts, ["prompt_id", "prompt"]), similarity, reward, similarity_tokens, reward_tokens, out
    )


@app.command()
def retention(
    settings: Setting,
    prompts: Prompts,
    model: ModelFolder,
    out: OutTable,
    adapter: Adapter = None,
    identity: Identity = "{}",
    cache_tokens: CacheTokens = 65536,
    vllm: Vllm = "{}",
    threads: Threads = 2,
) -> None:
    """Let a model answer the items of tinyBenchmarks."""
    from cft.benchmark_settings import TinyBenchmarks
    from cft.model_settings import VllmSettings
    from cft.provenance import read_table
    from cft.retention import measure
    from cft.settings import setting

    chosen, how = setting(TinyBenchmarks, settings), setting(VllmSettings, vllm)
    use_threads(threads)
    columns = {**setting(dict[str, Any], identity), "benchmark": "tinybenchmarks"}
    measure(chosen, read_table(prompts, ["prompt_id", "row"]), model, adapter, cache_tokens, how, columns, out)


@app.command()
def irt(
    settings: Setting,
    out: OutTable,
    assets: UpstreamTable = UpstreamFiles,
    mirror: Mirror = None,
    cache: AssetCache = Downloads,
) -> None:
    """Write the item parameters behind the estimates of tinyBenchmarks."""
    from cft.benchmark_settings import TinyBenchmarks
    from cft.benchmarks.tinybenchmarks import parameters
    from cft.provenance import write_table
    from cft.settings import setting

    chosen = setting(TinyBenchmarks, settings)
    write_table(parameters(chosen, upstream(assets, mirror, cache)), out, data=chosen.data)


@app.command()
def corpus(
    settings: Setting,
    out: OutFolder,
    assets: UpstreamTable = UpstreamFiles,
    mirror: Mirror = None,
    cache: AssetCache = Downloads,
    replace: Replace = False,
) -> None:
    """Fetch or make the texts of PALOMA, and list them."""
    from cft.benchmark_settings import PalomaBenchmark
    from cft.corpus import write_corpus
    from cft.provenance import only_ours
    from cft.settings import setting

    only_ours(out, replace)

    write_corpus(setting(PalomaBenchmark, settings), upstream(assets, mirror, cache), out)


@app.command()
def perplexity(
    settings: Setting,
    corpus: Annotated[Path, typer.Option(help="a folder made by `cft corpus`")],
    model: ModelFolder,
    out: OutTable,
    adapter: Adapter = None,
    identity: Identity = "{}",
    window_tokens: Annotated[int, typer.Option(min=1, help="tokens in one forward pass")] = 16384,
    threads: Threads = 2,
) -> None:
    """Measure how well a model predicts the texts of PALOMA."""
    from cft.benchmark_settings import PalomaBenchmark
    from cft.perplexity import measure
    from cft.settings import setting

    chosen = setting(PalomaBenchmark, settings)
    use_threads(threads)
    columns = {**setting(dict[str, Any], identity), "benchmark": "paloma"}
    measure(chosen, corpus, model, adapter, window_tokens, columns, out)


@app.command()
def score(
    benchmark: str,
    draws: Path,
    law: Annotated[Path | None, typer.Option(help="a file made by `cft law`")] = None,
    irt: Annotated[Path | None, typer.Option(help="tinybenchmarks: a file made by `cft irt`")] = None,
    instructions: Annotated[Path | None, typer.Option(help="a file made by `cft instructions`")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="write tidy scores, a .parquet file, instead of printing a summary", callback=parquet),
    ] = None,
    distributions: Distributions = Families,
) -> None:
    """Score draws (.jsonl or .parquet) or measurements: print a summary as JSON, or write tidy scores."""
    from cft.benchmarks import load, read_draws, whose
    from cft.distributions import registry
    from cft.prompting import answers, read_method
    from cft.provenance import read_table, write_table

    module = load(benchmark)
    columns = getattr(module, "COLUMNS", None)
    frame = read_table(draws, list(columns)) if columns else read_draws(draws, benchmark)
    if instructions is not None:
        frame = answers(read_method(instructions), frame)
    if out is None:
        print(json.dumps(module.summary(frame, registry(distributions)), indent=2))
        return
    ours = whose(frame, draws)
    beside = read_table(law, ["prompt_id"]) if law else read_table(irt) if irt else None
    scores = module.score(frame, beside, registry(distributions))
    for position, (column, value) in enumerate(ours.items()):
        scores.insert(position, column, value)
    write_table(scores, out, draws=str(draws), beside=str(law or irt) if law or irt else None)
