"""From the statistics of each model to what a claim rests on; None where no model has them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cft import paired
from cft.paired import extreme, over_models
from cft.resampling import Resampled, interval
from cft.verdict import Found

BASE, SOFT, HARD = paired.BASE, "soft", "hard"
TUNED = (SOFT, HARD)
# Parts of the names of the models whose answers the paper gives.
NOUN_MODELS = {"weekday": "qwen3-14b", "city": "gemma-3-27b"}
JOINTLY = "the intervals hold jointly at 95%"


def mean(parts: Sequence[Resampled]) -> Found | None:
    """The mean over models."""
    return Found(interval(over_models(parts)), *counted(parts)) if parts else None


def jointly(choose: Callable[..., Any], parts: Sequence[Resampled], some: bool = False) -> Found | None:
    """The least or greatest over models (`choose` is np.min or np.max), see `paired.extreme`.

    some    the claim is on at least one model: one without the statistic says nothing, and does not hide the others
    """
    if not parts:
        return None
    told = ([part for part in parts if np.isfinite(part.found)] if some else None) or parts
    return Found(extreme(choose, [interval(part, 1 - 0.05 / len(parts)) for part in told]), *counted(parts))


def exp(found: Found | None) -> Found | None:
    """What was found of logarithms on the original scale."""
    return found and found._replace(interval=paired.exp(found.interval))


def counted(parts: Sequence[Resampled]) -> tuple[int, int]:
    """How many models have a defined statistic, a part each, and how many seeds the one with fewest has."""
    seeds = [part.seeds for part in parts if np.isfinite(part.found)]
    return len(seeds), min(seeds, default=0)
