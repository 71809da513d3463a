"""How long Snakemake plans the whole paper, by its number of models.

    python perf/dag.py

`snakemake -n` with config/paper.yaml and its first 1, 4 and 12 models. There is no other way to
compare with: the cost of a job must not grow with their number.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
import yaml
from record import ROOT, ROUNDS, compared, keep

SIZES = (1, 4, 12)


def plan(config: Path) -> tuple[float, int]:
    """Seconds of a dry run, and its jobs."""
    line = [Path(sys.executable).with_name("snakemake"), "-n", "--quiet", "rules", "--configfile", config]
    started = time.perf_counter()
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    seconds = time.perf_counter() - started
    found = re.search(r"^total\s+(\d+)", done.stdout, re.M)
    if done.returncode or not found:
        raise SystemExit(done.stdout[-2000:])
    return seconds, int(found[1])


def main(rounds: Annotated[int, typer.Option(min=1)] = ROUNDS) -> None:
    """Keep the section `dag`."""
    paper = yaml.safe_load((ROOT / "config/paper.yaml").read_text())
    rows, jobs = [], 0
    for size in SIZES:
        some = paper | {"models": dict(list(paper["models"].items())[:size])}
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "some.yaml"
            config.write_text(yaml.safe_dump(some, sort_keys=False))
            measured = [plan(config) for _ in range(rounds)]
        jobs = measured[0][1]
        rows.append(compared(f"{size} models, {jobs:,} jobs", "s", [seconds for seconds, _ in measured]))
        print(rows[-1], flush=True)
    each = rows[-1]["ours"]["median"] / jobs
    keep("dag", "Planning the paper: `snakemake -n`", rows, [f"{each * 1000:.0f} ms a job at {SIZES[-1]} models."])


if __name__ == "__main__":
    typer.run(main)
