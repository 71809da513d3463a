"""A running workflow as it goes on: on a terminal a line per running job, elsewhere plain lines at most every 10 s.

What a job has done stands in the last line of its log (cft.progress); nothing else is asked of it.
"""

import time
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cft.progress import EVERY, read
from cft.status import STATES, Status, duration, last_line, silence, status

LOOK = 2.0  # seconds between two looks at a terminal


def watch(results: Path, planned: Iterable[str] = (), console: Console | None = None, look: float = LOOK) -> None:
    """Show the jobs of a results folder until no run is in progress. Raises CftError when nothing was run there."""
    console, planned = console or Console(), list(planned)
    found = status(results, planned)
    if not console.is_terminal:
        while found.locked:
            told = "\n".join(running(found)) or "no job runs"
            console.print(told + silence(found), soft_wrap=True, highlight=False, markup=False)
            time.sleep(max(look, EVERY))
            found = status(results, planned)
        return
    with Live(screen(found), console=console, transient=True, auto_refresh=False) as live:
        while found.locked:
            live.update(screen(found), refresh=True)
            time.sleep(look)
            found = status(results, planned)


def running(found: Status) -> list[str]:
    """A line per running job, as its log has it."""
    return [f"{job.name}: {last_line(job.log)}" for job in found.jobs if job.state == "running"]


def screen(found: Status) -> Group:
    """How many jobs there are of each state, what Snakemake said last, and a bar per running job."""
    counts = {state: sum(job.state == state for job in found.jobs) for state in STATES}
    head = ", ".join(f"{count} {state}" for state, count in counts.items() if count or state == "done")
    table = Table.grid(padding=(0, 1))
    for job in (job for job in found.jobs if job.state == "running"):
        line = last_line(job.log)
        told = read(line)
        if told is None:
            table.add_row(job.name, "", Text(line, overflow="ellipsis", no_wrap=True))
            continue
        bar = ProgressBar(total=told.total, completed=told.done, width=20)
        rest = f"{told.done}/{told.total} {told.unit}, {told.rate:g}/s, {duration(told.left)} left {told.note}"
        table.add_row(job.name, bar, rest)
    failed = [Text(f"failed {job.name}: {job.log}", style="red") for job in found.jobs if job.state == "failed"]
    said = [Text(f"Snakemake: {found.steps[0]}{silence(found)}")] if found.steps else []
    return Group(Text(head), *said, table, *failed)
