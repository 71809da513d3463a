"""From tidy scores to estimates: mean within a family, then over families, with 95% intervals (arXiv 2605.11845)."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from cft import CftError
from cft.benchmarks.structured import GREATEST, family_of
from cft.resampling import Drawn, bootstrap, combine
from cft.stats import Interval

LEVELS = ("unit", "item", "seed")
NO_CELL = pd.DataFrame(index=pd.Index([], name="unit"))
SPLITS = {"unseen_params": "unseen parameters", "unseen_families": "unseen families"}


def in_order(column: Iterable[Any]) -> list[Any]:
    """The different values of a column in the order of their first appearance."""
    return list(dict.fromkeys(column))


def named(models: Sequence[str], part: str) -> str | None:
    """The first model whose name contains `part`, in any case."""
    return next((name for name in models if part in name.lower()), None)


def where(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows that have the given value in each of the named columns."""
    keep = np.ones(len(frame), bool)
    for column, value in values.items():
        keep &= (frame[column] == value).to_numpy()
    return frame.take(np.flatnonzero(keep))


def reference(methods: list[str]) -> str:
    """The method that the others are compared with: base, or the first where there is none of that name."""
    return "base" if "base" in methods else methods[0]


def runs(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """The first columns of a table: model, method, and how many `seeds` they have; models in order, then methods."""
    return [
        {"model": model, "method": method, "seeds": len(in_order(where(rows, method=method)["seed"]))}
        for model in in_order(scores["model"])
        for rows in [where(scores, model=model)]
        for method in in_order(rows["method"])
    ]


def collect(scores: pd.DataFrame, benchmark: str) -> pd.DataFrame:
    """One benchmark's scores, a row per (model, method, split, unit, seed), a column per metric.

    The unit is what an interval resamples first: the family of structured items, whose prompts are a further level
    `item` of the index, else the item.
    Raises CftError when `scores` holds nothing of that benchmark.
    """
    rows = where(scores, benchmark=benchmark)
    if rows.empty:
        raise CftError(f"the scores hold nothing of the benchmark {benchmark!r}; add it to the configuration")
    levels = ["unit", "item"] if benchmark == "structured" else ["unit"]
    rows = rows.assign(unit=rows["item"].map(family_of) if len(levels) > 1 else rows["item"])
    means: Any = rows.groupby(["model", "method", "split", *levels, "seed", "metric"], sort=False)["value"].mean()
    return means.unstack("metric")


def cell(wide: pd.DataFrame, metric: str, model: str, method: str, split: str | None = None) -> pd.DataFrame:
    """[units x seeds], or [(unit, item) x seeds], of one metric of a collected benchmark; all splits together when
    `split` is None, and nothing (NO_CELL) where it was not measured."""
    if metric not in wide:
        return NO_CELL
    keys = {"model": model, "method": method} | ({} if split is None else {"split": split})
    try:
        rows = wide[metric].xs(tuple(keys.values()), level=list(keys))
    except KeyError:
        return NO_CELL
    means: Any = rows.groupby([name for name in rows.index.names if name in LEVELS], sort=False).mean()
    return means.unstack("seed")


def drawn(wide: pd.DataFrame, metric: str, model: str, method: str, split: str | None = None) -> Drawn:
    """`cell` of a metric that has its standard error beside it in METRIC_se; no error where it has none."""
    found, errors = (cell(wide, name, model, method, split) for name in (metric, f"{metric}_se"))
    return Drawn(found, errors.reindex_like(found), GREATEST.get(metric, np.inf))


def columns(name: str, found: Interval) -> dict[str, float]:
    """An interval as three columns of a table: NAME, NAME_low and NAME_high."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))


def estimate(values: pd.DataFrame | Drawn, statistic: str = "mean") -> Interval:
    """The mean or median over units of a cell, its interval within the range of the metric."""
    found = bootstrap(lambda units: combine(units, statistic), values)
    if not isinstance(values, Drawn):
        return found
    low, high = found.low, found.high
    if low == high and np.isfinite(values.most):  # none or all of the draws: units do not say how many more there are
        errors = values.errors.where(values.found.notna()).to_numpy(float)
        reach = norm.isf(0.025) * float(np.nansum(errors**2)) ** 0.5 / max(1, np.isfinite(errors).sum())
        low, high = low - reach, high + reach
    return Interval(found.estimate, max(low, 0.0), min(high, values.most))


def ratio(top: pd.DataFrame | Drawn, bottom: pd.DataFrame | Drawn) -> Interval:
    """Mean of one cell over the mean of another, paired by item and seed."""
    return bootstrap(lambda above, below: combine(above) / combine(below), top, bottom)


def difference(first: pd.DataFrame | Drawn, second: pd.DataFrame, statistic: str = "mean") -> Interval:
    """The mean or median over units of one cell minus another, paired by item and seed."""
    return bootstrap(lambda one, other: combine(one - other, statistic), first, second)
