"""Fidelity on the structured benchmark, by model, method and split: estimates with floors, tests of fit."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm

from cft import CftError, fit
from cft.resampling import UNKNOWN, combine
from cft.stats import Interval
from cft.streams import stream
from cft.summary import NO_CELL, SPLITS, cell, collect, columns, difference, drawn, estimate, in_order, where


class Measure(NamedTuple):
    """How one column is computed: from which metric, with which floor, and how families are combined.

    sampled     whether the floor is noise of draws, so that the excess over it is what is left. A law can be on the
                other side of the floor of perfect answers: on the target's strings it may follow these more closely.
    """

    metric: str
    statistic: str = "mean"
    floor: str | None = None
    sampled: bool = True


# The paper's headline is the median over families of the normalised W1: two heavy-tailed families decide its mean. Of
# distances both are given, as either hides something.
STRUCTURED = {
    "valid_rate": Measure("valid_rate"),
    "support_probability": Measure("support_probability", "mean", "support_probability_floor", False),
    "trie_kl_nats": Measure("trie_kl", "mean", "trie_kl_floor", False),
    "trie_kl_nats_median": Measure("trie_kl", "median", "trie_kl_floor", False),
    "sequence_kl_nats": Measure("sequence_kl", "mean", "sequence_kl_floor", False),
    "w1_over_scale": Measure("w1_over_scale", "median", "w1_over_scale_floor"),
    "w1_over_scale_mean": Measure("w1_over_scale", "mean", "w1_over_scale_floor"),
    "pit_w1": Measure("pit_w1", "mean", "pit_w1_floor"),
    "pit_w1_median": Measure("pit_w1", "median", "pit_w1_floor"),
}


def structured(scores: pd.DataFrame) -> pd.DataFrame:
    """The structured benchmark, a row per model, method, split and column of STRUCTURED.

    Columns: model, method, split, seeds, prompts, prompts_without_valid_draw (mean over seeds), families, measure,
    value, low, high, floor (what a perfect sampler would score on average with as many draws; NaN where there is none),
    floor_high (the 95% quantile of its score on one prompt, combined in the same way), and excess, excess_low,
    excess_high: the value minus the floor, by family. The last four are NaN where the floor is not one of draws.
    """
    wide = collect(scores, "structured")
    counts = _counts(scores)
    rows = []
    for model in in_order(scores["model"]):
        for method in in_order(scores["method"]):
            for split in SPLITS:
                if (model, method, split) not in counts.index:
                    continue
                head = {
                    "model": model,
                    "method": method,
                    "split": split,
                    **counts.loc[(model, method, split)].to_dict(),
                }
                for name, measure in STRUCTURED.items():
                    values = drawn(wide, measure.metric, model, method, split)
                    found = estimate(values, measure.statistic)
                    floor, floor_high = (
                        cell(wide, f"{measure.floor}{end}", model, method, split) if measure.floor else NO_CELL
                        for end in ("", "_high")
                    )
                    expected, excess = estimate(floor, measure.statistic).estimate, UNKNOWN
                    if measure.sampled:
                        excess = difference(values, floor, measure.statistic)
                        if measure.statistic == "median":
                            expected, none = perfect_medians(floor, floor_high)
                            excess = Interval(*(end - none for end in excess))
                    rows.append(
                        head
                        | {"families": len(values.found.dropna(how="all").index.unique("unit")), "measure": name}
                        | {"value": found.estimate, "low": found.low, "high": found.high, "floor": expected}
                        | {"floor_high": estimate(floor_high, measure.statistic).estimate}
                        | columns("excess", excess)
                    )
    if not rows:
        raise CftError(f"the structured scores hold no draws of the splits {', '.join(SPLITS)}")
    return pd.DataFrame(rows)


def perfect_medians(floor: pd.DataFrame, high: pd.DataFrame) -> tuple[float, float]:
    """What the median over families of a perfect sampler's distances is on average, and of its excess over the floors.

    floor, high    [(unit, item) x seeds] mean and 95% quantile of its distance on each prompt
    Distances are skewed, so that the median of single ones is below the median of their means. 2,000 samplers with a
    fixed seed, whose distances are lognormal with that mean and quantile: within 5% of samplers that draw
    (tests/test_summary.py).
    """
    if floor.empty:
        return UNKNOWN.estimate, UNKNOWN.estimate
    means, units = floor.to_numpy(float), pd.factorize(floor.index.get_level_values("unit"))[0]
    tails = high.reindex_like(floor).to_numpy(float)
    times = np.fmax(np.divide(tails, means, out=np.ones_like(means), where=means != 0), 1)  # at a loss, 1
    # Of a lognormal law: log(quantile/mean) = reach s - s^2/2.
    reach = norm.isf(0.05)
    sigma = reach - np.sqrt(np.maximum(reach**2 - 2 * np.log(times), 0))
    noise = stream(0, "perfect medians").standard_normal((2000, *means.shape))
    scores = means * np.exp(sigma * noise - sigma**2 / 2)
    expected = []
    for part in (scores, scores - means):
        families = [combine(combine(part[:, units == unit])) for unit in range(units.max() + 1)]
        expected.append(float(combine(np.stack(families, axis=-1), "median").mean()))
    return expected[0], expected[1]


def fits(scores: pd.DataFrame) -> pd.DataFrame:
    """The tests of fit of the structured benchmark, by Holm's method; a row per (model, method, split) that has some.

    Columns: share_passing, the share of prompts (of every seed) that are not rejected at 5%; perfect_share_passing,
    what a perfect sampler is expected to have; least_p, the adjusted p-value of the worst prompt.
    """
    tests = where(scores, benchmark="structured", metric="p_fit").dropna(subset="value")
    groups: Any = tests.groupby(["model", "method", "split"])["value"]
    found = {
        "share_passing": groups.agg(fit.share_passing),
        "perfect_share_passing": groups.size().map(fit.perfect_share_passing),
        "least_p": groups.agg(lambda p_values: fit.holm(p_values).min()),
    }
    return pd.DataFrame(found, dtype=float)


def _counts(scores: pd.DataFrame) -> pd.DataFrame:
    rows = where(scores, benchmark="structured", metric="valid_rate")
    keys = ["model", "method", "split"]
    per_seed: Any = rows.assign(none=rows["value"] == 0).groupby([*keys, "seed"])["none"].sum()
    grouped = rows.groupby(keys)
    counts = {"seeds": grouped["seed"].nunique(), "prompts": grouped["item"].nunique()}
    return pd.DataFrame(counts | {"prompts_without_valid_draw": per_seed.groupby(keys).mean()})
