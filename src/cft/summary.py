"""From tidy scores to estimates: mean within a family, then over families, with 95% intervals (paper section 5).

An interval is a hierarchical bootstrap: training seeds and families are drawn again, independently, because every seed
is scored on every family; then the prompts of each family; then the draws of each prompt, where a metric is measured on
draws (`Drawn`). Draws of draws lie further from the target than draws do, so that the interval of a perfect sampler's
distance would never hold 0: their level is a normal error of the distance's standard error around what was found.

Each level is in the differences between the units above it already and is counted twice (Davison and Hinkley 1997,
p. 100), so that intervals are rather too wide. Percentiles of few units are too narrow; their levels are those of
Student's t (Hesterberg 2015, section 3.2). A 95% interval then holds the truth in 95-98% of cases with 6 and with 24
families (tests/test_summary.py).
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from cft import CftError
from cft.benchmarks.structured import GREATEST, family_of
from cft.stats import Interval
from cft.streams import stream

RESAMPLES = 2000
LEVELS = ("unit", "item", "seed")
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
    `split` is None."""
    if metric not in wide:
        return pd.DataFrame()
    keys = {"model": model, "method": method} | ({} if split is None else {"split": split})
    try:
        rows = wide[metric].xs(tuple(keys.values()), level=list(keys))
    except KeyError:
        return pd.DataFrame()
    means: Any = rows.groupby([name for name in rows.index.names if name in LEVELS], sort=False).mean()
    return means.unstack("seed")


class Drawn(NamedTuple):
    """A cell that was measured on draws, from 0 to `most`, and the standard errors, of its shape, that these leave."""

    found: pd.DataFrame
    errors: pd.DataFrame
    most: float = np.inf

    @property
    def empty(self) -> bool:
        return self.found.empty

    def only(self, index: pd.Index) -> "Drawn":
        """The same cell, NaN but in the given rows."""
        kept: Any = self.found[self.found.index.isin(index)]
        return self._replace(found=kept.reindex_like(self.found))


def drawn(wide: pd.DataFrame, metric: str, model: str, method: str, split: str | None = None) -> Drawn:
    """`cell` of a metric that has its standard error beside it in METRIC_se; no error where it has none."""
    found, errors = (cell(wide, name, model, method, split) for name in (metric, f"{metric}_se"))
    return Drawn(found, errors.reindex_like(found), GREATEST.get(metric, np.inf))


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


def resample(function: Callable[..., np.ndarray], *cells: pd.DataFrame | Drawn, stratum: str = "") -> Resampled:
    """`function` of the unit means [..., units] of each cell, as found and resampled.

    Cells are paired: they are cut to the items and seeds that all of them have, and resampled together, but for their
    draws. Calls of one stratum with units of the same sizes resample the same ones; different strata are independent
    but for the seeds. NaN values, such as a distance without a valid draw, are left out of the mean within a unit.
    """
    if any(part.empty for part in cells):
        return NOTHING
    values, errors, sizes = _aligned(cells)
    if not sizes:
        return NOTHING
    items, weights = _chosen(sizes, values.shape[2], stratum)
    with np.errstate(divide="ignore", invalid="ignore"):  # what is undefined becomes NaN
        found = float(function(*(combine(_taken(combine(part), _members(sizes))) for part in values)))
        resampled = []
        for number, (part, error, given) in enumerate(zip(values, errors, cells, strict=True)):
            again = _taken(_seed_means(part, weights), items)
            if isinstance(given, Drawn) and error.any():
                # The errors of seeds are added as if these had the same draws, as those of base may.
                noise = _noise(sizes, number, stratum) * _taken(_seed_means(error, weights), items)
                room = np.minimum(again, given.most - again)
                again = again + np.clip(noise, -room, room)  # as far both ways: the mean stays
            resampled.append(combine(again))
        resampled = function(*resampled)
    return Resampled(found, np.where(np.isfinite(resampled), resampled, np.nan), len(sizes))


