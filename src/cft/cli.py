"""The `cft` command: one sub-command per rule of the workflow, and a few to look in.

Nothing heavy is imported before a sub-command runs, so that --help answers at once.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cft import CftError

app = typer.Typer(
    help=__doc__.split("\n")[0] if __doc__ else None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Out = Annotated[Path, typer.Option(help="file or folder to write")]
Setting = Annotated[str, typer.Option(help="settings as JSON, or the path of a YAML file")]
Distributions = Annotated[Path, typer.Option(help="the table of families")]
Families = Path(__file__).resolve().parents[2] / "config" / "distributions.yaml"
UpstreamFiles = Families.with_name("assets.yaml")
ModelFolder = Annotated[Path, typer.Option(help="a folder made by `cft model`")]
Adapter = Annotated[Path | None, typer.Option(help="a folder made by `cft finetune`")]
Seed = Annotated[int, typer.Option(min=0)]
Threads = Annotated[int, typer.Option(min=1, help="processor threads")]
CacheTokens = Annotated[int, typer.Option(min=1, help="tokens of key-value cache in memory")]


@app.callback()
def _start(debug: Annotated[bool, typer.Option(help="show a traceback when something fails")] = False) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("cft").setLevel(logging.INFO)
    if debug:
        os.environ["CFT_DEBUG"] = "1"


@app.command()
def prompts(
    split: Annotated[str | None, typer.Option(help="train, unseen_params or unseen_families")] = None,
    selected: Annotated[bool, typer.Option(help="only the paper's 42 evaluation prompts")] = False,
    distributions: Distributions = Families,
) -> None:
    """Print prompts as JSON lines."""
    from cft.distributions import registry

    for prompt in registry(distributions).select(split, selected):
        record = {
            "split": prompt.split,
            "family": prompt.family,
            "parameters": prompt.parameters,
            "prompt": prompt.text,
            "prompt_id": prompt.prompt_id,
            "selected": prompt.selected,
        }
        print(json.dumps(record))


@app.command()
def target(
    family: str,
    parameters: Annotated[list[str], typer.Argument(help="name=value …")],
    decimals: Annotated[int, typer.Option(min=0, max=12)] = 5,
    max_bins: Annotated[int, typer.Option(min=2)] = 1001,
    distributions: Distributions = Families,
) -> None:
    """Print a target's support and law as CSV."""
    from cft.distributions import registry
    from cft.target import make_target

    pairs = [item.partition("=") for item in parameters]
    try:
        values = {name: float(value) for name, _, value in pairs}
    except ValueError:
        raise CftError(f"parameters are given as name=value with a number, not {' '.join(parameters)!r}")
    found = make_target(registry(distributions), family, values, decimals, max_bins)
    print("value,probability")
    for value, probability in zip(found.values, found.probabilities.tolist(), strict=True):
        print(f"{value},{probability!r}")


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
    from cft.config import Benchmarks, read_yaml, setting
    from cft.distributions import registry
    from cft.provenance import write_table

    module = load(benchmark)
    chosen = setting(Benchmarks.model_fields[benchmark].annotation, settings)
    frame = module.prompts(chosen, registry(distributions), Assets(read_yaml(assets), mirror, cache))
    write_table(frame, out, benchmark=benchmark, settings=chosen.model_dump())


@app.command()
def model(settings: Setting, out: Out) -> None:
    """Fetch, unpack or make a model; every other command loads it from the folder that this one writes."""
    from cft.config import ModelSource, setting
    from cft.models import prepare

    prepare(setting(ModelSource, settings), out)


@app.command()
def data(settings: Setting, seed: Seed, out: Out, distributions: Distributions = Families) -> None:
    """Write the ordered training examples of a method and seed."""
    from cft.config import FinetuneMethod, setting
    from cft.data import write_data
    from cft.distributions import registry

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
    from cft.config import FinetuneMethod, setting
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
    threads: Threads = 2,
) -> None:
    """Draw texts for every prompt of a benchmark."""
    from cft.config import Benchmarks, setting
    from cft.generate import sample
    from cft.provenance import read_table

    chosen = setting(Benchmarks.model_fields[_known(benchmark)].annotation, settings)
    _use_threads(threads)
    columns = {**json.loads(identity), "benchmark": benchmark}
    frame = read_table(prompts, ["prompt_id", "prompt"])
    sample(frame, chosen, seed, model, adapter, columns, cache_tokens, out)


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
    from cft.config import Benchmarks, setting
    from cft.distributions import registry
    from cft.law import write_law
    from cft.provenance import read_table

    chosen = setting(Benchmarks.model_fields[_known(benchmark)].annotation, settings)
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


