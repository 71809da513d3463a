"""How far a workflow is, from what it leaves behind; Snakemake need not run, and is not asked.

A job has a log from its start and a record of its time from its end, below results/logs and results/benchmarks under
the same name, such as `finetune/qwen3-4b/soft/seed11`. Snakemake removes a job's old log when it starts the job again,
not the old record: a log that is newer than its record belongs to a job that is not done. What became of that one is
told by Snakemake's own logs in .snakemake/log; a run in progress holds locks in .snakemake/locks.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cft import CftError
from cft.spent import named, spent

STATES = ("done", "running", "failed", "stopped", "waiting")
STARTED = "started"
# Within a job's lines: its logs, marked where they are those of a failure, and after them the number it ends under.
EVENT = re.compile(
    r"^ +log: (?P<logs>.+?)(?P<failed> \(check log file\(s\) for error details\))?$"
    r"|^ +jobid: (?P<job>\d+)$|^Finished jobid: (?P<finished>\d+)\b",
    re.M,
)
TAIL = 4096
SILENT = 600  # seconds after which one asks whether a run was killed


class Job(NamedTuple):
    """A job by its name; `state` is one of STATES. Stopped: it was begun, and the run ended without a word of it."""

    name: str
    state: str
    log: Path

    @property
    def rule(self) -> str:
        """The first part of the name: tables and figures go by these words, every other rule by its own."""
        return self.name.split("/")[0]


@dataclass(frozen=True)
class Status:
    """Jobs by name, and how far the run is.

    steps    what Snakemake said last, such as "67 of 68 steps (99%) done", and in which file; None where it never ran
    locked   whether a run holds locks
    """

    jobs: list[Job]
    steps: tuple[str, Path] | None
    locked: bool


def status(results: Path, planned: Iterable[str] = ()) -> Status:
    """The state of all jobs of a results folder.

    planned    files of a plan in which jobs will record their time: those that have not begun are waiting
    Raises CftError when nothing was run there.
    """
    logs, records = named(results / "logs", ".log"), named(results / "benchmarks", ".tsv")
    if not logs and not records:
        raise CftError(f"{results}: neither logs nor benchmarks are in it; nothing was run there")
    absolute = Path(os.path.abspath(results))
    near = absolute.parents[:2]  # of results, and of results/smoke
    root = next((folder for folder in near if (folder / ".snakemake").is_dir()), near[0])
    below = os.path.relpath(absolute, root)
    unsure = {name for name in logs if name not in records or _changed(records[name]) < _changed(logs[name])}
    said = _said(root, {f"{below}/logs/{name}.log" for name in unsure})
    locked = _locks(root) > 0
    jobs = []
    for name in sorted(logs.keys() | records.keys()):
        log = results / "logs" / f"{name}.log"
        state = "done"
        if name in unsure:
            # Without a word of Snakemake's: a copied folder has its files' times from the copying.
            silent = "done" if name in records else "running" if locked else "stopped"
            state = said.get(f"{below}/logs/{name}.log", silent)
        jobs.append(Job(name, state, log))
    # A plan is of the folder results, wherever this one lies.
    names = {benchmark.partition("benchmarks/")[2].removesuffix(".tsv") for benchmark in planned}
    begun = {job.name for job in jobs}
    jobs += [Job(name, "waiting", results / "logs" / f"{name}.log") for name in sorted(names - begun)]
    return Status(jobs, _steps(root, below), locked)


def _changed(path: Path) -> int:
    """When a file was written, in ns; 0 where it is gone, as Snakemake removes what a job that runs again has left."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _locks(root: Path) -> int:
    """How many runs hold locks: each has a file for what it reads and one for what it writes."""
    return len(list((root / ".snakemake" / "locks").glob("*.output.lock")))


def _runs(root: Path) -> Iterator[tuple[Path, str]]:
    """What Snakemake wrote of each run, the newest first: file names begin with the time."""
    for path in sorted((root / ".snakemake" / "log").glob("*.snakemake.log"), reverse=True):
        text = path.read_text(errors="replace")
        if "\nJob stats:" in text:  # else it ran nothing, such as a check of the workflow's style
            yield path, text


