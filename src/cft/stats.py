"""Distances to a target, what a perfect sampler scores on them, and intervals.

Every figure of a finite sample is noise to some degree. The floors say how much: the value that a perfect sampler with
as many draws reaches, by simulation with a fixed seed.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats

from cft.distributions import Family
from cft.target import clip_range

REPLICATES = 200
MOST_SIMULATED = 5000
SEED = 20260511
INVALID_DISTANCE = 0.5
CURVE = 99  # points of a distribution function that are kept


class Floor(NamedTuple):
    """What a perfect sampler scores: its expectation and its 95 % quantile, in the units of the distance."""

    mean: float
    high: float


class Interval(NamedTuple):
    """An estimate and the ends of its interval, all in the units of what was estimated."""

    estimate: float
    low: float
    high: float


NO_FLOOR = Floor(float("nan"), float("nan"))


def midpoints(n: int) -> np.ndarray:
    """[n] the levels (i - 1/2)/n, i = 1 … n."""
    return (np.arange(n) + 0.5) / n


def quantiles_of(frozen: Any, levels: np.ndarray) -> np.ndarray:
    """[levels' shape] the quantiles of a SciPy distribution, in its units.

    A discrete one's come from a table of its distribution function: SciPy's own search ends in an error for some
    Skellam laws ("endless loop") and takes milliseconds per level for others.
    """
    if not isinstance(frozen.dist, stats.rv_discrete):
        return frozen.ppf(levels)
    integers = integers_of(frozen)
    # A level that equals F(x) up to rounding belongs to x.
    places = np.searchsorted(frozen.cdf(integers), levels - 1e-13)
    return integers[np.minimum(places, len(integers) - 1)]


def curve_points(frozen: Any) -> np.ndarray:
    """[at most CURVE] the percentiles of a SciPy distribution, each once: where distribution functions are compared."""
    return np.unique(quantiles_of(frozen, np.arange(1, CURVE + 1) / (CURVE + 1)))


def integers_of(frozen: Any) -> np.ndarray:
    """[integers] where a discrete law lies, but for a mass of 1e-12 in each tail."""
    bottom, top = frozen.support()
    reach = 10 * frozen.std() + 1
    while True:
        low, high = max(bottom, np.floor(frozen.mean() - reach)), min(top, np.ceil(frozen.mean() + reach))
        if (low == bottom or frozen.cdf(low) < 1e-12) and (high == top or frozen.sf(high) < 1e-12):
            return np.arange(low, high + 1)
        reach *= 2


def w1_quantile(values: np.ndarray, frozen: Any) -> float:
    """Wasserstein-1 distance of `values` [n] to a SciPy distribution: mean |x_(i) - ppf((i - 1/2)/n)|.

    In the target's units; NaN without values. Invalid draws are not in it, as in the paper.
    """
    if len(values) == 0:
        return float("nan")
    return float(np.mean(np.abs(np.sort(values) - quantiles_of(frozen, midpoints(len(values))))))


def pit(values: np.ndarray, frozen: Any, generator: np.random.Generator | None = None) -> np.ndarray:
    """[n] the probability integral transform F(x) of `values` [n]: uniform on [0, 1] for a perfect sampler.

    With a generator, the target is discrete and F is randomised over its jump at x, F(x-1) + U pmf(x), which makes
    the transform uniform there too (Czado, Gneiting and Held 2009, section 2).
    """
    if generator is None:
        return frozen.cdf(values)
    integers = np.round(values)
    below = frozen.cdf(integers - 1)
    return below + generator.random(len(integers)) * (frozen.cdf(integers) - below)


def pit_w1(values: np.ndarray, frozen: Any, invalid: int = 0, generator: np.random.Generator | None = None) -> float:
    """Scale-free Wasserstein-1 distance with validity inside it, between 0 and 1/2.

    mean |F(x_(i)) - (i - 1/2)/n| over the n valid `values`; each of the `invalid` further draws counts as 1/2, the
    distance of the worst valid sampler (all mass on one end). Give a generator when the target is discrete, see pit.
    NaN without any draw.
    """
    n = len(values)
    if n + invalid == 0:
        return float("nan")
    distances = np.abs(np.sort(pit(np.asarray(values, float), frozen, generator)) - midpoints(n)) if n else np.zeros(0)
    return float((distances.sum() + INVALID_DISTANCE * invalid) / (n + invalid))


def distance_error(ordered: np.ndarray, target: np.ndarray, invalid: int | None = None) -> float:
    """The standard error that n independent draws leave in mean |ordered - target|, in its units; NaN for n < 2.

    ordered, target    [n] the sorted valid draws, and the target's quantiles at the midpoints
    invalid            how many further draws count INVALID_DISTANCE each; None where they are left out
    By the influence of each draw (van der Vaart 1998, chapter 20), which is the integral of sign(F - F_n) up to it; F
    and F_n are the distribution functions of target and draws.
    """
    if len(ordered) + (invalid or 0) < 2:
        return float("nan")
    low, high = ordered[:-1], ordered[1:]
    crossing = np.clip((target[:-1] + target[1:]) / 2, low, high)
    with np.errstate(over="ignore", invalid="ignore"):  # of numbers whose squares are too large for a float
        influence = np.concatenate([[0.0], np.cumsum((low - crossing) + (high - crossing))])[: len(ordered)]
        if len(ordered):
            influence += np.mean(np.abs(ordered - target)) - influence.mean()
        influence = np.append(influence, np.full(invalid or 0, INVALID_DISTANCE))
        error = float(influence.std(ddof=1) / len(influence) ** 0.5)
    return error if np.isfinite(error) else float("nan")


def target_scale(family: Family, frozen: Any, quantiles: tuple[float, float]) -> float:
    """Standard deviation of the target after clipping to the range that its support covers, in the target's units.

    Clipping makes it finite for every family (Cauchy has no variance). Its relative error is below 1e-3.
    """
    lower, upper = clip_range(frozen, quantiles)
    if not family.discrete:
        return float(np.clip(_fast_quantiles(frozen, midpoints(20_000)), lower, upper).std())
    integers = np.arange(lower, upper + 1)
    mass = np.diff(np.append(frozen.cdf(integers[:-1]), 1.0), prepend=0.0)
    mean = mass @ integers
    return float(np.sqrt(mass @ (integers - mean) ** 2))


def target_iqr(frozen: Any) -> float:
    """Interquartile range of the target, in its units; 0 where one value has half of the mass."""
    low, high = quantiles_of(frozen, np.array([0.25, 0.75]))
    return float(high - low)


@lru_cache(maxsize=8)
def _uniforms(n: int) -> np.ndarray:
    return np.sort(np.random.default_rng(SEED).random((REPLICATES, n)), axis=1)


def _fast_quantiles(frozen: Any, levels: np.ndarray) -> np.ndarray:
    """quantiles_of for very many levels, within a relative error of 2e-4: SciPy takes a second for some families."""
    if isinstance(frozen.dist, stats.rv_discrete):
        return quantiles_of(frozen, levels)
    # Evenly spaced log-odds resolve both tails, where a quantile grows about exponentially in them.
    nodes = np.linspace(-18, 18, 1201)
    return np.interp(special.logit(levels), nodes, frozen.ppf(special.expit(nodes)))


def _pit_mean(n: int) -> float:
    """The exact expectation of mean |U_(i) - (i - 1/2)/n|: the i-th of n uniforms has a Beta(i, n - i + 1) law."""
    i, level = np.arange(1, n + 1), midpoints(n)
    mean = i / (n + 1)
    shortfall = level * special.betainc(i, n - i + 1, level) - mean * special.betainc(i + 1, n - i + 1, level)
    return float(np.mean(mean - level + 2 * shortfall))


@lru_cache(maxsize=64)
def pit_floor(n: int) -> Floor:
    """The pit_w1 of a perfect sampler with n draws, whatever the target; NaN for n = 0.

    Above MOST_SIMULATED draws the floor is scaled down by the square root of n.
    """
    if n == 0:
        return NO_FLOOR
    simulated = min(n, MOST_SIMULATED)
    distances = np.abs(_uniforms(simulated) - midpoints(simulated)).mean(axis=1)
    shrink = (simulated / n) ** 0.5
    return Floor(_pit_mean(simulated) * shrink, float(np.quantile(distances, 0.95)) * shrink)


def w1_floor(frozen: Any, n: int) -> Floor:
    """The w1_quantile of a perfect sampler with n draws, in the target's units; NaN for n = 0.

    Its expectation is close to sqrt(2/(pi n)) times the integral of sqrt(F(1 - F)) where that integral is finite
    (del Barrio, Giné and Matrán 1999); Cauchy's is not, and its simulated floor is a rough figure. Scaled
    like pit_floor for very many draws.
    """
    return _w1_floor(frozen.dist.name, frozen.args, tuple(frozen.kwds.items()), n)


@lru_cache(maxsize=4096)
def _w1_floor(name: str, args: tuple[float, ...], keywords: tuple[tuple[str, float], ...], n: int) -> Floor:
    if n == 0:
        return NO_FLOOR
    frozen = getattr(stats, name)(*args, **dict(keywords))
    simulated = min(n, MOST_SIMULATED)
    uniforms, levels = _uniforms(simulated), midpoints(simulated)
    distances = np.abs(_fast_quantiles(frozen, uniforms) - _fast_quantiles(frozen, levels)).mean(axis=1)
    # The same draws' distance on the uniform scale has a known expectation: a control variate.
    uniform = np.abs(uniforms - levels).mean(axis=1)
    slope = np.cov(distances, uniform)[0, 1] / uniform.var(ddof=1)
    mean = distances.mean() - slope * (uniform.mean() - _pit_mean(simulated))
    shrink = (simulated / n) ** 0.5
    return Floor(float(mean) * shrink, float(np.quantile(distances, 0.95)) * shrink)


def wilson(successes: int, n: int) -> Interval:
    """A share with its 95 % Wilson score interval (Wilson 1927); NaN with the interval [0, 1] for n = 0."""
    if n == 0:
        return Interval(float("nan"), 0.0, 1.0)
    low, high = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return Interval(successes / n, float(low), float(high))
