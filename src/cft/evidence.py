"""From the statistics of each model to the interval that a claim rests on; None where no model has them."""

from collections.abc import Callable
from typing import Any

from cft import paired
from cft.paired import extreme, over_models
from cft.resampling import Resampled, interval
from cft.stats import Interval

BASE, SOFT, HARD = paired.BASE, "soft", "hard"
TUNED = (SOFT, HARD)
JOINTLY = "the intervals hold jointly at 95%"


def mean(parts: list[Resampled]) -> Interval | None:
    """The mean over models."""
    return interval(over_models(parts)) if parts else None


def jointly(choose: Callable[..., Any], parts: list[Resampled]) -> Interval | None:
    """The least or greatest over models (`choose` is np.min or np.max), see `paired.extreme`."""
    return extreme(choose, [interval(part, 1 - 0.05 / len(parts)) for part in parts]) if parts else None


def exp(found: Interval | None) -> Interval | None:
    """An interval of logarithms on the original scale."""
    return found and paired.exp(found)
