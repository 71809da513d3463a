"""How long Snakemake plans the whole paper, by its number of models, and how long it looks for what is left of it.

    python perf/dag.py

`snakemake -n` with config/paper.yaml and its first 1, 4 and 12 models, then in a copy where every output is there.
There is no other way to compare with: the cost of a job must not grow with their number.
"""

import re
import shutil
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
READ = ("Snakefile", "workflow", "config", "src", "containers")


def snakemake(config: Path, *words: str, folder: Path = ROOT) -> tuple[float, str]:
    """Seconds of a call, and what it said."""
    line = [Path(sys.executable).with_name("snakemake"), *words, "--configfile", config]
    started = time.perf_counter()
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:])
    return time.perf_counter() - started, done.stdout


def plan(config: Path) -> tuple[float, int]:
    """Seconds of a dry run, and its jobs."""
    seconds, said = snakemake(config, "-n", "--quiet", "rules")
    return seconds, int(re.findall(r"^total\s+(\d+)", said, re.M)[0])


def plans_when_done(config: Path, rounds: int) -> list[float]:
    """Seconds of dry runs that find nothing to do: in a copy, where every output is an empty file, noted as made."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in READ:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("sif", "__pycache__"))
            else:
                shutil.copy2(source, copy / name)
        (copy / "profiles").symlink_to("workflow/profiles")
        for names in re.findall(r"^ +output: (.*)$", snakemake(config, "-n", folder=copy)[1], re.M):
            for name in names.split(", "):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).touch()
        # Forced, as Snakemake compares with what it noted of each job, and notes it of jobs alone.
        snakemake(config, "--touch", "--forceall", "--quiet", folder=copy)
        measured = [snakemake(config, "-n", folder=copy) for _ in range(rounds)]
    if not all("Nothing to be done" in said for _, said in measured):
        raise SystemExit("there was something left to do")
    return [seconds for seconds, _ in measured]


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
            again = plans_when_done(config, rounds) if size == SIZES[-1] else []
        jobs = measured[0][1]
        rows.append(compared(f"{size} models, {jobs:,} jobs", "s", [seconds for seconds, _ in measured]))
        print(rows[-1], flush=True)
    rows.append(compared(f"{SIZES[-1]} models, when all is done", "s", again))
    each = rows[-2]["ours"]["median"] / jobs
    keep("dag", "Planning the paper: `snakemake -n`", rows, [f"{each * 1000:.0f} ms a job at {SIZES[-1]} models."])


if __name__ == "__main__":
    typer.run(main)