def _said(root: Path, logs: set[str]) -> dict[str, str]:
    """The state of the jobs that have these logs, paths from `root`, as far as Snakemake tells: the newest word."""
    locks = _locks(root)
    found: dict[str, str] = {}
    for _, text in _runs(root):
        if logs <= found.keys():
            break
        in_progress = locks > 0 and "\nComplete log(s): " not in text
        locks -= in_progress
        begun = "running" if in_progress else "stopped"
        for log, event in _events(text).items():
            if log in logs:
                found.setdefault(log, begun if event == STARTED else event)
    return found


def _events(text: str) -> dict[str, str]:
    """The last word on every log in what Snakemake wrote of a run: started, done or failed."""
    found: dict[str, str] = {}
    numbers: dict[str, list[str]] = {}
    logs: list[str] = []
    for match in EVENT.finditer(text):
        if match["logs"]:
            logs = match["logs"].split(", ")
            found |= dict.fromkeys(logs, "failed" if match["failed"] else STARTED)
        elif match["job"]:
            numbers[match["job"]], logs = logs or numbers.get(match["job"], []), []
        else:
            found |= dict.fromkeys(numbers.get(match["finished"], []), "done")
    return found


def _steps(root: Path, below: str) -> tuple[str, Path] | None:
    """How far the newest run came that wrote into this folder."""
    for path, text in _runs(root):
        if f" {below}/logs/" in text:
            counts = re.findall(r"^\d+ of \d+ steps \(.+\) done$", text, re.M)
            return (counts[-1] if counts else "no step done", path.relative_to(root))
    return None


def last_line(log: Path) -> str:
    """The last line of a log that is not empty; progress overwrites its line with carriage returns."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            lines = [line.strip() for line in re.split(r"[\r\n]", file.read().decode(errors="replace"))]
    except FileNotFoundError:
        return "(no log)"
    return next((line for line in reversed(lines) if line), "(empty)")


def lines(found: Status, results: Path, most: int = 10) -> list[str]:
    """The status as text: a line per rule, then at most so many jobs of each state that asks for a look."""
    seconds, gpu_seconds = spent(results)
    counts = {state: sum(job.state == state for job in found.jobs) for state in STATES}
    shown = [state for state in STATES if counts[state] or state == "done"]
    rules = sorted({job.rule for job in found.jobs})
    width = max(map(len, [*rules, "all"]))
    head = "".join(f"{state:>9}" for state in shown) + "     time" + ("  GPU-hours" if gpu_seconds else "")
    text = [f"{results!s}: " + ", ".join(f"{counts[state]} {state}" for state in shown), f"{'':{width}}{head}"]
    for rule in [*rules, "all"]:
        mine = [job.state for job in found.jobs if rule in (job.rule, "all")]
        time_spent, held = (
            sum(value for key, value in of.items() if rule in (key, "all")) for of in (seconds, gpu_seconds)
        )
        numbers = "".join(f"{mine.count(state):>9}" for state in shown) + f"{duration(time_spent):>9}"
        text.append(f"{rule:{width}}{numbers}" + (f"{held / 3600:>11.2f}" if gpu_seconds else ""))
    for state in ("failed", "stopped", "running"):
        of_state = sorted((job for job in found.jobs if job.state == state), key=lambda job: -(_age(job.log) or 0))
        text += [f"{state} {job.name}\n    {job.log}{_when(job.log)}: {last_line(job.log)}" for job in of_state[-most:]]
        if len(of_state) > most:
            text.append(f"    and {len(of_state) - most} more {state}")
    if found.steps:
        said, path = found.steps
        run = f"a run holds locks{silence(found)}" if found.locked else "no run in progress"
        text.append(f"Snakemake: {said}; {run}; {path}")
    return text


def silence(found: Status) -> str:
    """A run that was killed leaves its locks, as one that waits for a cluster has them: silence may mean either."""
    ages = (_age(job.log) for job in found.jobs if job.state != "waiting")
    silent = min((age for age in ages if age is not None), default=0)
    long = f", but no log has changed for {duration(silent)}: if it was killed, run snakemake --unlock"
    return long if silent > SILENT else ""


def _age(log: Path) -> float | None:
    """Seconds since a log was written; None where it is gone."""
    try:
        return time.time() - log.stat().st_mtime
    except FileNotFoundError:
        return None


def _when(log: Path) -> str:
    age = _age(log)
    return "" if age is None else f", {duration(age)} ago"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them: 12 s, 3.4 min, 5.6 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
