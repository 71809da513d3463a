"""Where measurements are kept and shown: perf/results/MACHINE.json, and the tables of docs/performance.md made from it.

    python perf/record.py       write the tables of docs/performance.md again

Every script measures both ways in turns, so that a machine that is slower for a while is slower for both, and keeps one
section of the file; sections of other scripts stay. A ratio is that of the two ways within one turn.
"""

import json
import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "perf/results", ROOT / "docs/performance.md"
BEGIN, END = "<!-- made by perf/record.py from perf/results -->", "<!-- end -->"
SECTIONS = ("targets", "training", "memory", "law", "tree", "vllm", "judge", "perplexity", "scoring", "dag", "page")
THREADS, ROUNDS = 2, 5

Spread = dict[str, float]


def in_turns(
    ways: dict[str, Callable[[], Any]],
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: bool = True,
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each way in each round, and what each returned last."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Any] = {}
    for turn in range(rounds + warm_up):
        for name, work in ways.items():
            started = clock()
            found[name] = work()
            if turn >= warm_up:
                times[name].append(clock() - started)
    return times, found


def spread(samples: Sequence[float]) -> Spread:
    """Median, least and most, to four digits."""
    ends = {"median": statistics.median(samples), "low": min(samples), "high": max(samples)}
    return {name: float(f"{value:.4g}") for name, value in ends.items()}


def compared(
    work: str, unit: str, ours: Sequence[float], other: Sequence[float] = (), wanted: float | None = None
) -> dict[str, Any]:
    """A row of a section: what was done, what it cost in `unit` our way and the other way, in the same turns.

    wanted    the ratio that the project set itself
    """
    row: dict[str, Any] = {"work": work, "unit": unit, "rounds": len(ours), "ours": spread(ours)}
    if other:
        row |= {
            "other": spread(other),
            "ratio": spread([theirs / own for theirs, own in zip(other, ours, strict=True)]),
        }
    return row | ({"wanted": wanted} if wanted is not None else {})


def machine() -> str:
    """The name of this machine's file: its processor and how many cores this process may use."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    named = re.search(r"^model name\s*: (.*)$", text, re.M)
    name = re.sub(r"\((R|TM)\)|@.*|\bCPU\b|\bProcessor\b|\d+-Core", "", named[1] if named else "processor")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return re.sub(r"\W+", "-", f"{name.strip()} {cores} cores").lower()


def keep(
    section: str, title: str, rows: list[dict[str, Any]], notes: Sequence[str] = (), results: Path = RESULTS
) -> None:
    """Put a section into this machine's file, write the page's tables again and print the section's.

    title    what is compared with what, one line
    notes    sentences for below the table
    """
    path = results / f"{machine()}.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    known[section] = {"date": date.today().isoformat(), "title": title, "rows": rows, "notes": list(notes)}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({name: known[name] for name in SECTIONS if name in known}, indent=1, ensure_ascii=False)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n")
    temporary.replace(path)
    print(table(known[section]), flush=True)
    if results == RESULTS:
        update()


def shown(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cell(value: Spread, unit: str = "") -> str:
    low, high = shown(value["low"]), shown(value["high"])
    return f"{shown(value['median'])}{unit}" + (f" ({low}–{high})" if low != high else "")


def _aim(wanted: float, found: float) -> str:
    return f"≥ {wanted:g}" + (", missed" if found < wanted else "")


def table(section: dict[str, Any]) -> str:
    """A section in Markdown: its title, its rows, its notes."""
    against = any("ratio" in row for row in section["rows"])
    turns = min(row["rounds"] for row in section["rows"])
    lines = [f"**{section['title']}** ({section['date']}, {turns} turn{'s' if turns > 1 else ''})", ""]
    lines += (
        ["| | ours | the other way | ratio | aim |", "|---|---|---|---|---|"] if against else ["| | |", "|---|---|"]
    )
    for row in section["rows"]:
        cells = [row["work"], _cell(row["ours"], f" {row['unit']}")]
        if against:
            cells += [_cell(row["other"], f" {row['unit']}"), _cell(row["ratio"])] if "ratio" in row else ["", ""]
            cells.append(_aim(row["wanted"], row["ratio"]["median"]) if "wanted" in row else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *(f"\n{note}" for note in section["notes"])])


def tables(results: Path = RESULTS) -> str:
    """Every machine's sections."""
    parts = []
    for path in sorted(results.glob("*.json")):
        found = json.loads(path.read_text())
        parts += [f"### {path.stem}", *(table(found[name]) for name in SECTIONS if name in found)]
    return "\n\n".join(parts)


def update(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Write the tables into the page, between its two marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not closed:
        raise SystemExit(f"{page}: the marks {BEGIN!r} and {END!r} are not there")
    page.write_text(f"{before}{BEGIN}\n\n{tables(results)}\n\n{END}{after}")


if __name__ == "__main__":
    update()
