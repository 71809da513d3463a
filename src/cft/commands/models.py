"""Sub-commands that make models."""

from typing import Annotated

import typer

from cft.commands import OutFolder, Replace, Setting, app


@app.command()
def model(settings: Setting, out: OutFolder, replace: Replace = False) -> None:
    """Fetch, unpack or make a model; every other command loads it from the folder that this one writes."""
    from cft.model_settings import ModelSource
    from cft.prepare import prepare
    from cft.settings import setting

    prepare(setting(ModelSource, settings), out, replace)


@app.command("tiny-model")
def tiny_model(
    architecture: Annotated[str, typer.Argument(help="such as llama or deberta_v2")], out: OutFolder
) -> None:
    """Make a tiny random model of a true architecture, as `cft model` does for an experiment that asks for one."""
    from cft.model_settings import ModelSource
    from cft.prepare import prepare
    from cft.settings import check

    values = {"source": "tiny", "architecture": architecture, "dtype": "float32"}
    prepare(check(ModelSource, values, "cft tiny-model"), out)
