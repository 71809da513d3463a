"""Sub-commands for a person who wants to look in."""

import json
from pathlib import Path
from typing import Annotated

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
    found = make_target(registry(distributions), family, values, decimals, max_bins)
    print("value,probability")
    for value, probability in zip(found.values, found.probabilities.tolist(), strict=True):
        print(f"{value},{probability!r}")


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
