"""One self-contained HTML page: what was run, the key results with intervals, tables, figures, what to beware of."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from cft.benchmark_settings import SamplingSettings
from cft.config import Experiment
from cft.stats import Interval
from cft.summary import SPLITS, cell, collect, estimate, in_order, ratio, reference, where
from cft.tables import number, readable, with_interval

TEMPLATE = Path(__file__).with_name("report.html.j2")
POOLED = "all held-out prompts"


def build(
    title: str,
    settings: Mapping[str, Any],
    scores: pd.DataFrame,
    tables: Mapping[str, Path | str],
    figures: Mapping[str, Path | str],
    captions: Mapping[str, str],
    runs: Sequence[Mapping[str, Any]],
) -> str:
    """The page as text.

    settings  label -> value, shown as they are (draws, decimals, training steps, …)
    scores    tidy scores of every benchmark; without structured ones the page has no key results
    tables    name -> CSV written by `cft.tables.save`;  figures: name -> PNG
    captions  name -> text of workflow/report/NAME.rst, paragraphs apart by an empty line
    runs      contents of the run.json files
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        settings={label: _text(value) for label, value in settings.items()},
        models=in_order(scores["model"]),
        methods=in_order(scores["method"]),
        seeds=in_order(scores["seed"]),
        results=key_results(scores) if "structured" in set(scores["benchmark"]) else [],
        remarks=remarks(scores),
        tables={name: _table(Path(path)) for name, path in tables.items()},
        figures={name: base64.b64encode(Path(path).read_bytes()).decode() for name, path in figures.items()},
        captions={name: text.strip().split("\n\n") for name, text in captions.items()},
        steps=steps(runs),
        origin=origin(runs),
    )


