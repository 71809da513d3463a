"""Sub-commands that show what was measured: tables, figures, the report."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cft import CftError
from cft.commands import Distributions, Families, Out, OutTable, Setting, app

SCORES = ["model", "method", "seed", "benchmark", "split", "item", "metric", "value"]
Instructions = Annotated[list[Path] | None, typer.Option(help="METHOD.json of methods that draw: `cft instructions`")]
DRAWS = ["model", "method", "seed", "benchmark", "prompt_id", "draw", "text"]


@app.command()
def scores(files: list[Path], out: OutTable) -> None:
    """Put score files together into one."""
    from cft.provenance import write_table

    if len(set(files)) < len(files):
        raise CftError("a score file is named twice; name each once")
    write_table(_together(files, SCORES), out, files=[str(file) for file in files])


@app.command()
def claims(scores: Annotated[Path, typer.Option(help="the file of all scores")], out: Out) -> None:
    """Write what the scores say of each claim of the paper, as .csv."""
    from cft.claims import write
    from cft.provenance import read_table, write_run

    write(read_table(scores, SCORES), out)
    write_run(out)


@app.command()
def table(name: str, scores: Annotated[list[Path], typer.Option(help="score files")], out: Out) -> None:
    """Write a table as .csv, .tex and .md."""
    from cft.provenance import write_run
    from cft.tables import load, save

    save(load(name).make(_together(scores, SCORES)), out)
    write_run(out)


@app.command()
def figure(
    name: str,
    out: Out,
    scores: Annotated[list[Path] | None, typer.Option(help="score files")] = None,
    draws: Annotated[list[Path] | None, typer.Option(help="files of draws")] = None,
    instructions: Instructions = None,
    model: Annotated[Path | None, typer.Option(help="a prepared model, for its tokenizer")] = None,
    distributions: Distributions = Families,
) -> None:
    """Draw a figure as .pdf, .svg and .png, with its numbers as .csv."""
    from cft.distributions import registry
    from cft.figures import Sources, load, save
    from cft.provenance import write_run

    module = load(name)
    sources: dict[str, Any] = {"registry": registry(distributions)}
    for key, files, columns in (("scores", scores, SCORES), ("draws", draws, DRAWS)):
        if files:
            sources[key] = _together(files, columns)
    if "draws" in sources and instructions:
        from cft.prompting import answered

        sources["draws"] = answered(sources["draws"], instructions)
    if model is not None:
        sources |= _tokenizer_of(model)
    drawn, numbers = module.draw(Sources(**sources))
    save(drawn, numbers, out)
    write_run(out)


@app.command()
def curves(
    out: OutTable,
    draws: Annotated[list[Path] | None, typer.Option(help="files of structured draws")] = None,
    laws: Annotated[list[Path] | None, typer.Option(help="files of structured laws")] = None,
    instructions: Instructions = None,
    distributions: Distributions = Families,
) -> None:
    """Write the distribution functions of draws and laws, for the report."""
    from cft.curves import measure
    from cft.distributions import registry
    from cft.provenance import write_table

    write_table(measure(draws or (), laws or (), registry(distributions), instructions or ()), out)


@app.command()
def report(
    settings: Setting,
    scores: Annotated[Path, typer.Option(help="the file of all scores")],
    out: Out,
    tables: Annotated[list[Path] | None, typer.Option(help=".csv files of tables")] = None,
    figures: Annotated[list[Path] | None, typer.Option(help=".svg files of figures")] = None,
    captions: Annotated[Path, typer.Option(help="folder of NAME.rst")] = Path("workflow/report"),
    runs: Annotated[list[Path] | None, typer.Option(help="run.json files")] = None,
    curves: Annotated[list[Path] | None, typer.Option(help="files made by `cft curves`")] = None,
    distributions: Distributions = Families,
) -> None:
    """Write the report of an experiment as one HTML page."""
    from cft.config import Experiment
    from cft.curves import measure
    from cft.distributions import registry
    from cft.provenance import read_table, replacing, write_run
    from cft.ran import describe
    from cft.report import build
    from cft.settings import read_json, setting

    experiment = setting(Experiment, settings)
    of_tables, of_figures = ({path.stem: path for path in files or ()} for files in (tables, figures))
    page = build(
        experiment.title,
        describe(experiment),
        read_table(scores, SCORES),
        of_tables,
        of_figures,
        {name: (captions / f"{name}.rst").read_text(encoding="utf-8") for name in of_tables | of_figures},
        [read_json(path) for path in runs or ()],
        _together(curves) if curves else measure((), (), registry(distributions)),
        registry(distributions),
    )
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    write_run(out)


def _together(files: list[Path], columns: list[str] | None = None) -> Any:
    import pandas as pd

    from cft.provenance import read_table

    return pd.concat([read_table(file, columns) for file in files], ignore_index=True)


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
