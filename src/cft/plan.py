"""What an experiment will cost before it is run: jobs as Snakemake plans them, GPU-hours, memory, disk, downloads."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from cft import CftError
from cft.config import Experiment
from cft.costs import GB, Costs
from cft.estimates import Job, seconds
from cft.footprint import disk_bytes, download_gb, judges, peak_bytes
from cft.spent import recorded

NOT_LINKED = {"results", ".snakemake", ".git"}
BLOCK = re.compile(r"^ *(?:local)?rule (\S+):\n((?: +\w[\w ]*: .*\n)+)", re.M)


class Planned(NamedTuple):
    """A job of Snakemake's plan; `benchmark` is the file in which it will write how long it took."""

    rule: str
    wildcards: dict[str, str]
    gpus: int
    benchmark: str | None

    @property
    def kind(self) -> tuple[str, ...]:
        """Jobs of one kind differ in their seed only."""
        return (self.rule, *(value for key, value in self.wildcards.items() if key != "seed"))


@dataclass(frozen=True)
class Row:
    """All jobs of a rule and model. A figure that is not known is None.

    gpu_hours      of the GPUs that the jobs hold, busy or not
    peak_gpu_gb    of one GPU, the reserve included
    disk_gb        what stays on disk, downloads included; temporary checkpoints are not counted
    basis          estimate, measured, or both where only some kinds of jobs were measured
    """

    rule: str
    model: str
    jobs: int
    gpu_hours: float | None
    peak_gpu_gb: float | None
    disk_gb: float | None
    download_gb: float | None
    basis: str


def planned_jobs(configfiles: Sequence[Path], root: Path) -> list[Planned]:
    """Every job that Snakemake would run if nothing were there yet; nothing is left behind in `root`.

    Raises CftError when `root` is not the repository's root, and with Snakemake's reason when there is no plan.
    """
    if not (root / "Snakefile").is_file():
        raise CftError(f"{root} has no Snakefile; run this in the root of the repository")
    for file in configfiles:
        if not file.is_file():
            raise CftError(f"{file}: no such file")
    with tempfile.TemporaryDirectory() as folder:
        for path in root.iterdir():
            if path.name not in NOT_LINKED:
                (Path(folder) / path.name).symlink_to(path.resolve())
        command = [sys.executable, "-m", "snakemake", "--dry-run", "--forceall", "--nolock", "--cores", "1"]
        profiles = ["--profile", "none", "--workflow-profile", "none"]  # where jobs would run does not matter here
        done = subprocess.run(
            [
                *command,
                *profiles,
                "--directory",
                folder,
                "--configfile",
                *(str(file.resolve()) for file in configfiles),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise CftError(f"Snakemake has no plan for {' '.join(map(str, configfiles))}: {' '.join(said[-2:])}")
    return parse(done.stdout)


def parse(said: str) -> list[Planned]:
    """The jobs in what a dry run prints."""
    jobs = []
    for rule, block in BLOCK.findall(said):
        lines = dict(line.strip().split(": ", 1) for line in block.splitlines())
        wildcards = dict(pair.split("=", 1) for pair in lines.get("wildcards", "").split(", ") if pair)
        gpus = re.search(r"\bgpu=(\d+)", lines.get("resources", ""))
        jobs.append(Planned(rule, wildcards, int(gpus[1]) if gpus else 0, lines.get("benchmark")))
    return jobs


def plan(experiment: Experiment, costs: Costs, jobs: list[Planned], root: Path) -> list[Row]:
    """A row for each rule and model: the dearest rules first, models in the order of the configuration."""
    models = ["", *experiment.models, *judges(experiment)]
    groups: dict[tuple[str, str], list[Planned]] = {}
    for job in jobs:
        groups.setdefault((job.rule, job.wildcards.get("model", "")), []).append(job)
    rows = [_row(experiment, costs, *group, alike, root) for group, alike in groups.items()]
    hours: dict[str, float] = {}
    for row in rows:
        hours[row.rule] = hours.get(row.rule, 0) + (row.gpu_hours or 0)
    return sorted(rows, key=lambda row: (-hours[row.rule], row.rule, models.index(row.model)))


def _row(experiment: Experiment, costs: Costs, rule: str, model: str, jobs: list[Planned], root: Path) -> Row:
    kinds: dict[tuple[str, ...], list[Planned]] = {}
    for job in jobs:
        kinds.setdefault(job.kind, []).append(job)
    hours, peaks, disk = [], [], []
    bases = set()
    for alike in kinds.values():
        job, gpus = _job(experiment, costs, model, alike[0]), alike[0].gpus
        taken = [found for one in alike if (found := _measured(root, one.benchmark)) is not None]
        bases.add("measured" if taken else "estimate")
        lasts = mean(taken) if taken else (seconds(rule, job) if job else None)
        hours.append(0.0 if not gpus else None if lasts is None else len(alike) * gpus * lasts / 3600)
        peaks.append(None if not gpus or job is None else peak_bytes(rule, job) / GB + costs.gpu.reserve_gb)
        stays = None if job is None else disk_bytes(rule, job)
        disk.append(None if stays is None else len(alike) * stays / GB)
    source = (experiment.models | judges(experiment)).get(model)
    row = Row(rule, model, len(jobs), _sum(hours), None, 0.0, 0.0, bases.pop() if len(bases) == 1 else "both")
    if rule == "model" and source is not None:
        size = download_gb(costs, source, experiment)
        return replace(row, disk_gb=size, download_gb=size)
    if rule == "corpus" and experiment.benchmarks.paloma and experiment.benchmarks.paloma.data == "upstream":
        return replace(row, disk_gb=costs.paloma.download_gb, download_gb=costs.paloma.download_gb)
    if model:
        known = [peak for peak in peaks if peak is not None]
        return replace(row, peak_gpu_gb=max(known, default=None), disk_gb=_sum(disk))
    return row


def _job(experiment: Experiment, costs: Costs, model: str, planned: Planned) -> Job | None:
    settings = experiment.models.get(model)
    if settings is None or settings.shape is None:
        return None
    names = planned.wildcards.get("method", ""), planned.wildcards.get("benchmark", "")
    return Job(experiment, costs, settings, settings.shape, *names)


def _measured(root: Path, benchmark: str | None) -> float | None:
    """Seconds in a benchmark file of Snakemake's; None where there is none, or the job was too short for it."""
    if benchmark is None or not (root / benchmark).is_file():
        return None
    found = recorded(root / benchmark)
    return mean(found) if found else None


def _sum(values: Iterable[float | None]) -> float | None:
    """None when a part of the sum is not known."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def totals(rows: list[Row]) -> list[Row]:
    """The sum of each rule, and of all; a sum is None where a part of it is not known, a peak is the highest known."""
    rules = list(dict.fromkeys(row.rule for row in rows))
    return [_total(rule, [row for row in rows if row.rule == rule]) for rule in rules] + [_total("all of it", rows)]


def _total(name: str, rows: list[Row]) -> Row:
    bases = {row.basis for row in rows}
    return Row(
        rule=name,
        model="",
        jobs=sum(row.jobs for row in rows),
        gpu_hours=_sum(row.gpu_hours for row in rows),
        peak_gpu_gb=max((row.peak_gpu_gb for row in rows if row.peak_gpu_gb is not None), default=None),
        disk_gb=_sum(row.disk_gb for row in rows),
        download_gb=_sum(row.download_gb for row in rows),
        basis=bases.pop() if len(bases) == 1 else "both",
    )
