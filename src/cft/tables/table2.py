"""Transfer: open-ended randomness, the right answer's position in multiple-choice questions, NoveltyBench."""

import numpy as np
import pandas as pd

from cft.benchmarks.mcq import LETTERS
from cft.fit import holm
from cft.paired import BASE, mean_difference, over_seeds, pooled
from cft.resampling import UNKNOWN, bootstrap
from cft.stats import Interval, wilson
from cft.summary import cell, collect, columns, estimate, runs, where

READS = {"scores": ["open_ended", "mcq", "novelty"]}
BENCHMARKS = ("open_ended", "mcq", "novelty")

# column -> (metric, statistic over the nouns); the paper's claim is about the typical noun, so a median
OPEN_ENDED = {
    "support_size_90_percent": ("support_size_0.9", "median"),
    "unique_rate": ("unique_rate", "mean"),
    "empty_rate": ("empty_rate", "mean"),
}
MCQ = {
    "mcq_total_variation": "tv_uniform",
    "mcq_total_variation_floor": "tv_uniform_floor",
    "mcq_detectable_shift": "tv_detectable",
    "mcq_total_variation_parsed_only": "tv_uniform_parsed_only",
    "mcq_total_variation_parsed_only_floor": "tv_uniform_parsed_only_floor",
}
P_VALUE = "mcq_adjusted_p"
NOVELTY = ("distinct", "utility")  # their metrics carry the benchmark's version: distinct_v1.0


def make(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per model and method; the columns of a benchmark that was not run are absent."""
    ran = [name for name in BENCHMARKS if name in set(scores["benchmark"])] or list(BENCHMARKS)
    wide = {name: collect(scores, name) for name in ran}
    used = pd.concat([where(scores, benchmark=name) for name in ran])
    parts = {"open_ended": _open_ended, "mcq": _mcq, "novelty": _novelty}
    rows = runs(used)
    for row in rows:
        for name in wide:
            row |= parts[name](wide[name], row["model"], row["method"])
    table = pd.DataFrame(rows)
    if P_VALUE in table:
        table[P_VALUE] = holm(table[P_VALUE].to_numpy(float))
    return table


def _open_ended(wide: pd.DataFrame, model: str, method: str) -> dict[str, float]:
    row: dict[str, float] = {"nouns": len(cell(wide, "unique_rate", model, method))}
    for name, (metric, statistic) in OPEN_ENDED.items():
        row |= columns(name, estimate(cell(wide, metric, model, method), statistic))
    return row


def _mcq(wide: pd.DataFrame, model: str, method: str) -> dict[str, float]:
    row = {name: estimate(cell(wide, metric, model, method)).estimate for name, metric in MCQ.items()}
    tests = cell(wide, "chi_square_pvalue", model, method).to_numpy().ravel()
    row[P_VALUE] = over_seeds(tests[~np.isnan(tests)].tolist())
    row |= columns("mcq_parse_rate", _share(wide, "parse_rate", "n", model, method))
    for letter in LETTERS:
        share = _share(wide, f"freq_{letter.lower()}", "num_parseable", model, method)
        row |= columns(f"mcq_letter_{letter}", share)
    return row


def _share(wide: pd.DataFrame, metric: str, of: str, model: str, method: str) -> Interval:
    """A share of as many texts as the metric `of` says, with its Wilson interval for the texts of one seed.

    That of the texts of all seeds would not say how much adapters of different seeds differ.
    """
    shares, counts = (cell(wide, name, model, method).to_numpy() for name in (metric, of))
    shares, counts = shares[~np.isnan(shares)], counts[counts > 0]
    if not len(shares):  # nothing parses, or a prompting method, which is not run on this benchmark
        return UNKNOWN
    share, texts = shares.mean(), round(counts.mean())
    return Interval(share, *wilson(round(texts * share), texts)[1:])


def _novelty(wide: pd.DataFrame, model: str, method: str) -> dict[str, float]:
    metrics = [metric for kind in NOVELTY for metric in wide.columns if metric.startswith(f"{kind}_")]
    splits = list(wide.index.unique("split"))
    row: dict[str, float] = {"NoveltyBench_prompts": len(pooled(wide, metrics[0], model, method))}
    for metric in metrics:
        kind, version = metric.split("_", 1)
        name, mine = f"NoveltyBench_{version}_{kind}", pooled(wide, metric, model, method)
        change = UNKNOWN if method == BASE else bootstrap(mean_difference, mine, pooled(wide, metric, model, BASE))
        row |= columns(name, estimate(mine)) | columns(f"{name}_difference", change)
        for split in splits if len(splits) > 1 else ():
            row |= columns(f"{name}_{split}", estimate(cell(wide, metric, model, method, split)))
    return row