def key_results(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Per model, tuned method and set of held-out prompts: how the model's exact law moved from the reference method.

    Each row has model, method, prompts and as `Interval`s the support probability (mean of family means) of the
    reference and the method, their sequence KL in nats, and the paired ratio reference / method of the latter.
    """
    wide = collect(scores, "structured")
    methods = in_order(scores["method"])
    before = reference(methods)
    rows = []
    for model in in_order(scores["model"]):
        for method in (name for name in methods if name != before):
            for label, split in [(POOLED, None), *((label, split) for split, label in SPLITS.items())]:
                support = [cell(wide, "support_probability", model, name, split) for name in (before, method)]
                sequence = [cell(wide, "sequence_kl", model, name, split) for name in (before, method)]
                # A method that asks in another way has no law on these prompts.
                if all(part.dropna(how="all").empty for part in (support[1], sequence[1])):
                    continue
                found = [*map(estimate, support), *map(estimate, sequence), ratio(*sequence)]
                names = ("support_before", "support_after", "kl_before", "kl_after", "kl_ratio")
                row = {"model": model, "method": method, "reference": before, "prompts": label}
                row |= dict(zip(names, found, strict=True))
                rows.append(
                    row
                    | {"sentence": _sentence(row) if split is None and _complete(row) else None, "cells": _cells(row)}
                )
    return rows


def _sentence(row: Mapping[str, Any]) -> str:
    before, after, times = row["support_before"], row["support_after"], row["kl_ratio"]
    moved = "rose" if after.estimate > before.estimate else "fell" if after.estimate < before.estimate else "stayed"
    kl = "fell" if times.estimate > 1 else "did not fall"
    kl_before, kl_after = with_interval(*row["kl_before"]), with_interval(*row["kl_after"])
    return (
        f"{row['model']}, {row['method']}: the probability that an output is in the support {moved} from "
        f"{with_interval(*before)} ({row['reference']}) to {with_interval(*after)}; the sequence KL {kl}, from "
        f"{kl_before} to {kl_after} nats, a factor of {with_interval(*times)}."
    )


def _complete(row: Mapping[str, Any]) -> bool:
    return bool(np.isfinite([value.estimate for value in row.values() if isinstance(value, Interval)]).all())


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [with_interval(*value) for value in row.values() if isinstance(value, Interval)]


def remarks(scores: pd.DataFrame) -> list[str]:
    """What limits these results, computed where it can be."""
    structured = where(scores, benchmark="structured")
    draws = where(structured, metric="n")["value"]
    valid = where(structured, metric="valid_rate")
    nothing = Counter(where(valid, value=0)["method"])
    models = len(in_order(scores["model"]))
    found = []
    if models < 3:
        found.append(
            f"{'One model' if models == 1 else 'Two models'} and a limited training budget: the direction of an effect "
            "may carry over to larger models and longer training, its size need not."
        )
    if any(len(in_order(where(scores, model=model)["seed"])) == 1 for model in in_order(scores["model"])):
        found.append(
            "One training seed: the intervals say how much the families of prompts differ, not how much another "
            "training run would."
        )
    if len(draws):
        found.append(
            f"The structured benchmark has {number(float(np.median(draws)))} draws per prompt. With so many, the "
            "distances of a perfect sampler are not 0 either: they are the floors printed beside the distances."
        )
    if nothing:
        listed = ", ".join(f"{method} {count}" for method, count in nothing.items())
        found.append(
            f"Prompts without a single valid draw, over all models and seeds: {listed}. The normalised W1 leaves them "
            "out and so flatters; the W1 on the probability scale counts every invalid draw."
        )
    found.append(
        "The support probability and the KLs are exact for the target's strings, not estimated from draws. A correct "
        "number that is written with other decimals than the target's strings is outside the support."
    )
    return found


def steps(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Wall time per sub-command: how many runs, their sum and the longest, in seconds; in order of first start."""
    if not runs:
        return []
    frame = pd.DataFrame([{"step": _step(run), "start": run["started"], "seconds": run["seconds"]} for run in runs])
    grouped = frame.sort_values("start", kind="stable").groupby("step", sort=False)["seconds"]
    return [
        {"step": step, "runs": len(seconds), "total": seconds.sum(), "longest": seconds.max()}
        for step, seconds in grouped
    ]


def _step(run: Mapping[str, Any]) -> str:
    """The sub-command and, where it names one, its benchmark, table or figure: everything before the first option."""
    words = list(run["command"][1:])
    first = next((i for i, word in enumerate(words) if word.startswith("-") or "/" in word), len(words))
    return " ".join(words[:first]) or "unknown"


def origin(runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Code, packages and machines of the runs; several values where the runs differ."""
    found: dict[str, list[str]] = {}
    for run in runs:
        code, machine = run["code"], run["machine"]
        changed = {True: " with uncommitted changes", False: "", None: ""}[code["modified"]]
        facts = {
            "code": f"commit {code['commit']}{changed}",
            "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['system']}",
            "python": run["python"],
            "packages": ", ".join(f"{name} {version}" for name, version in run["packages"].items()),
        }
        for label, text in facts.items():
            found.setdefault(label, [])
            if text not in found[label]:
                found[label].append(text)
    return {label: "; ".join(texts) for label, texts in found.items()}


def _table(path: Path) -> dict[str, Any]:
    shown = readable(pd.read_csv(path, dtype={"model": str, "method": str}))
    return {"head": list(shown.columns), "rows": shown.to_numpy().tolist()}


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def describe(experiment: Experiment) -> dict[str, Any]:
    """An experiment's settings for readers: label -> value, for `build`."""
    rows: dict[str, Any] = {}
    for name, method in experiment.methods.items():
        if method.kind == "finetune":
            steps = "all steps" if method.max_steps is None else f"at most {method.max_steps} steps"
            rows[f"training, {name}"] = (
                f"{'soft' if method.labels == 'law' else 'hard'} targets with {method.decimals} decimals and at most "
                f"{method.max_bins:,} values; {steps} of {method.batch_size} values, {method.draws_per_prompt} of a "
                f"prompt together; learning rate {method.learning_rate:g}; LoRA rank {method.lora.rank}"
            )
        elif method.kind != "base":
            rows[f"method, {name}"] = _text(method.model_dump())
    for name, settings in experiment.benchmarks.chosen().items():
        if isinstance(settings, SamplingSettings):
            rows[f"benchmark, {name}"] = (
                f"{settings.draws:,} draws per prompt of at most {settings.max_new_tokens} tokens, temperature "
                f"{settings.temperature:g}, top-p {settings.top_p:g}, engine {settings.engine}"
            )
        else:
            rows[f"benchmark, {name}"] = _text(settings.model_dump(exclude_none=True))
    for name, judge in experiment.judges or ():
        rows[f"judge, {name}"] = _text(
            judge.model_dump(exclude_none=True, include={"repo", "revision", "architecture"})
        )
    if experiment.benchmarks.structured:
        lattice = experiment.benchmarks.structured
        rows["targets of the exact law"] = f"{lattice.decimals} decimals, at most {lattice.max_bins:,} values"
    return rows
