"""From an interval to a verdict on a claim."""

import math
from typing import NamedTuple

from cft.stats import Interval

BELOW_0, BELOW_1, ABOVE_0, ABOVE_1 = (-math.inf, 0.0), (-math.inf, 1.0), (0.0, math.inf), (1.0, math.inf)


class Found(NamedTuple):
    """What a claim rests on: an interval, how many models are in it, and how many training seeds each has at least."""

    interval: Interval
    models: int
    seeds: int


class Claim(NamedTuple):
    """A sentence, what is measured, the open region that the sentence asks for, and what was found (None: not run)."""

    claim: str
    measure: str
    region: tuple[float, float]
    found: Found | None


def verdict(found: Interval | None, region: tuple[float, float]) -> str:
    """What an interval says of the claim that the quantity lies in an open region, see `criterion`.

    undecided also where the interval has no ends; not run where nothing was found.
    """
    if found is None:
        return "not run"
    lowest, highest = region
    if lowest < found.low <= found.high < highest:
        return "supported"
    return "refuted" if found.high < lowest or found.low > highest else "undecided"


def criterion(region: tuple[float, float]) -> str:
    """The rule of `verdict` in words."""
    lowest, highest = (f"{end:.3g}" for end in region)
    if math.isinf(region[0]):
        inside, outside = f"below {highest}", f"above {highest}"
    elif math.isinf(region[1]):
        inside, outside = f"above {lowest}", f"below {lowest}"
    else:
        inside, outside = f"between {lowest} and {highest}", f"below {lowest} or above {highest}"
    return f"supported if the whole interval is {inside}, refuted if it is wholly {outside}, else undecided"
