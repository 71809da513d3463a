"""Sub-commands around a run: how far it is; a card for an adapter that others are to use, and its publication."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cft.commands import app

Results = Annotated[Path, typer.Option(help="the folder of results, such as results/smoke")]


@app.command("status")
def print_status(
    results: Results = Path("results"),
    configfiles: Annotated[
        list[Path] | None,
        typer.Option("--configfile", help="count what is still waiting by its plan; some 20 seconds more"),
    ] = None,
    follow: Annotated[bool, typer.Option(help="watch it until it ends, a line per running job")] = False,
) -> None:
    """Print how far a workflow is: jobs done, running, failed; the logs to look at; the time it took."""
    from cft.follow import watch
    from cft.status import lines, status

    planned = []
    if configfiles:
        from cft.plan import planned_jobs

        print("asking Snakemake for its plan; the paper's takes some 20 seconds", file=sys.stderr)
        planned = [job.benchmark for job in planned_jobs(configfiles, Path.cwd()) if job.benchmark]
    if follow:
        watch(results, planned)
    print("\n".join(lines(status(results, planned), results)))


@app.command("card")
def write_card(
    adapter: Annotated[Path, typer.Option(help="a folder made by `cft finetune`")],
    scores: Annotated[Path | None, typer.Option(help="the file of all scores; without it nothing is measured")] = None,
    out: Annotated[
        Path | None, typer.Option(help="file to write; by default README.md in the adapter's folder")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="of the base model")] = None,
) -> None:
    """Write the model card of an adapter, for those who will use it, as Markdown that the Hugging Face hub reads."""
    from cft.card import card
    from cft.provenance import read_table, replacing

    measured = read_table(scores, ["model", "method", "seed", "benchmark"]) if scores else None
    text = card(adapter, measured, licence)
    with replacing(out or adapter / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")


@app.command("push")
def push_adapter(
    adapter: Annotated[Path, typer.Option(help="a folder made by `cft finetune`, with the card by `cft card`")],
    repo: Annotated[str, typer.Option(help="the repository, such as my-lab/smollm2-soft")],
    out: Annotated[Path, typer.Option(help="file that will name the commit")],
    private: Annotated[bool, typer.Option(help="whether a new repository is private")] = True,
) -> None:
    """Publish an adapter and its card on the Hugging Face hub; needs a token that may write."""
    from cft.hub import push

    push(adapter, repo, private, out)
