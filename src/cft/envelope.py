"""Laws known to lie between two step functions: how far they may be from a target."""

from typing import Any, NamedTuple

import numpy as np
from scipy import stats


class Range(NamedTuple):
    """Between what a quantity lies."""

    low: float
    high: float


class Deviation(NamedTuple):
    """The integral and the supremum of |G - vF| over the scale of F."""

    integral: Range
    supremum: Range


def deviation(
    frozen: Any, values: np.ndarray, masses: np.ndarray, low: np.ndarray, high: np.ndarray, mass: np.ndarray
) -> Deviation:
    """How far every G between L and U is from vF, where v is their mass and F a SciPy distribution.

    L has `masses` at `values` [atoms] and `mass` at `high` [intervals], U the latter at `low`. Both are taken over the
    target's own scale u = F(x) from 0 to 1, a discrete value spread evenly over its jump. The low ends are those of the
    distance from vF to [L, U], the high ends those of max(vF - L, U - vF), at every u.
    """
    discrete = isinstance(frozen.dist, stats.rv_discrete)
    points = np.unique(np.concatenate([[-np.inf, np.inf], values, low, high]))
    if discrete:
        points = np.unique(np.concatenate([points, points - 1]))  # where the even spread of a jump begins
    level = np.clip(frozen.cdf(points), 0, 1)
    level[0], level[-1] = 0, 1
    lower = cumulative(np.concatenate([values, high]), np.concatenate([masses, mass]), points)
    upper = cumulative(np.concatenate([values, low]), np.concatenate([masses, mass]), points)
    line = (masses.sum() + mass.sum()) * level
    # From one point to the next: constant, or rising to the next value; at infinity there is no jump to spread.
    after = np.arange(1, len(points)) if discrete else np.arange(len(points) - 1)
    after[-1] = len(points) - 2
    # Twice each, at both ends of every stretch: how far vF is below L, above U, and from the middle of the two.
    beneath = np.stack([lower[:-1] - line[:-1], lower[after] - line[1:]])
    beyond = np.stack([line[:-1] - upper[:-1], line[1:] - upper[after]])
    middle, half = (beneath - beyond) / 2, -(beneath + beyond) / 2
    width = np.diff(level)
    # The positive part is the mean of a number and its absolute value; the larger of two is their middle and half.
    least = width @ (beneath.mean(0) + _absolute(beneath) + beyond.mean(0) + _absolute(beyond)) / 2
    most = width @ (half.mean(0) + _absolute(middle))
    furthest = max(0.0, float(beneath.max()), float(beyond.max()))
    return Deviation(Range(float(least), float(most)), Range(furthest, float((half + np.abs(middle)).max())))


def _absolute(ends: np.ndarray) -> np.ndarray:
    """[n] the mean absolute value of straight lines between `ends` [2, n]."""
    sizes = np.abs(ends)
    total = sizes.sum(0)
    crossing = np.divide((sizes**2).sum(0), 2 * total, out=np.zeros_like(total), where=total > 0)
    return np.where(ends[0] * ends[1] < 0, crossing, total / 2)


def cumulative(places: np.ndarray, masses: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[points] the mass at or below each point."""
    order = np.argsort(places)
    return np.concatenate([[0.0], masses[order].cumsum()])[np.searchsorted(places[order], points, side="right")]
