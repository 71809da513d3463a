"""Structured sampling: how faithful each model and method is on the two held-out splits, beside a perfect sampler."""

from typing import Any

import pandas as pd

from cft.benchmarks.structured import TESTED_AT, family_of
from cft.fidelity import STRUCTURED, fits, structured
from cft.summary import where

READS = {"scores": ["structured"]}
KEYS = ["model", "method", "split"]


def make(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per model, method and split.

    Per measure its value and interval and, where it has a floor, the floor and (of draws) the excess over it; then
    PIT-scale W1 by the law between its bounds, and the tests of fit (NaN where there is no law, or no draws were
    tested).
    """
    found = structured(scores)
    table = pd.DataFrame(found[[*KEYS, "seeds", "prompts", "prompts_without_valid_draw"]])
    table = table.drop_duplicates(ignore_index=True)
    for name, measure in STRUCTURED.items():
        rows = where(found, measure=name).reset_index(drop=True)
        table[[name, f"{name}_low", f"{name}_high"]] = rows[["value", "low", "high"]]
        if measure.floor:
            table[f"{name}_floor"] = rows["floor"]
        if measure.floor and measure.sampled:
            excess = [f"{name}_excess{end}" for end in ("", "_low", "_high")]
            table[excess] = rows[["excess", "excess_low", "excess_high"]]
    tests = fits(scores).rename(columns={"least_p": "p_of_the_worst_prompt"})
    for further in (law_bounds(scores), tests, _not_rejected(scores)):
        table = table.join(further, on=KEYS)
    return table


def law_bounds(scores: pd.DataFrame) -> pd.DataFrame:
    """PIT-scale W1 without draws: the family means of the two bounds, a row per (model, method, split) that has a law.

    Columns: law_pit_w1, in the middle of law_pit_w1_low and law_pit_w1_high, between which it lies (cft.bounds).
    """
    ends = ["law_pit_w1_low", "law_pit_w1_high"]
    rows: Any = where(scores, benchmark="structured")
    rows = rows[rows["metric"].isin(ends)].dropna(subset="value")
    rows = rows.assign(family=rows["item"].map(family_of))
    keys = [*KEYS, "metric"]
    families = rows.groupby([*keys, "family"])["value"].mean()
    found = families.groupby(keys).mean().unstack("metric").reindex(columns=ends)
    found.insert(0, "law_pit_w1", found.mean(axis=1))
    return found.rename_axis(columns=None)


def _not_rejected(scores: pd.DataFrame) -> pd.DataFrame:
    """Columns not_rejected_at_100 …: the share of prompts whose first so many draws pass at 5%, each on its own."""
    names = [f"not_rejected_at_{count}" for count in TESTED_AT]
    rows: Any = where(scores, benchmark="structured")
    rows = rows[rows["metric"].isin(names)].dropna(subset="value")
    found = rows.groupby([*KEYS, "metric"])["value"].mean().unstack("metric").reindex(columns=names)
    return found.astype(float).rename_axis(columns=None)