def _aligned(cells: Sequence[pd.DataFrame | Drawn]) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """[cells, items, seeds] values and their errors, items of a unit in a row, and how many each unit has."""
    frames = [part.found if isinstance(part, Drawn) else part for part in cells]
    index, seeds = frames[0].index, frames[0].columns
    for frame in frames[1:]:
        index, seeds = index[index.isin(frame.index)], seeds[seeds.isin(frame.columns)]
    values = np.stack([frame.loc[index, seeds].to_numpy(float) for frame in frames])
    errors = np.zeros_like(values)
    for number, part in enumerate(cells):
        if isinstance(part, Drawn):
            errors[number] = part.errors.loc[index, seeds].fillna(0)
    values[:, np.isnan(values).any(axis=0)] = np.nan  # a pair with one side missing is no pair
    errors[np.isnan(values) & errors.any(axis=(1, 2), keepdims=True)] = np.nan  # what is missing has no error, not 0
    units = pd.factorize(index.get_level_values("unit"))[0] if "item" in index.names else np.arange(len(index))
    order = np.argsort(units, kind="stable")
    order = order[~np.isnan(values[0, order]).all(axis=1)]
    sizes = np.unique(units[order], return_counts=True)[1]
    return values[:, order], errors[:, order], tuple(map(int, sizes))


def _members(sizes: tuple[int, ...]) -> np.ndarray:
    """[units, most items of a unit] the places of each unit's items, -1 where it has no more."""
    place, first = np.arange(max(sizes)), np.cumsum([0, *sizes[:-1]])[:, None]
    return np.where(place < np.array(sizes)[:, None], first + place, -1)


@lru_cache(maxsize=8)
def _chosen(sizes: tuple[int, ...], seeds: int, stratum: str) -> tuple[np.ndarray, np.ndarray]:
    """[RESAMPLES, units, most items] the places of the items of each unit drawn, -1 for none; [RESAMPLES, seeds] how
    often each seed."""
    units = stream(0, "bootstrap units", stratum).integers(len(sizes), size=(RESAMPLES, len(sizes)), dtype=np.int32)
    columns = stream(0, "bootstrap seeds").integers(seeds, size=(RESAMPLES, seeds))
    weights = (columns[..., None] == np.arange(seeds)).sum(axis=1).astype(float)
    if max(sizes) == 1:
        return units[..., None], weights
    members = _members(sizes)[units]
    count = np.array(sizes)[units][..., None]
    again = (stream(0, "bootstrap items", stratum).random(members.shape) * count).astype(np.int32)
    return np.where(members < 0, -1, members[..., :1] + again), weights


@lru_cache(maxsize=8)
def _noise(sizes: tuple[int, ...], number: int, stratum: str) -> np.ndarray:
    """[RESAMPLES, units, most items] standard normal errors of the draws of one of the cells."""
    return stream(0, "bootstrap draws", number, stratum).standard_normal((RESAMPLES, len(sizes), max(sizes)))


def _seed_means(part: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[RESAMPLES, items] means over weighted seeds of `part` [items, seeds], NaN left out."""
    known = ~np.isnan(part)
    return (weights @ np.where(known, part, 0).T) / (weights @ known.T)


def _taken(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """`values` [..., items] at places [..., units, items], NaN at -1."""
    if places.min() < 0:
        values = np.append(values, np.full((*values.shape[:-1], 1), np.nan), axis=-1)
    return np.take_along_axis(values, places.reshape(*values.shape[:-1], -1), axis=-1).reshape(places.shape)


def interval(resampled: Resampled, level: float = 0.95) -> Interval:
    """The expanded percentile interval; without ends for one unit, which says nothing about how much units differ."""
    values, units = resampled.values[np.isfinite(resampled.values)], resampled.units
    if units < 2 or not len(values):
        return Interval(resampled.found, np.nan, np.nan)
    # The bootstrap's variance of n units is (n - 1)/n of the true one, and is itself uncertain.
    tail = stats.norm.sf(stats.t.isf((1 - level) / 2, units - 1) * (units / (units - 1)) ** 0.5)
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(resampled.found, float(low), float(high))


def bootstrap(function: Callable[..., np.ndarray], *cells: pd.DataFrame | Drawn) -> Interval:
    """`function` of the unit means [..., units] of each cell, with its 95% interval; see `resample`."""
    return interval(resample(function, *cells))


def columns(name: str, found: Interval) -> dict[str, float]:
    """An interval as three columns of a table: NAME, NAME_low and NAME_high."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))


def estimate(values: pd.DataFrame | Drawn, statistic: str = "mean") -> Interval:
    """The mean or median over units of a cell."""
    return bootstrap(lambda units: combine(units, statistic), values)


def ratio(top: pd.DataFrame | Drawn, bottom: pd.DataFrame | Drawn) -> Interval:
    """Mean of one cell over the mean of another, paired by item and seed."""
    return bootstrap(lambda above, below: combine(above) / combine(below), top, bottom)


def difference(first: pd.DataFrame | Drawn, second: pd.DataFrame, statistic: str = "mean") -> Interval:
    """The mean or median over units of one cell minus another, paired by item and seed."""
    return bootstrap(lambda one, other: combine(one - other, statistic), first, second)
