"""From tidy scores to estimates: mean within a family, then over families, with 95% intervals (paper section 5).

An interval is a bootstrap over families and, where there are several, over training seeds: both are resampled
independently, because every seed is scored on every family. Prompts within a family and draws of a prompt are not
resampled again: a family brings all of its own, so that how much they vary is in the differences between families
already and would be counted twice (Davison and Hinkley 1997, p. 100). Resampled draws also lie further from the target
than draws do: the interval of a perfect sampler's distance would never hold 0. Percentiles of few units are too narrow;
their levels are those of Student's t (Hesterberg 2015, section 3.2). A 95% interval then holds the truth in 93-95% of
cases with 6 and with 24 families (tests/test_summary.py).
"""

import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from cft import CftError
from cft.benchmarks.structured import family_of
from cft.stats import Interval
from cft.streams import stream

RESAMPLES = 2000
SPLITS = {"unseen_params": "unseen parameters", "unseen_families": "unseen families"}


def in_order(column: Iterable[Any]) -> list[Any]:
    """The different values of a column in the order of their first appearance."""
    return list(dict.fromkeys(column))


def where(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows that have the given value in each of the named columns."""
    keep = np.ones(len(frame), bool)
    for column, value in values.items():
        keep &= (frame[column] == value).to_numpy()
    return frame.take(np.flatnonzero(keep))


def reference(methods: list[str]) -> str:
    """The method that the others are compared with: base, or the first where there is none of that name."""
    return "base" if "base" in methods else methods[0]


def collect(scores: pd.DataFrame, benchmark: str) -> pd.DataFrame:
    """One benchmark's scores, a row per (model, method, split, unit, seed), a column per metric.

    The unit is what an interval resamples: the family (mean over its prompts) of structured items, else the item.
    NaN values, such as a distance without a valid draw, are left out of the mean within a unit.
    Raises CftError when `scores` holds nothing of that benchmark.
    """
    rows = where(scores, benchmark=benchmark)
    if rows.empty:
        raise CftError(f"the scores hold nothing of the benchmark {benchmark!r}; add it to the configuration")
    unit = rows["item"].map(family_of) if benchmark == "structured" else rows["item"]
    keys = ["model", "method", "split", "unit", "seed", "metric"]
    means: Any = rows.assign(unit=unit).groupby(keys, sort=False)["value"].mean()
    return means.unstack("metric")


def cell(wide: pd.DataFrame, metric: str, model: str, method: str, split: str | None = None) -> pd.DataFrame:
    """[units x seeds] of one metric of a collected benchmark; all splits together when `split` is None."""
    if metric not in wide:
        return pd.DataFrame()
    keys = {"model": model, "method": method} | ({} if split is None else {"split": split})
    try:
        rows = wide[metric].xs(tuple(keys.values()), level=list(keys))
    except KeyError:
        return pd.DataFrame()
    means: Any = rows.groupby(["unit", "seed"], sort=False).mean()
    return means.unstack("seed")


def combine(units: np.ndarray, statistic: str = "mean") -> np.ndarray:
    """Mean or median over the last axis, NaN left out; NaN where all are NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy warns of slices that are all NaN; NaN is the answer
        return {"mean": np.nanmean, "median": np.nanmedian}[statistic](units, axis=-1)


class Resampled(NamedTuple):
    """A statistic, its values [RESAMPLES] for resampled units and seeds, NaN where undefined, and how many units."""

    found: float
    values: np.ndarray
    units: int


UNKNOWN = Interval(np.nan, np.nan, np.nan)
NOTHING = Resampled(np.nan, np.full(RESAMPLES, np.nan), 0)


def resample(function: Callable[..., np.ndarray], *cells: pd.DataFrame, stratum: str = "") -> Resampled:
    """`function` of the seed means [..., units] of each cell, as found and resampled.

    Cells are paired: they are cut to the units and seeds that all of them have, and resampled together. Calls of one
    stratum with as many units resample the same ones; different strata are independent but for the seeds.
    """
    if any(part.empty for part in cells):
        return NOTHING
    units, seeds = cells[0].index, cells[0].columns
    for part in cells[1:]:
        units, seeds = units[units.isin(part.index)], seeds[seeds.isin(part.columns)]
    values = np.stack([part.loc[units, seeds].to_numpy(float) for part in cells])
    values[:, np.isnan(values).any(axis=0)] = np.nan  # a pair with one side missing is no pair
    values = values[:, ~np.isnan(values[0]).all(axis=1)]
    if not values.size:
        return NOTHING
    rows, weights = _chosen(*values.shape[1:], stratum)
    with np.errstate(divide="ignore", invalid="ignore"):  # what is undefined becomes NaN
        found = float(function(*(combine(part) for part in values)))
        resampled = function(*(np.take_along_axis(_seed_means(part, weights), rows, axis=1) for part in values))
    return Resampled(found, np.where(np.isfinite(resampled), resampled, np.nan), values.shape[1])


@lru_cache(maxsize=8)
def _chosen(units: int, seeds: int, stratum: str) -> tuple[np.ndarray, np.ndarray]:
    """[RESAMPLES, units] which units, [RESAMPLES, seeds] how often each seed."""
    rows = stream(0, "bootstrap units", stratum).integers(units, size=(RESAMPLES, units), dtype=np.int32)
    columns = stream(0, "bootstrap seeds").integers(seeds, size=(RESAMPLES, seeds))
    return rows, (columns[..., None] == np.arange(seeds)).sum(axis=1).astype(float)


def _seed_means(part: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[RESAMPLES, units] means over weighted seeds of `part` [units, seeds], NaN left out."""
    known = ~np.isnan(part)
    return (weights @ np.where(known, part, 0).T) / (weights @ known.T)


def interval(resampled: Resampled, level: float = 0.95) -> Interval:
    """The expanded percentile interval; without ends for one unit, which says nothing about how much units differ."""
    values, units = resampled.values[np.isfinite(resampled.values)], resampled.units
    if units < 2 or not len(values):
        return Interval(resampled.found, np.nan, np.nan)
    # The bootstrap's variance of n units is (n - 1)/n of the true one, and is itself uncertain.
    tail = stats.norm.sf(stats.t.isf((1 - level) / 2, units - 1) * (units / (units - 1)) ** 0.5)
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(resampled.found, float(low), float(high))


def bootstrap(function: Callable[..., np.ndarray], *cells: pd.DataFrame) -> Interval:
    """`function` of the seed means [..., units] of each cell, with its 95% interval; see `resample`."""
    return interval(resample(function, *cells))


def columns(name: str, found: Interval) -> dict[str, float]:
    """An interval as three columns of a table: NAME, NAME_low and NAME_high."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))


def estimate(values: pd.DataFrame, statistic: str = "mean") -> Interval:
    """The mean or median over units of a cell."""
    return bootstrap(lambda units: combine(units, statistic), values)


def ratio(top: pd.DataFrame, bottom: pd.DataFrame) -> Interval:
    """Mean of one cell over the mean of another, paired by unit and seed."""
    return bootstrap(lambda above, below: combine(above) / combine(below), top, bottom)


def difference(first: pd.DataFrame, second: pd.DataFrame, statistic: str = "mean") -> Interval:
    """The mean or median over units of one cell minus another, paired by unit and seed."""
    return bootstrap(lambda one, other: combine(one - other, statistic), first, second)
