"""Paired statistics: what a method changes, item by item, against base.

Cells are frames [units x seeds] as cft.summary.cell gives them. Intervals resample units, what is in them,
and seeds; see cft.resampling.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cft.resampling import NOTHING, RESAMPLES, SEED_RESAMPLES, UNKNOWN, Drawn, Resampled, combine, resample
from cft.stats import Interval
from cft.streams import stream
from cft.summary import cell, collect, drawn, where

BASE = "base"
# The aggregate of tinyBenchmarks: five tasks, GSM8K by its strict extraction.
FIVE_TASKS = ("mmlu", "hellaswag", "truthfulqa", "winogrande", "gsm8k_strict")


def scores_of(scores: pd.DataFrame, benchmark: str, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """One benchmark collected as by cft.summary.collect, only some metrics; an empty frame where it was not run."""
    rows: Any = where(scores, benchmark=benchmark)
    if metrics is not None:
        rows = rows[rows["metric"].isin(metrics)]
    return pd.DataFrame() if rows.empty else collect(rows, benchmark)


def pooled(wide: pd.DataFrame, metric: str, model: str, method: str) -> pd.DataFrame:
    """[(split, unit) x seeds] of one metric: items of the same name in two splits stay two units."""
    splits = wide.index.unique("split") if len(wide) else ()
    cells = {split: cell(wide, metric, model, method, split) for split in splits}
    cells = {split: part for split, part in cells.items() if not part.empty}
    return pd.concat(cells) if cells else pd.DataFrame()


def at_equal_draws(
    wide: pd.DataFrame, metric: str, model: str, methods: tuple[str, str], split: str | None = None
) -> list[Drawn]:
    """`drawn` of a distance between valid draws for two methods, as if each had as few of them as the other has.

    Fewer draws lie further from the target, even where both methods follow it. The noise, as large as METRIC_floor, and
    a deviation of the law add about as squares do. So the distance d of the method with the lower floor becomes
    sqrt(d^2 + the other's floor^2 - its own^2): the other's floor where it samples perfectly, d where d is far above.
    """
    parts = [drawn(wide, metric, model, method, split) for method in methods]
    floors = [cell(wide, f"{metric}_floor", model, method, split) for method in methods]
    if any(floor.empty for floor in floors):
        return parts  # a method that was not run
    found = []
    for part, own, other in zip(parts, floors, floors[::-1], strict=True):
        more = (other**2).reindex_like(part.found) - (own**2).reindex_like(part.found)
        found.append(part._replace(found=(part.found**2 + more.clip(lower=0)) ** 0.5))
    return found


def once_for_all_seeds(base: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """`base`, which a deterministic benchmark measures once, beside every seed of `tuned`."""
    if base.shape[1] != 1 or tuned.empty:
        return base
    return pd.DataFrame(dict.fromkeys(tuned.columns, base.iloc[:, 0]))


def mean_difference(tuned: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Mean over units [..., units] of tuned - base."""
    return combine(tuned - base)


def log_ratio(statistic: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The logarithm of the mean or median over units of one cell over that of another."""
    return lambda top, bottom: np.log(combine(top, statistic) / combine(bottom, statistic))


def log_perplexity_ratio(
    nats: np.ndarray, tokens: np.ndarray, base_nats: np.ndarray, base_tokens: np.ndarray
) -> np.ndarray:
    """Nats per token minus base's, each a ratio of sums over units [..., units]: the logarithm of the two perplexities'
    ratio."""
    return np.nansum(nats, -1) / np.nansum(tokens, -1) - np.nansum(base_nats, -1) / np.nansum(base_tokens, -1)


def block_sums(blocks: pd.DataFrame, model: str, method: str, slices: Sequence[str]) -> list[pd.DataFrame]:
    """The cells of log_perplexity_ratio, from the collected sums of PALOMA's blocks: units are (slice, block).

    A slice's sums over all its documents are not among them: they would count everything twice.
    """
    cells = {}
    for name in (method, BASE):
        for metric in ("nats", "tokens"):
            parts = {each: cell(blocks, metric, model, name, each) for each in slices}
            parts = {each: part[part.index.str.startswith("block-")] for each, part in parts.items() if len(part)}
            cells[name, metric] = pd.concat(parts) if parts else pd.DataFrame()
    found = [cells[name, metric] for name in (method, BASE) for metric in ("nats", "tokens")]
    return [*found[:2], *(once_for_all_seeds(base, found[0]) for base in found[2:])]


def exp(found: Interval) -> Interval:
    """An interval of logarithms on the original scale."""
    return Interval(*map(float, np.exp(found)))


def five_tasks(correct: pd.DataFrame, model: str, method: str, base: str | None = None) -> Resampled:
    """The mean of the task means of FIVE_TASKS, or its difference to `base`; NaN where a task is missing.

    correct    the collected metric "correct". Items are resampled within each task, as the tasks are fixed.
    """
    parts = []
    for task in FIVE_TASKS:
        mine = cell(correct, "correct", model, method, task)
        if base is None:
            parts.append(resample(combine, mine, stratum=task))
        else:
            other = once_for_all_seeds(cell(correct, "correct", model, base, task), mine)
            parts.append(resample(mean_difference, mine, other, stratum=task))
    return together(lambda *tasks: np.mean(tasks, axis=0), *parts)


def together(function: Callable[..., Any], *parts: Resampled) -> Resampled:
    """`function` of several statistics, value by value; NaN where one of them is."""
    found, values, by_seed, units, seeds = zip(*parts, strict=True)
    return Resampled(float(function(*found)), function(*values), function(*by_seed), min(units), min(seeds))


def each_model(
    models: Sequence[str], function: Callable[..., np.ndarray], cells: Callable[[str], Sequence[pd.DataFrame | Drawn]]
) -> list[Resampled]:
    """The statistic of every model that has all of its cells."""
    found = map(cells, models)
    return [resample(function, *parts) for parts in found if not any(part.empty for part in parts)]


def over_models(parts: Sequence[Resampled], name: str = "") -> Resampled:
    """The mean over models, which are resampled too where there are several; a single one keeps its own units.

    Models where the statistic is undefined are left out. Groups of models of different names are independent.
    """
    defined = [part for part in parts if np.isfinite(part.found)]
    if not defined:
        return NOTHING
    if len(defined) == 1:
        return defined[0]
    values = np.stack([part.values for part in defined], axis=1)
    chosen = stream(0, "bootstrap models", name).integers(len(defined), size=values.shape)
    means = combine(np.take_along_axis(values, chosen, axis=1))
    by_seed = combine(np.stack([part.by_seed for part in defined], axis=1))
    seeds = min(part.seeds for part in defined)
    return Resampled(float(np.mean([part.found for part in defined])), means, by_seed, len(defined), seeds)


def share_of_models(parts: Sequence[Resampled]) -> Interval:
    """The share of the models of which something holds (what was found is 0 or 1), and Clopper and Pearson's interval:
    models are what is counted, and draws of two that agree would agree every time."""
    held = [part.found for part in parts if np.isfinite(part.found)]
    if not held:
        return UNKNOWN
    counted = stats.binomtest(int(sum(held)), len(held))
    return Interval(counted.statistic, *counted.proportion_ci(0.95))


def share_of_draws(wide: pd.DataFrame, metric: str, item: str, model: str, method: str) -> Resampled | None:
    """A share of one prompt's draws, which are its units; None where the prompt was not run.

    Seeds are resampled; the share given the draws is drawn from Jeffreys' posterior, Beta(k + 1/2, n - k + 1/2), of all
    seeds together, as each has draws of its own.
    """
    cells = [cell(wide, name, model, method) for name in (metric, "n")]
    if any(item not in part.index for part in cells):
        return None
    shares, n = cells[0].loc[item].dropna().to_numpy(), cells[1].loc[item].sum()
    if not len(shares):
        return None
    generator = stream(0, "bootstrap draws", method)
    around = shares[generator.integers(len(shares), size=(RESAMPLES, len(shares)))].mean(axis=1)
    values = generator.beta(n * around + 0.5, n * (1 - around) + 0.5)
    return Resampled(float(shares.mean()), values, around[:SEED_RESAMPLES], int(n), len(shares))


def extreme(choose: Callable[..., Any], found: Sequence[Interval]) -> Interval:
    """The least or greatest of several quantities (`choose` is np.min or np.max), NaN where one is NaN.

    Each end is the extreme of the ends: where the intervals hold all at once, so does this one. For 95% give each of
    them the level 1 - 0.05/number (Bonferroni).
    """
    estimates, lows, highs = zip(*found, strict=True)
    return Interval(float(choose(estimates)), float(choose(lows)), float(choose(highs)))


def mcnemar_exact(lost: int, gained: int) -> float:
    """Two-sided exact p-value that items are lost and gained equally often (McNemar 1947): Binomial(n, 1/2)."""
    return float(stats.binomtest(lost, lost + gained, 0.5).pvalue) if lost + gained else 1.0


def mcnemar(tuned: pd.DataFrame, base: pd.DataFrame) -> float:
    """The p-value of McNemar's exact test between two cells of 0 and 1, over all seeds; NaN without a pair."""
    units, seeds = tuned.index.intersection(base.index), tuned.columns.intersection(base.columns)
    found = []
    for seed in seeds:
        pairs = np.stack([tuned.loc[units, seed], base.loc[units, seed]])
        after, before = pairs[:, ~np.isnan(pairs).any(axis=0)]
        if len(after):
            found.append(mcnemar_exact(int((after < before).sum()), int((after > before).sum())))
    return over_seeds(found)


def over_seeds(p_values: Sequence[float]) -> float:
    """One p-value of those of several seeds; NaN without any.

    Seeds share their items, so their tests may depend on each other: of K p-values the k-th smallest times K/k, with k
    the middle one, is a p-value whatever the dependence (Rüger 1978). With one seed it is the test's own.
    """
    if not p_values:
        return float("nan")
    middle = (len(p_values) + 1) // 2
    return min(1.0, sorted(p_values)[middle - 1] * len(p_values) / middle)
