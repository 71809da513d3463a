"""PALOMA: perplexity of each slice, and its ratio to base."""

import numpy as np
import pandas as pd

from cft.paired import BASE, block_sums, exp, log_perplexity_ratio, scores_of, together
from cft.resampling import UNKNOWN, interval, resample
from cft.stats import Interval
from cft.summary import cell, collect, columns, estimate, in_order, runs, where

READS = {"scores": ["paloma"]}
BENCHMARK = "paloma"
ALL = "all"


def make(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per model and method, columns over all and per slice; raises CftError when PALOMA was not run."""
    wide = collect(scores, BENCHMARK)
    blocks = scores_of(scores, BENCHMARK, ["nats", "tokens"])
    used = where(scores, benchmark=BENCHMARK)
    slices = [name for name in in_order(used["split"]) if name != ALL]
    rows = runs(used)
    for row in rows:
        whose = row["model"], row["method"]
        row["bits_per_byte"] = estimate(_whole(wide, "bits_per_byte", *whose, ALL)).estimate
        for name in [ALL, *slices]:
            logs = _whole(wide, "perplexity", *whose, name).map(np.log)
            row[f"{name}_perplexity"] = float(np.exp(estimate(logs).estimate))
            row |= columns(f"{name}_ratio", _ratio(blocks, *whose, [name] if name != ALL else slices))
    return pd.DataFrame(rows)


def _whole(wide: pd.DataFrame, metric: str, model: str, method: str, name: str) -> pd.DataFrame:
    """[1 x seeds] a figure of a slice as a whole."""
    return cell(wide, metric, model, method, name).filter([ALL], axis="index")


def _ratio(blocks: pd.DataFrame, model: str, method: str, slices: list[str]) -> Interval:
    """Perplexity over base's, in the blocks of some slices, which are fixed: blocks are resampled within each."""
    parts = []
    for name in slices if method != BASE else ():
        sums = block_sums(blocks, model, method, [name])
        if not any(part.empty for part in sums):
            shared = sums[0].index.intersection(sums[2].index)
            parts += [resample(lambda units: np.nansum(units, -1), part.loc[shared], stratum=name) for part in sums]
    if not parts:
        return UNKNOWN

    def all_of_it(*sums: np.ndarray | float) -> np.ndarray:
        return log_perplexity_ratio(*(np.stack(sums[place::4], axis=-1) for place in range(4)))

    return exp(interval(together(all_of_it, *parts)))
