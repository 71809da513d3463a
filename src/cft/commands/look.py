"""Sub-commands for a person who wants to look in."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from cft import CftError
from cft.commands import Distributions, Families, app


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
    if len(values) < len(pairs):
        raise CftError(f"a parameter is given twice: {' '.join(parameters)}")
    found = make_target(registry(distributions), family, values, decimals, max_bins)
    print("value,probability")
    for value, probability in zip(found.values, found.probabilities.tolist(), strict=True):
        print(f"{value},{probability!r}")


@app.command()
def check(
    configs: Annotated[list[Path], typer.Argument(help="a configuration file; of several, later ones change earlier")],
) -> None:
    """Check an experiment: every key, its table of families, the modules of what it runs and shows."""
    from importlib.util import find_spec

    from cft.config import load

    experiment = load(*configs)
    if find_spec("matplotlib") and find_spec("scipy"):
        from cft.foresee import notes

        found = notes(experiment)
    else:
        found = ["Only keys were looked at: an environment that plans, as a head node's, has no families and figures."]
    name = " ".join(map(str, configs))
    print(f"{name}: {len(experiment.models)} models, {len(experiment.methods)} methods; every key is valid")
    for note in found:
        print(note)


@app.command()
def schema() -> None:
    """Print the JSON schema of configuration files."""
    from cft.config import schema

    print(json.dumps(schema(), indent=2))


def print_draws(
    prompt: str,
    settings: Any,
    seed: int,
    model: Path,
    adapter: Path | None,
    cache_tokens: int,
    vllm: Any,
    as_histogram: bool,
) -> None:
    """Draw from one prompt and print the texts, one a line, or their histogram; the arguments are those of `plan`."""
    import pandas as pd

    from cft.distributions import registry
    from cft.generate import plan
    from cft.histogram import histogram, printable

    target = registry().recognise(prompt) if as_histogram else None
    frame = pd.DataFrame({"prompt_id": ["prompt"], "prompt": [prompt]})
    draws = _draw(plan(frame, settings, seed, model, adapter, cache_tokens, vllm))
    ascii_only = not _can_print("█▏…")
    if as_histogram:
        print(histogram([text for text, _ in draws], target, shutil.get_terminal_size().columns, ascii_only))
        return
    cut = " ...[cut]" if ascii_only else " …[cut]"
    for text, finished in draws:
        line = printable(text) if _can_print(text) else printable(text, ascii_only=True)
        print(line if finished else line + cut)


def _draw(job: Any) -> list[tuple[str, bool]]:
    """Every draw's text in the order of their numbers, and whether it ended by itself."""
    from cft.engines import start
    from cft.progress import Progress

    found = {}
    with _output_to_stderr(), Progress("sample", len(job.requests), "draws") as progress:
        for draw in start(job).draw(job.requests):
            found[draw.request.draw] = job.text(draw.tokens), draw.finished
            progress.update()
    return [found[number] for number in sorted(found)]


@contextmanager
def _output_to_stderr() -> Iterator[None]:
    """Keep standard output for the draws: vLLM logs to it, and its libraries and workers write to it by number."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
