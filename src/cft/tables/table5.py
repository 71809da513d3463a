"""Prompting baselines beside fine-tuning: fidelity and open-ended variety, and what they cost in tokens."""

import pandas as pd

from cft.paired import BASE, scores_of
from cft.resampling import UNKNOWN
from cft.summary import SPLITS, cell, collect, columns, drawn, estimate, ratio, runs, where

READS = {"scores": ["structured", "open_ended"]}
BENCHMARKS = ("structured", "open_ended")


def make(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per model and method; the columns of a benchmark that was not run are absent.

    Raises CftError when neither was run.
    """
    wide = {name: scores_of(scores, name) for name in BENCHMARKS}
    wide = {name: found for name, found in wide.items() if len(found)} or {"structured": collect(scores, "structured")}
    used = pd.concat([where(scores, benchmark=name) for name in wide])
    parts = {"structured": _structured, "open_ended": _open_ended}
    rows = runs(used)
    for row in rows:
        for name in wide:
            row |= parts[name](wide[name], row["model"], row["method"])
    return pd.DataFrame(rows)


def _structured(wide: pd.DataFrame, model: str, method: str) -> dict[str, float]:
    row: dict[str, float] = {}
    for split in SPLITS:
        row |= columns(f"valid_rate_{split}", estimate(drawn(wide, "valid_rate", model, method, split)))
        row |= columns(f"pit_w1_{split}", estimate(drawn(wide, "pit_w1", model, method, split)))
        row[f"pit_w1_{split}_floor"] = estimate(cell(wide, "pit_w1_floor", model, method, split)).estimate
    return row | _cost(wide, "structured", model, method)


def _open_ended(wide: pd.DataFrame, model: str, method: str) -> dict[str, float]:
    row = columns("open-ended_unique_rate", estimate(cell(wide, "unique_rate", model, method)))
    sizes = cell(wide, "support_size_0.9", model, method)
    row |= columns("open-ended_support_size_90_percent", estimate(sizes, "median"))
    return row | _cost(wide, "open-ended", model, method)


def _cost(wide: pd.DataFrame, name: str, model: str, method: str) -> dict[str, float]:
    """Tokens per draw, and how many times base's."""
    mine, base = (drawn(wide, "tokens_per_draw", model, each) for each in (method, BASE))
    times = UNKNOWN if method == BASE else ratio(mine, base)
    return columns(f"{name}_tokens_per_draw", estimate(mine)) | columns(f"{name}_tokens_ratio", times)
