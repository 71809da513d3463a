"""Sub-commands that say what an experiment needs, before it is run."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from cft.commands import Families, app

ConfigFiles = Annotated[
    list[Path], typer.Option("--configfile", help="an experiment's; of several the later change it")
]
CostTable = Annotated[Path, typer.Option(help="the table of assumptions")]
Assumptions = Families.with_name("costs.yaml")
Paper = [Path("config/paper.yaml")]


@app.command("models")
def list_models(configfiles: ConfigFiles = Paper, costs: CostTable = Assumptions) -> None:
    """Print what the models of an experiment are and need: commits, sizes, licences, memory on a GPU."""
    from cft.config import load
    from cft.costs import read_costs
    from cft.footprint import model_rows, too_large

    experiment, assumed = load(*configfiles), read_costs(costs)
    heads = ["repository", "commit", "dtype", "parameters (B)", "adapter (M)", "licence", "terminator", "GPUs",
             "micro-batch", "weights (GB)", "training (GB per GPU)", "sampling (GB)"]  # fmt: skip
    rows = [heads, *model_rows(experiment, assumed)]
    _print_table(rows, left=[0, 1, 2, 5, 6])
    gpu = assumed.gpu
    print(
        f"\nTraining and sampling are peaks, {gpu.reserve_gb:g} GB of reserve included; one {gpu.name} has "
        f"{gpu.memory_gb:g} GB. Sampling: with transformers; vLLM takes its share of the GPU."
    )
    for line in too_large(experiment, assumed):
        print(line)


@app.command("plan")
def print_plan(
    configfiles: ConfigFiles = Paper,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="also write the rows to this file")] = None,
    costs: CostTable = Assumptions,
) -> None:
    """Print the jobs of an experiment, what they cost by rule and model, and what is assumed; run it in the root."""
    from cft.config import load
    from cft.costs import read_costs
    from cft.plan import Row, plan, planned_jobs, totals
    from cft.provenance import replacing

    experiment, assumed = load(*configfiles), read_costs(costs)
    print("asking Snakemake for its plan; the paper's takes some 20 seconds", file=sys.stderr)
    rows = plan(experiment, assumed, planned_jobs(configfiles, Path.cwd()), Path.cwd())
    if csv_file is not None:
        with replacing(csv_file) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows([[field.name for field in fields(Row)], *map(astuple, rows)])
    heads = ["rule", "model", "jobs", "GPU-hours", "peak GPU (GB)", "disk (GB)", "download (GB)", "basis"]
    _print_table([heads, *(_shown(row) for row in rows)], left=[0, 1, 7])
    print("\nTotals")
    _print_table([heads, *(_shown(row) for row in totals(rows))], left=[0, 1, 7])
    print(f"\nAssumed ({costs})")
    for part, values in assumed:
        figures = ", ".join(f"{key} {value}" for key, value in values.model_dump().items() if key != "source")
        print(f"  {part}: {figures}\n    source: {values.source.strip()}")


def _shown(row: Any) -> list[str]:
    rule, model, jobs, *figures, basis = astuple(row)
    return [rule, model, str(jobs), *("-" if figure is None else f"{figure:,.1f}" for figure in figures), basis]


def _print_table(rows: Sequence[Sequence[str]], left: Sequence[int]) -> None:
    """Columns as wide as their widest cell, numbers on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
