"""Kolmogorov-Smirnov and total variation distances, their floors, and tests of fit with their nominal level.

An invalid draw is one that the target cannot produce. A perfect sampler has none, so that whatever an invalid draw
adds leaves floors and levels alone. Here it is put where it does most harm: a sampler is not let off for the draws that
say nothing, and one invalid draw in a thousand does not decide alone either.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Context
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.stats
from scipy.integrate import fixed_quad

from cft.stats import MOST_SIMULATED, NO_FLOOR, SEED, Floor, integers_of, pit, target_iqr
from cft.text import strip_thinking

ALPHA = 0.05
LEAST_EXPECTED = 5
SIMULATIONS = 1999
COARSEST = 0.1
MOST_DECIMALS = 12  # a cell of 1e-12 is a point
_READER = Context(prec=50, traps=[])

Key = tuple[str, tuple[float, ...], tuple[tuple[str, float], ...]]


def _key(frozen: Any) -> Key:
    """What a SciPy distribution is made of, to remember its simulations by."""
    return frozen.dist.name, frozen.args, tuple(frozen.kwds.items())


@lru_cache(maxsize=4096)
def _masses(key: Key) -> tuple[np.ndarray, np.ndarray]:
    """[integers] where a discrete law lies and [integers] its probabilities, the tails in the first and the last."""
    name, arguments, keywords = key
    frozen = getattr(scipy.stats, name)(*arguments, **dict(keywords))
    integers = integers_of(frozen)
    masses = np.maximum(0, np.diff(np.append(frozen.cdf(integers[:-1]), 1.0), prepend=0.0))
    return integers, masses / masses.sum()


def _counts(values: np.ndarray, integers: np.ndarray) -> np.ndarray:
    """[integers] how many of the values are each; those beyond count as the first or the last."""
    places = np.clip(np.round(values), integers[0], integers[-1]) - integers[0]
    return np.bincount(places.astype(int), minlength=len(integers))


def ks(values: np.ndarray, frozen: Any, invalid: int = 0, generator: np.random.Generator | None = None) -> float:
    """Kolmogorov-Smirnov distance with validity inside it, between 0 and 1: v D + (1 - v).

    D is the distance of the valid `values` [n] on the target's probability scale, v their share; each of the `invalid`
    further draws counts as 1, the distance of the worst valid sampler. Bounds.ks is the same of a law. Give a generator
    when the target is discrete, see stats.pit. NaN without any draw.
    """
    return _ks(pit(np.asarray(values, float), frozen, generator), invalid)


def _ks(transformed: np.ndarray, invalid: int) -> float:
    valid = len(transformed)
    if valid == 0:
        return 1.0 if invalid else math.nan
    ordered, steps = np.sort(transformed), np.arange(valid + 1) / valid
    distance = max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max())
    return float((valid * distance + invalid) / (valid + invalid))


def ks_upper(distance: float, valid: int, invalid: int = 0, alpha: float = ALPHA) -> float:
    """The Kolmogorov-Smirnov distance of the sampler's own law is at most this, with probability 1 - alpha or more.

    distance    the draws' ks
    "Within delta of the target" is shown where this is below delta. Whatever the law: the inequality of Dvoretzky,
    Kiefer and Wolfowitz with Massart's constant (1990) for the valid draws, and Clopper's and Pearson's bound for their
    share, each at half of alpha. NaN without any draw.
    """
    if valid == 0:
        return 1.0 if invalid else math.nan
    among_valid = (distance * (valid + invalid) - invalid) / valid + math.sqrt(math.log(4 / alpha) / (2 * valid))
    least_share = float(scipy.stats.beta.ppf(alpha / 2, valid, invalid + 1))
    return 1 - least_share * (1 - min(1.0, among_valid))


@lru_cache(maxsize=64)
def ks_floor(n: int) -> Floor:
    """The ks of a perfect sampler with n draws, whatever the target, by its exact law; NaN for n = 0.

    Above MOST_SIMULATED draws it is scaled down by the square root of n.
    """
    if n == 0:
        return NO_FLOOR
    few = min(n, MOST_SIMULATED)
    law, least = scipy.stats.kstwo(few), 1 / (2 * few)
    mean = least + fixed_quad(law.sf, least, min(1, 3 / math.sqrt(few)), n=64)[0]
    shrink = math.sqrt(few / n)
    return Floor(float(mean) * shrink, float(law.isf(0.05)) * shrink)


def total_variation(values: np.ndarray, frozen: Any, invalid: int = 0) -> float:
    """Total variation distance, 0 to 1, of draws to a discrete target; invalid draws are one more outcome, of mass 0.

    NaN without any draw.
    """
    n = len(values) + invalid
    if n == 0:
        return math.nan
    integers, masses = _masses(_key(frozen))
    return float((np.abs(_counts(values, integers) / n - masses).sum() + invalid / n) / 2)


def total_variation_floor(frozen: Any, n: int) -> Floor:
    """The total_variation of a perfect sampler with n draws: the exact mean, a simulated quantile; NaN for n = 0."""
    if n == 0:
        return NO_FLOOR
    _, masses = _masses(_key(frozen))
    # De Moivre's mean absolute deviation of a binomial number.
    above = np.floor(n * masses) + 1
    deviations = 2 * above * (1 - masses) * scipy.stats.binom.pmf(above, n, masses)
    return Floor(float(deviations.sum() / (2 * n)), float(np.quantile(_simulated_variation(_key(frozen), n), 0.95)))


@lru_cache(maxsize=256)
def _simulated_variation(key: Key, n: int) -> np.ndarray:
    """[SIMULATIONS] the total variations that a perfect sampler scores with n draws."""
    _, masses = _masses(key)
    counts = np.random.default_rng(SEED).multinomial(n, masses, size=SIMULATIONS)
    return np.abs(counts / n - masses).sum(axis=1) / 2


def printed_decimals(texts: Iterable[str]) -> int:
    """The decimals that most of some numbers are printed with, at most MOST_DECIMALS; 0 without numbers."""
    exponents = (_READER.create_decimal(strip_thinking(text)).as_tuple().exponent for text in texts)
    counts = Counter(min(max(0, -exponent), MOST_DECIMALS) for exponent in exponents if isinstance(exponent, int))
    return max(counts, key=lambda decimals: (counts[decimals], decimals), default=0)


def p_value(
    values: np.ndarray, frozen: Any, invalid: int, generator: np.random.Generator, decimals: int = MOST_DECIMALS
) -> float:
    """The p-value of "these are independent draws of the target, rounded to so many decimals"; NaN without any draw.

    A continuous target: the exact Kolmogorov-Smirnov test of v D + (1 - v), see ks. A rounded number stands for all
    that round to it, so that F(x) is drawn evenly from F(x - h) to F(x + h), h half a unit of the last decimal: uniform
    for a perfect sampler who rounds. A unit beyond COARSEST interquartile ranges is not taken for rounding.
    A discrete target: Pearson's chi-square test, whose cells depend on the target and the number of draws alone and
    expect LEAST_EXPECTED draws or more. Where that leaves one cell, a simulated test of total_variation.
    """
    n = len(values) + invalid
    if n == 0:
        return math.nan
    if isinstance(frozen.dist, scipy.stats.rv_discrete):
        return _p_discrete(values, frozen, invalid)
    coarsest = COARSEST * target_iqr(frozen)
    if 0 < coarsest < math.inf:
        decimals = max(decimals, math.ceil(-math.log10(coarsest)))
    with np.errstate(over="ignore"):  # a number near the largest float becomes infinite, where F is 1 too
        rounded = np.round(values, decimals)
    half = 0.5 * 10.0**-decimals
    below = frozen.cdf(rounded - half)
    transformed = below + generator.random(len(values)) * (frozen.cdf(rounded + half) - below)
    return float(scipy.stats.kstwo.sf(_ks(transformed, invalid), n))


def _p_discrete(values: np.ndarray, frozen: Any, invalid: int) -> float:
    key, n = _key(frozen), len(values) + invalid
    first, expected = _cells(key, n)
    if len(first) == 1:
        # Equal up to rounding is as far.
        further = (_simulated_variation(key, n) >= total_variation(values, frozen, invalid) - 1e-9).sum()
        return float((further + 1) / (SIMULATIONS + 1))
    integers, _ = _masses(key)
    excess = np.add.reduceat(_counts(values, integers), first) - expected
    # All invalid draws in the cell where they add most.
    added = ((2 * excess + invalid) * invalid / expected).max()
    return float(scipy.stats.chi2.sf((excess**2 / expected).sum() + added, len(first) - 1))


@lru_cache(maxsize=4096)
def _cells(key: Key, n: int) -> tuple[np.ndarray, np.ndarray]:
    """[cells] at which integer each cell begins (an index), and how many of n draws it expects."""
    _, masses = _masses(key)
    first, expected, gathered = [0], [], 0.0
    for place, mass in enumerate(n * masses, start=1):
        gathered += mass
        if gathered >= LEAST_EXPECTED:
            expected.append(gathered)
            first.append(place)
            gathered = 0.0
    if not expected:
        return np.array([0]), np.array([gathered])
    expected[-1] += gathered  # what is left over joins the last cell
    return np.array(first[: len(expected)]), np.array(expected)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """P-values adjusted so that any false rejection is as rare as the level (Holm 1979); NaN are no tests and stay."""
    adjusted = np.array(p_values, float)
    tests = np.flatnonzero(~np.isnan(adjusted))
    order = tests[np.argsort(adjusted[tests], kind="stable")]
    scaled = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(scaled))
    return adjusted


def benjamini_hochberg(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """P-values adjusted for the share of false ones among rejections (1995), to explore; NaN are no tests and stay."""
    adjusted = np.array(p_values, float)
    tests = ~np.isnan(adjusted)
    adjusted[tests] = scipy.stats.false_discovery_control(adjusted[tests]) if tests.any() else []
    return adjusted


def share_passing(p_values: Sequence[float] | np.ndarray, alpha: float = ALPHA) -> float:
    """The share of tests that Holm's method does not reject at level alpha; NaN without tests."""
    adjusted = holm(p_values)
    adjusted = adjusted[~np.isnan(adjusted)]
    return float((adjusted > alpha).mean()) if len(adjusted) else math.nan


@lru_cache(maxsize=64)
def perfect_share_passing(tests: int, alpha: float = ALPHA) -> float:
    """The expected share_passing of a perfect sampler, by 20,000 simulations of independent uniform p-values."""
    if tests == 0:
        return math.nan
    ordered = np.sort(np.random.default_rng(SEED).random((20_000, tests)), axis=1)
    rejected = np.logical_and.accumulate(ordered <= alpha / np.arange(tests, 0, -1), axis=1)
    return float(1 - rejected.mean())
