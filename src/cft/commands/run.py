"""Sub-commands that make what is measured: prompts, data, models, adapters, draws, laws."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cft import CftError
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
    OutFolder,
    OutTable,
    Prompts,
    Replace,
    Seed,
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
from cft.commands.look import print_draws

FOR_BENCHMARK = {"benchmark": "a benchmark", "settings": "--settings", "prompts": "--prompts", "out": "--out",
                 "identity": "--identity", "instructions": "--instructions",
                 "temperature_of": "--temperature-of"}  # fmt: skip
FOR_PROMPT = {"prompt": "--prompt", "n": "--n", "histogram": "--histogram", "max_new_tokens": "--max-new-tokens",
              "temperature": "--temperature", "top_p": "--top-p", "engine": "--engine"}  # fmt: skip


@app.command("benchmark-prompts")
def benchmark_prompts(
    benchmark: str,
    settings: Setting,
    out: OutTable,
    distributions: Distributions = Families,
    assets: UpstreamTable = UpstreamFiles,
    mirror: Mirror = None,
    cache: AssetCache = Downloads,
) -> None:
    """Write the prompts of a benchmark."""
    from cft.benchmarks import load
    from cft.distributions import registry
    from cft.provenance import write_table

    module = load(benchmark)
    chosen = _benchmark_settings(benchmark, settings)
    frame = module.prompts(chosen, registry(distributions), upstream(assets, mirror, cache))
    write_table(frame, out, benchmark=benchmark, settings=chosen.model_dump())


@app.command()
def data(settings: Setting, seed: Seed, out: OutFolder, distributions: Distributions = Families) -> None:
    """Write the ordered training examples of a method and seed."""
    from cft.data import write_data
    from cft.distributions import registry
    from cft.method_settings import FinetuneMethod
    from cft.settings import setting

    write_data(registry(distributions), setting(FinetuneMethod, settings), seed, out)


@app.command()
def finetune(
    model: ModelFolder,
    data: Annotated[Path, typer.Option(help="a folder made by `cft data`")],
    settings: Setting,
    seed: Seed,
    out: OutFolder,
    training: Annotated[str, typer.Option(help="micro_batch, processes …, as JSON or the path of a YAML file")] = "{}",
    threads: Threads = 2,
    replace: Replace = False,
) -> None:
    """Train an adapter; run again after a kill, it continues."""
    from cft import parallel
    from cft.method_settings import FinetuneMethod
    from cft.model_settings import TrainingSettings
    from cft.provenance import only_ours
    from cft.settings import setting
    from cft.train import finetune, last_checkpoint

    only_ours(out, replace)
    method, how = setting(FinetuneMethod, settings), setting(TrainingSettings, training)
    use_threads(threads)
    if how.processes == 1 or parallel.launched():
        return finetune(model, data, method, seed, how, out)
    last_checkpoint(model, data, method, seed, out)  # what is cut off goes before several processes look
    parallel.launch(how.processes, sys.argv[1:])


@app.command()
def sample(
    context: typer.Context,
    model: ModelFolder,
    benchmark: Annotated[str | None, typer.Argument(help="such as structured; not with --prompt")] = None,
    settings: Annotated[
        str | None, typer.Option(help="benchmark: settings as JSON, or the path of a YAML file")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="benchmark: a file made by `cft benchmark-prompts`")] = None,
    out: Annotated[
        Path | None, typer.Option(help="benchmark: table to write, a .parquet file", dir_okay=False, callback=parquet)
    ] = None,
    identity: Annotated[str, typer.Option(help="benchmark: JSON object of further constant columns")] = "{}",
    instructions: Annotated[Path | None, typer.Option(help="benchmark: a file made by `cft instructions`")] = None,
    temperature_of: Annotated[Path | None, typer.Option(help="benchmark: a file made by `cft temperature`")] = None,
    prompt: Annotated[str | None, typer.Option(help="try this one prompt")] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="prompt: number of draws")] = 20,
    histogram: Annotated[
        bool, typer.Option("--histogram", help="prompt: print a histogram, beside the distribution that it names")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="prompt: a longer draw is cut")] = 64,
    temperature: Annotated[float, typer.Option(help="prompt: temperature of the draws")] = 1.0,
    top_p: Annotated[float, typer.Option(help="prompt: draw within the nucleus of this probability")] = 1.0,
    engine: Annotated[str, typer.Option(help="prompt: transformers or vllm")] = "transformers",
    seed: Annotated[int | None, typer.Option(min=0, help="required for a benchmark; 0 for a prompt")] = None,
    adapter: Adapter = None,
    cache_tokens: CacheTokens = 65536,
    vllm: Vllm = "{}",
    threads: Threads = 2,
) -> None:
    """Draw texts: for every prompt of BENCHMARK into a file, or for one --prompt onto the terminal.

    Options whose help begins with "benchmark" or "prompt" go with that use alone.
    """
    _check_use(context)
    from cft.benchmark_settings import SamplingSettings
    from cft.model_settings import VllmSettings
    from cft.settings import check, setting

    how = setting(VllmSettings, vllm)
    if prompt is not None:
        options = {"engine": engine, "draws": n, "max_new_tokens": max_new_tokens, "temperature": temperature,
                   "top_p": top_p}  # fmt: skip
        chosen = check(SamplingSettings, options, "cft sample")
        use_threads(threads)
        print_draws(prompt, chosen, seed or 0, model, adapter, cache_tokens, how, histogram)
    elif benchmark and settings and prompts and out and seed is not None:
        from cft.generate import plan, sample
        from cft.prompting import asked
        from cft.provenance import read_table

        chosen = _benchmark_settings(benchmark, settings)
        if not isinstance(chosen, SamplingSettings):
            raise CftError(f"{benchmark} draws no texts; see `cft --help` for what measures it")
        replaced, ask = asked(instructions, benchmark, model) if instructions else ({}, {})
        if temperature_of is not None:
            from cft.temperature import read

            replaced["temperature"] = read(temperature_of)
        chosen = chosen.model_copy(update=replaced)
        use_threads(threads)
        frame = read_table(prompts, ["prompt_id", "prompt"])
        job = plan(frame, chosen, seed, model, adapter, cache_tokens, how, **ask)
        sample(job, {**setting(dict[str, Any], identity), "benchmark": benchmark}, out)
    else:
        raise CftError("cft sample needs --prompt, or a benchmark with --settings, --prompts, --out and --seed")


@app.command()
def law(
    benchmark: str,
    settings: Setting,
    prompts: Prompts,
    model: ModelFolder,
    out: OutTable,
    adapter: Adapter = None,
    identity: Identity = "{}",
    cache_tokens: CacheTokens = 65536,
    threads: Threads = 2,
    temperature_of: Annotated[Path | None, typer.Option(help="a file made by `cft temperature`")] = None,
    distributions: Distributions = Families,
) -> None:
    """Compute a model's own law on every prompt of a benchmark, without draws."""
    from cft.distributions import registry
    from cft.law import write_law
    from cft.provenance import read_table
    from cft.settings import setting
    from cft.temperature import read

    chosen = _benchmark_settings(benchmark, settings)
    use_threads(threads)
    frame = read_table(prompts, ["prompt_id", "prompt"])
    at = read(temperature_of) if temperature_of else 1.0
    columns = setting(dict[str, Any], identity)
    write_law(chosen, frame, registry(distributions), model, adapter, columns, cache_tokens, out, at)


def _benchmark_settings(benchmark: str, text: str) -> Any:
    """Settings of a benchmark from the command line; raises CftError for an unknown one."""
    from cft.benchmark_settings import Benchmarks
    from cft.settings import setting

    known = Benchmarks.model_fields
    if benchmark not in known:
        raise CftError(f"unknown benchmark {benchmark!r}; known: {', '.join(known)}")
    return setting(known[benchmark].annotation, text)


def _check_use(context: typer.Context) -> None:
    """Raise CftError when `cft sample` is given options of both of its uses."""
    sources = {name: getattr(context.get_parameter_source(name), "name", None) for name in context.params}
    given = [name for name, source in sources.items() if source == "COMMANDLINE"]
    first, others = ("prompt", FOR_BENCHMARK) if "prompt" in given else ("benchmark", FOR_PROMPT)
    wrong = [option for name, option in others.items() if name in given]
    if first in given and wrong:
        names = {**FOR_BENCHMARK, **FOR_PROMPT}
        raise CftError(f"{names[first]} does not go with {', '.join(wrong)}; see `cft sample --help` for its two uses")
