"""A statistic of cells and its 95% interval: a bootstrap of units and seeds (arXiv 2605.11845).

Training seeds and units (families, items, blocks) are drawn again, independently, because every seed is scored on
every unit. The prompts of a family stay with it, as in the first strategy of Davison and Hinkley (1997, p. 100): they
are in the differences between families already, and so are draws. Only where a metric is measured on draws (`Drawn`)
and units differ less than draws alone would make them, as where none is valid, the rest is added: a normal error of the
distance's standard error, as draws of draws lie further from the target than draws do.

Percentiles of few units or seeds are too narrow; see `_reach`. A 95% interval then holds the truth in 93-96% of cases
with 6 and with 24 families (tests/test_summary.py), in 92-99% with 2 to 12 models, in 93-99% with 2 to 5 seeds, but in
87-91% where these decide more than families do (test_resampling.py), and for means of skewed units less often.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from cft.stats import Interval
from cft.streams import stream

RESAMPLES = 2000
SEED_RESAMPLES = 400
FURTHEST = 3.0  # standard deviations at which percentiles of so many resamples are still known


def combine(units: np.ndarray, statistic: str = "mean") -> np.ndarray:
    """Mean or median over the last axis, NaN left out; NaN where all are NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy warns of slices that are all NaN; NaN is the answer
        return {"mean": np.nanmean, "median": np.nanmedian}[statistic](units, axis=-1)


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


class Resampled(NamedTuple):
    """A statistic, what it is for units and seeds drawn again, and how many of each there are.

    values   [RESAMPLES] NaN where undefined
    by_seed  [SEED_RESAMPLES] for seeds drawn again alone
    """

    found: float
    values: np.ndarray
    by_seed: np.ndarray
    units: int
    seeds: int


UNKNOWN = Interval(np.nan, np.nan, np.nan)
NOTHING = Resampled(np.nan, np.full(RESAMPLES, np.nan), np.full(SEED_RESAMPLES, np.nan), 0, 0)


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
    units, weights = _chosen(len(sizes), values.shape[2], stratum)
    few, members = weights[:SEED_RESAMPLES], _members(sizes)
    items, same = members[units], np.broadcast_to(members, (len(few), *members.shape))

    def again(weights: np.ndarray, places: np.ndarray, noise: float = 0) -> np.ndarray:
        """The statistic of seeds and units drawn again, with errors of draws of so much of their size."""
        parts = [_taken(_seed_means(part, weights), places) for part in values]
        for number, (part, error, given) in enumerate(zip(parts, errors, cells, strict=True)):
            if noise and isinstance(given, Drawn):
                drawn = _noise(sizes, number, stratum)[: len(places)] * _taken(_errors_of_means(error, weights), places)
                room = np.minimum(part, given.most - part)
                parts[number] = part + np.clip(noise * drawn, -room, room)  # as far both ways: the mean stays
        return _finite(function(*map(combine, parts)))

    with np.errstate(divide="ignore", invalid="ignore"):  # what is undefined becomes NaN
        found = float(function(*(combine(_taken(combine(part), members)) for part in values)))
        resampled, by_seed = again(weights, items), again(few, same)
        if errors.any():
            by_draw = again(np.ones_like(few), same, 1)
            seen, all_of_it = (
                float(np.nanvar(part)) if np.isfinite(part).any() else 0.0 for part in (resampled, by_draw)
            )
            if seen < all_of_it:
                resampled = again(weights, items, (1 - seen / all_of_it) ** 0.5)
    return Resampled(found, resampled, by_seed, len(sizes), values.shape[2])


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)


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
            known = part.errors.loc[index, seeds]
            if known.notna().any(axis=None):  # that of a distance of one draw is not known: as large as the distance
                errors[number] = known.fillna(part.found.loc[index, seeds]).fillna(0)
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
def _chosen(units: int, seeds: int, stratum: str) -> tuple[np.ndarray, np.ndarray]:
    """[RESAMPLES, units] the units drawn; [RESAMPLES, seeds] how often each seed."""
    chosen = stream(0, "bootstrap units", stratum).integers(units, size=(RESAMPLES, units), dtype=np.int32)
    columns = stream(0, "bootstrap seeds").integers(seeds, size=(RESAMPLES, seeds))
    return chosen, (columns[..., None] == np.arange(seeds)).sum(axis=1).astype(float)


@lru_cache(maxsize=8)
def _noise(sizes: tuple[int, ...], number: int, stratum: str) -> np.ndarray:
    """[RESAMPLES, units, most items] standard normal errors of the draws of one of the cells."""
    return stream(0, "bootstrap draws", number, stratum).standard_normal((RESAMPLES, len(sizes), max(sizes)))


def _seed_means(part: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[RESAMPLES, items] means over weighted seeds of `part` [items, seeds], NaN left out."""
    known = ~np.isnan(part)
    return (weights @ np.where(known, part, 0).T) / (weights @ known.T)


def _errors_of_means(error: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[RESAMPLES, items] standard errors of _seed_means from those of each seed, [items, seeds]; every seed has draws
    of its own, base too."""
    known = ~np.isnan(error)
    return (weights @ np.where(known, error, 0).T ** 2) ** 0.5 / (weights @ known.T)


def _taken(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """`values` [..., items] at places [..., units, items], NaN at -1."""
    if places.min() < 0:
        values = np.append(values, np.full((*values.shape[:-1], 1), np.nan), axis=-1)
    return np.take_along_axis(values, places.reshape(*values.shape[:-1], -1), axis=-1).reshape(places.shape)


def interval(resampled: Resampled, level: float = 0.95) -> Interval:
    """The interval of percentiles, as far out as `_reach` says; further than they are known, so many standard
    deviations. Without ends for one unit, which says nothing about how much units differ."""
    values = resampled.values[np.isfinite(resampled.values)]
    if resampled.units < 2 or not len(values):
        return Interval(resampled.found, np.nan, np.nan)
    reach = _reach(resampled, level)
    if reach > FURTHEST:
        ends = resampled.found + reach * values.std() * np.array([-1, 1])
    else:
        ends = np.quantile(values, stats.norm.cdf([-reach, reach]))
    return Interval(resampled.found, *map(float, ends))


def _reach(resampled: Resampled, level: float) -> float:
    """How many standard deviations of the resampled values an interval goes to each side.

    The bootstrap's variance of n units is (n - 1)/n of the true one, and is itself as uncertain as n - 1 degrees of
    freedom say (Hesterberg 2015, section 3.2); so with seeds. Their two variances have the degrees of freedom of
    Satterthwaite (1946) together.
    """
    pair = resampled.by_seed, resampled.values[:SEED_RESAMPLES]  # seeds are drawn alike in both
    by_seed, whole = (values[np.isfinite(values)].var() for values in pair)
    share = min(1.0, by_seed / whole) if resampled.seeds > 1 and whole else 0.0
    levels = [(1 - share, resampled.units), (share, resampled.seeds)]
    parts = [(part * n / (n - 1), n - 1) for part, n in levels if n > 1]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    return float(stats.t.isf((1 - level) / 2, freedom) * variance**0.5)


def bootstrap(function: Callable[..., np.ndarray], *cells: pd.DataFrame | Drawn) -> Interval:
    """`function` of the unit means [..., units] of each cell, with its 95% interval; see `resample`."""
    return interval(resample(function, *cells))
