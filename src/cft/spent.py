"""What a run has cost so far: from Snakemake's records of its jobs, and from the run.json beside what they made."""

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cft.settings import read_json

ON_GPUS = {"finetune", "sample", "law", "judge", "retention", "perplexity", "temperature"}


def named(folder: Path, suffix: str) -> dict[str, Path]:
    """Files below a folder by their paths in it, both without the suffix."""
    return {path.relative_to(folder).as_posix().removesuffix(suffix): path for path in folder.rglob(f"*{suffix}")}


def recorded(path: Path) -> list[float]:
    """Seconds of a job in Snakemake's record of its time, one for each repetition; none where it was too short."""
    names, *rows = [line.split("\t") for line in path.read_text().splitlines()] or [["s"]]
    return [float(row[names.index("s")]) for row in rows if row[names.index("s")] not in ("NA", "-")]


def spent(results: Path) -> tuple[dict[str, float], dict[str, float]]:
    """By rule, of a folder of results: the seconds of finished jobs; seconds times GPUs of outputs made on any."""
    seconds, on_gpus = dict[str, float](), dict[str, float]()
    for name, path in named(results / "benchmarks", ".tsv").items():
        rule = name.split("/")[0]
        seconds[rule] = seconds.get(rule, 0) + sum(recorded(path))
    for folder, folders, files in os.walk(results):
        # Another workflow's results, such as those of the smoke test; folders without outputs.
        folders[:] = [
            name
            for name in folders
            if name not in ("logs", "benchmarks", "models", "assets") and not Path(folder, name, "benchmarks").is_dir()
        ]
        for name in files:
            if name == "run.json" or name.endswith(".run.json"):
                run = read_json(Path(folder, name))
                if held := gpu_seconds(run):
                    rule = words_of(run)[0]
                    on_gpus[rule] = on_gpus.get(rule, 0) + held
    return seconds, on_gpus


def gpu_seconds(run: Mapping[str, Any]) -> float:
    """Seconds times GPUs that a run.json tells of; 0 for a command that does not compute on them."""
    on_gpus = bool(ON_GPUS.intersection(words_of(run)[:1])) and run.get("device") != "cpu"
    return len(run["machine"]["gpus"]) * run["seconds"] if on_gpus else 0


def words_of(run: Mapping[str, Any]) -> list[str]:
    """The sub-command of a run.json and, where it names one, its benchmark, table or figure: what no option begins."""
    words = itertools.dropwhile(lambda word: word.startswith("-"), run["command"][1:])  # such as --debug
    return list(itertools.takewhile(lambda word: not word.startswith("-") and "/" not in word, words))
