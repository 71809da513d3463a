"""The sub-command that fine-tunes on a distribution of one's own."""

from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import typer

from cft.commands import Families, Threads, app, use_threads

Demo = Families.with_name("demo.yaml")


class Labels(StrEnum):
    """What is learned from: the law of the next token, or drawn tokens."""

    soft = "soft"
    hard = "hard"


@app.command()
def fit(
    target: Annotated[Path, typer.Argument(help="a .yaml or .csv file; see examples/")],
    model: Annotated[str, typer.Option(help="a folder with a model, or a name in the configuration file")],
    prompt: Annotated[list[str] | None, typer.Option(help="what a .csv file is asked with; may be repeated")] = None,
    out: Annotated[Path | None, typer.Option(help="folder to write; by default results/fit/NAME")] = None,
    method: Annotated[Labels, typer.Option(help="soft: from the target's law; hard: from drawn answers")] = Labels.soft,
    steps: Annotated[int, typer.Option(min=1, help="steps of training")] = 60,
    learning_rate: Annotated[float, typer.Option(min=1e-9, help="of the adapter")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    force: Annotated[bool, typer.Option("--force", help="replace a finished fit")] = False,
    configfile: Annotated[Path, typer.Option(help="the configuration file that names models")] = Demo,
    models: Annotated[Path, typer.Option(help="where prepared models are kept")] = Path("results/models"),
    threads: Threads = 2,
) -> None:
    """Fine-tune on a distribution of your own, measure the law before and after exactly, and write a page about it."""
    from cft.custom import read

    own = read(target, prompt or [])
    folder = out or Path("results/fit") / own.name

    from cft.custom_fit import begin, fit, method_for, told
    from cft.named_model import named_model

    begin(folder, force)
    use_threads(threads)
    prepared, settings = named_model(model, configfile, models)
    how = method_for(own, {"soft": "law", "hard": "draw"}[method.value], steps, learning_rate)
    training = settings.training().model_copy(update={"processes": 1})
    facts = {"file": str(target), "sha256": sha256(target.read_bytes()).hexdigest(), "model": prepared.resolve().name}
    measures = fit(own, prepared, how, seed, training, settings.cache_tokens, folder, **facts)
    print("\n".join([*told(measures), str(folder / "report.html")]))
