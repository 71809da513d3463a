"""What was run, for readers: settings, code and machines, and what it cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cft.benchmark_settings import SamplingSettings
from cft.config import Experiment
from cft.spent import gpu_seconds, words_of

LABELS = {"law": "Soft targets (the law of the next token)", "draw": "Hard targets (the drawn token)",
          "mixed": "Soft and hard targets together"}  # fmt: skip
MODEL = {"source", "repo", "revision", "package", "path", "architecture", "dtype"}


def steps(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Cost per sub-command: how many runs, how many of them say nothing of the time before they were resumed, their sum
    and the longest in seconds, GPU-hours; in order of first start, then of all together."""
    if not runs:
        return []
    frame = pd.DataFrame(
        {
            "step": " ".join(words_of(run)) or "unknown",
            "start": run["started"],
            "seconds": run["seconds"],
            "gpu": gpu_seconds(run),
        }
        | {"resumed": bool(run.get("resumed_from"))}
        for run in runs
    )
    groups = [*frame.sort_values("start", kind="stable").groupby("step", sort=False), ("all", frame)]
    return [
        {
            "step": step,
            "runs": len(group),
            "resumed": int(group["resumed"].sum()),
            "total": group["seconds"].sum(),
            "longest": group["seconds"].max(),
            "gpu_hours": group["gpu"].sum() / 3600,
        }
        for step, group in groups
    ]


def origin(runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Date, code, images, packages and machines of the runs; several values where the runs differ."""
    found: dict[str, list[str]] = {}
    if runs:
        days = sorted(run["started"][:10] for run in runs)
        found["date"] = [days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"]
    for run in runs:
        for label, text in _facts(run).items():
            found.setdefault(label, [])
            if text not in found[label]:
                found[label].append(text)
    return {label: "; ".join(texts) for label, texts in found.items()}


def temperatures(runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Each method whose laws were computed at another temperature than 1: label -> that of each model.

    It is told where that is an end of the range in which it was looked for.
    """
    found: dict[str, dict[str, str]] = {}
    fits = [run["settings"] for run in runs if run.get("settings", {}).get("kind") == "temperature"]
    ends = {fit[end] for fit in fits for end in ("lowest", "highest")}
    for run in runs:
        temperature = run.get("temperature", 1)
        if temperature != 1:
            whose = run["identity"]
            text = f"{temperature:.3g}" + (
                " (an end of its range: the best may lie beyond)" if temperature in ends else ""
            )
            found.setdefault(f"fitted temperature, {whose['method']}", {})[whose["model"]] = text
    return {label: text_of(of) for label, of in found.items()}


def _facts(run: Mapping[str, Any]) -> dict[str, str]:
    code, machine, image = run["code"], run["machine"], run.get("container")
    changed = {True: " with uncommitted changes", False: "", None: ""}[code["modified"]]
    cards = [f"{card['name']} (driver {card['driver']})" for card in machine["gpus"]]
    return {
        "code": f"commit {code['commit']}{changed}",
        "image": f"{image['name']} {image['digest'] or image['sif_sha256']}" if image else "none",
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['system']}",
        "GPUs": ", ".join(cards) or "none",
        "python": run["python"],
        "packages": ", ".join(f"{name} {version}" for name, version in run["packages"].items()),
    }


def text_of(value: Any) -> str:
    """A setting as text: mappings and lists spelt out, integers with thousands apart."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text_of(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(text_of, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def describe(experiment: Experiment) -> dict[str, Any]:
    """An experiment's settings for readers: label -> value, for `build`."""
    rows: dict[str, Any] = {}
    for name, model in experiment.models.items():
        rows[f"model, {name}"] = text_of(model.model_dump(exclude_none=True, include=MODEL))
    for name, method in experiment.methods.items():
        if method.kind == "finetune":
            unused = {"kind", "labels", *(() if method.labels == "mixed" else ("law_weight",))}
            rows[f"training, {name}"] = f"{LABELS[method.labels]}: " + text_of(
                method.model_dump(exclude_none=True, exclude=unused)
            )
        elif method.kind != "base":
            rows[f"method, {name}"] = text_of(method.model_dump())
    for name, settings in experiment.benchmarks.chosen().items():
        if isinstance(settings, SamplingSettings):
            rows[f"benchmark, {name}"] = (
                f"{settings.draws:,} draws per prompt of at most {settings.max_new_tokens} tokens, temperature "
                f"{settings.temperature:g}, top-p {settings.top_p:g}, engine {settings.engine}"
            )
        else:
            rows[f"benchmark, {name}"] = text_of(settings.model_dump(exclude_none=True))
    for name, judge in experiment.judges or ():
        rows[f"judge, {name}"] = text_of(
            judge.model_dump(exclude_none=True, include={"repo", "revision", "architecture", "dtype"})
        )
    if experiment.benchmarks.structured:
        lattice = experiment.benchmarks.structured
        rows["targets of the exact law"] = f"{lattice.decimals} decimals, at most {lattice.max_bins:,} values"
    return rows
