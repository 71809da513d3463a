"""A distribution as a finite target: value strings and their probabilities (arXiv 2605.11845)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rv_discrete

from cft import CftError
from cft.distributions import Registry

LARGEST_SUPPORT = 1_000_000
LARGEST_TICK = 2**53  # beyond it neighbouring lattice points are one floating-point number


@dataclass(frozen=True)
class Target:
    """A finite law over strings.

    values         the support's strings, in increasing order of their number, all different
    probabilities  [len(values)] float64, positive or zero, sum 1
    lower, upper   where the support was cut, in the distribution's units
    """

    values: list[str]
    probabilities: np.ndarray
    lower: float
    upper: float


def make_target(
    registry: Registry, family: str, parameters: dict[str, float], decimals: int = 5, max_bins: int = 1001
) -> Target:
    """The target of one family and parameters.

    Discrete families ignore `decimals` and `max_bins`: their support is every integer of the cut range.
    Raises CftError for an unknown family, parameters out of range, or a support too large to list.
    """
    kind = registry[family]
    frozen = kind.frozen(parameters)  # first, as it says what is wrong with them
    return discretise(kind.identifier(parameters), frozen, registry.quantiles, decimals, max_bins)


def discretise(
    name: str, frozen: Any, quantiles: tuple[float, float], decimals: int = 5, max_bins: int = 1001
) -> Target:
    """The target of a SciPy distribution, see `make_target`; `name` is what an error calls it."""
    discrete = isinstance(frozen.dist, rv_discrete)
    lower, upper = clip_range(frozen, quantiles)
    reach = max(abs(lower), abs(upper)) / (1 if discrete else 10**-decimals)
    if not reach < LARGEST_TICK:
        raise CftError(f"{name}: its range [{lower:g}, {upper:g}] is too wide to list values of")
    if discrete and upper - lower >= LARGEST_SUPPORT:
        raise CftError(
            f"{name}: a support of {upper - lower + 1:,.0f} integers is too large (limit {LARGEST_SUPPORT:,})"
        )
    if discrete:
        values, mass = _discrete(frozen, lower, upper)
    else:
        values, mass = _continuous(frozen, lower, upper, decimals, max_bins)
    if not np.isfinite(mass).all() or mass.sum() <= 0:
        raise CftError(f"{name}: its probabilities cannot be computed on the support")
    return Target(values, mass / mass.sum(), lower, upper)


def for_prompt(registry: Registry, prompt_id: str, decimals: int, max_bins: int) -> Target:
    """make_target of a prompt; raises CftError for an unknown prompt_id too."""
    family, parameters = registry.parse(prompt_id)
    return make_target(registry, family.name, parameters, decimals, max_bins)


def clip_range(frozen: Any, quantiles: tuple[float, float]) -> tuple[float, float]:
    """The range that a target covers: between the quantiles, or to a discrete law's own bounds where finite.

    Raises CftError where SciPy's search for a quantile does not end.
    """
    bottom, top = (float(edge) for edge in frozen.support())
    try:
        low, high = (float(frozen.ppf(q)) for q in quantiles)
    except RuntimeError as error:
        raise CftError(f"{frozen.dist.name}: SciPy finds no quantiles at these parameters ({error}); choose others")
    if isinstance(frozen.dist, rv_discrete):
        return (bottom if math.isfinite(bottom) else math.floor(low)), (top if math.isfinite(top) else math.ceil(high))
    return max(low, bottom), min(high, top)


def _discrete(frozen: Any, lower: float, upper: float) -> tuple[list[str], np.ndarray]:
    integers = np.arange(int(lower), int(upper) + 1)
    mass = frozen.pmf(integers)
    if not math.isfinite(frozen.support()[1]):
        mass[-1] += frozen.sf(integers[-1])
    return [str(i) for i in integers.tolist()], mass


def _continuous(frozen: Any, lower: float, upper: float, decimals: int, max_bins: int) -> tuple[list[str], np.ndarray]:
    scale = 10**decimals
    # The lattice is counted in ticks of 10^-decimals, so that a heavy tail's millions of points are never listed.
    # A bound that lies on the lattice up to rounding is decided as the released code decides it: by this division.
    first, last = math.ceil(lower / 10**-decimals), math.floor(upper / 10**-decimals)
    if last < first:
        first = last = round(float(frozen.ppf(0.5)) * scale)
    count = last - first + 1
    picked = np.linspace(0, count - 1, max_bins).astype(np.int64) if count > max_bins else np.arange(count)
    points = (first + picked) / scale
    middles = (points[1:] + points[:-1]) / 2
    cumulative = frozen.cdf(np.concatenate([[lower], middles, [upper]]))
    mass = np.diff(cumulative)
    mass[0] += cumulative[0]
    mass[-1] += 1 - cumulative[-1]
    return format_ticks(first + picked, decimals), mass


def format_ticks(ticks: np.ndarray, decimals: int) -> list[str]:
    """Integers that count 10^-decimals as strings with exactly that many decimals."""
    if decimals == 0:
        return [str(tick) for tick in ticks.tolist()]
    scale = 10**decimals
    return [f"{'-' if t < 0 else ''}{abs(t) // scale}.{abs(t) % scale:0{decimals}d}" for t in ticks.tolist()]


def lattice_floor(frozen: Any, values: Sequence[str], probabilities: np.ndarray) -> tuple[float, float]:
    """What answers that follow a SciPy distribution exactly score on a target's strings: their probability, and KL.

    values           [n] strings of one number of decimals, to which the answers are rounded; an integer is itself
    probabilities    [n] of the target, sum 1
    The KL is that of the target from the answers over whole strings, in nats; infinite where a string is impossible.
    Rounded answers fall between the strings of a thinned lattice too, so that the probability is far below 1 there.
    """
    points = np.array(values, dtype=float)
    if isinstance(frozen.dist, rv_discrete):
        law = frozen.pmf(points)
    else:
        half = 0.5 * 10.0 ** -len(values[0].partition(".")[2])
        law = between(frozen, points - half, points + half)
    some = probabilities > 0
    with np.errstate(divide="ignore"):
        divergence = probabilities[some] * (np.log(probabilities[some]) - np.log(law[some]))
    return float(law.sum()), float(divergence.sum())


def between(frozen: Any, below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """[n] the probabilities of the intervals from `below` to `above` [n] under a SciPy distribution, no end an atom."""
    if isinstance(frozen.dist, rv_discrete):  # between integers some of its functions are NaN
        below, above = np.floor(below), np.floor(above)
    # Each side by its own tail: far out in the other one, differences of numbers close to 1 would be left.
    upper = below > frozen.median()
    return np.where(upper, frozen.sf(below) - frozen.sf(above), frozen.cdf(above) - frozen.cdf(below))