@app.command()
def scores(files: list[Path], out: Out) -> None:
    """Put score files together into one."""
    from cft.provenance import write_table

    write_table(_together(files), out, files=[str(file) for file in files])


@app.command()
def table(name: str, scores: Annotated[list[Path], typer.Option(help="score files")], out: Out) -> None:
    """Write a table as .csv, .tex and .md."""
    from cft.provenance import write_run
    from cft.tables import load, save

    save(load(name).make(_together(scores)), out)
    write_run(out)


@app.command()
def figure(
    name: str,
    out: Out,
    scores: Annotated[list[Path] | None, typer.Option(help="score files")] = None,
    draws: Annotated[list[Path] | None, typer.Option(help="files of draws")] = None,
    model: Annotated[Path | None, typer.Option(help="a prepared model, for its tokenizer")] = None,
    distributions: Distributions = Families,
) -> None:
    """Draw a figure as .pdf and .png, with its numbers as .csv."""
    from cft.distributions import registry
    from cft.figures import Sources, load, save
    from cft.provenance import write_run

    module = load(name)
    sources: dict[str, Any] = {"registry": registry(distributions)}
    for key, files in (("scores", scores), ("draws", draws)):
        if files:
            sources[key] = _together(files)
    if model is not None:
        sources |= _tokenizer_of(model)
    drawn, numbers = module.draw(Sources(**sources))
    save(drawn, numbers, out)
    write_run(out)


@app.command()
def report(
    settings: Setting,
    scores: Annotated[Path, typer.Option(help="the file of all scores")],
    out: Out,
    tables: Annotated[list[Path] | None, typer.Option(help=".csv files of tables")] = None,
    figures: Annotated[list[Path] | None, typer.Option(help=".png files of figures")] = None,
    captions: Annotated[Path, typer.Option(help="folder of NAME.rst")] = Path("workflow/report"),
    runs: Annotated[list[Path] | None, typer.Option(help="run.json files")] = None,
) -> None:
    """Write the report of an experiment as one HTML page."""
    from cft.config import Experiment, setting
    from cft.provenance import read_table, replacing, write_run
    from cft.report import build, describe

    experiment = setting(Experiment, settings)
    shown = {path.stem: path for path in [*(tables or ()), *(figures or ())]}
    page = build(
        experiment.title,
        describe(experiment),
        read_table(scores),
        {path.stem: path for path in tables or ()},
        {path.stem: path for path in figures or ()},
        {name: (captions / f"{name}.rst").read_text(encoding="utf-8") for name in shown},
        [json.loads(path.read_text()) for path in runs or ()],
    )
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    write_run(out)


@app.command()
def check(config: Path) -> None:
    """Check an experiment's configuration file."""
    from cft.config import load

    experiment = load(config)
    print(f"{config}: {len(experiment.models)} models, {len(experiment.methods)} methods; every key is valid")


@app.command()
def schema() -> None:
    """Print the JSON schema of configuration files."""
    from cft.config import schema

    print(json.dumps(schema(), indent=2))


def _known(benchmark: str) -> str:
    from cft.benchmarks import load

    load(benchmark)
    return benchmark


def _together(files: list[Path]) -> Any:
    import pandas as pd

    from cft.provenance import read_table

    return pd.concat([read_table(file) for file in files], ignore_index=True)


def _tokenizer_of(model: Path) -> dict[str, Any]:
    from functools import partial

    from cft import chat
    from cft.models import load_tokenizer, settings_of

    tokenizer = load_tokenizer(model)
    return {
        "tokenizer": partial(chat.tokenize_values, tokenizer),
        "decode": tokenizer.decode,
        "terminator": chat.terminator(tokenizer, settings_of(model).chat),
    }


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def main() -> None:
    """Run the command; a mistake ends it with one line and exit code 1, a wrong option with code 2."""
    try:
        app()
    except Exception as error:
        if os.environ.get("CFT_DEBUG"):
            raise
        print(f"cft: {_one_line(error)}", file=sys.stderr)
        sys.exit(1)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, CftError):
        return text
    # safetensors and pyarrow wrap the system's error in their own classes.
    if getattr(error, "errno", None) == 28 or "No space left" in text:
        return f"the disk is full ({text}); nothing half-written was kept; free some space and run again"
    if isinstance(error, OSError):
        return text
    return f"unexpected {type(error).__name__}: {text}; run again with `cft --debug …` for the traceback"


if __name__ == "__main__":
    main()
