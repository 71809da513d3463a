"""Transfer: open-ended randomness and the position of the right answer in generated multiple-choice questions."""

import pandas as pd

from cft.stats import wilson
from cft.summary import cell, collect, estimate, in_order, where

BENCHMARKS = ("open_ended", "mcq")

# column -> (metric, statistic over the nouns); the paper's claim is about the typical noun, so a median
OPEN_ENDED = {
    "support_size_90_percent": ("support_size_0.9", "median"),
    "unique_rate": ("unique_rate", "mean"),
    "empty_rate": ("empty_rate", "mean"),
}
MCQ = {
    "mcq_total_variation": "tv_uniform",
    "mcq_total_variation_floor": "tv_uniform_floor",
    "mcq_total_variation_parsed_only": "tv_uniform_parsed_only",
}


def make(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per model and method; the columns of a benchmark that was not run are absent."""
    ran = [name for name in BENCHMARKS if name in set(scores["benchmark"])] or list(BENCHMARKS)
    wide = {name: collect(scores, name) for name in ran}
    used = pd.concat([where(scores, benchmark=name) for name in ran])
    rows = []
    for model in in_order(used["model"]):
        for method in in_order(where(used, model=model)["method"]):
            mine = where(used, model=model, method=method)
            row = {"model": model, "method": method, "seeds": len(in_order(mine["seed"]))}
            if "open_ended" in wide:
                row |= _open_ended(wide["open_ended"], model, method)
            if "mcq" in wide:
                row |= _mcq(wide["mcq"], model, method)
            rows.append(row)
    return pd.DataFrame(rows)


def _open_ended(wide: pd.DataFrame, model: str, method: str) -> dict[str, float]:
    row: dict[str, float] = {"nouns": len(cell(wide, "unique_rate", model, method))}
    for name, (metric, statistic) in OPEN_ENDED.items():
        row[name], row[f"{name}_low"], row[f"{name}_high"] = estimate(cell(wide, metric, model, method), statistic)
    return row


def _mcq(wide: pd.DataFrame, model: str, method: str) -> dict[str, float]:
    row = {name: estimate(cell(wide, metric, model, method)).estimate for name, metric in MCQ.items()}
    # As many texts as one seed has: base may repeat its texts for every seed, and pooled ones would not be independent.
    texts = cell(wide, "n", model, method).to_numpy().mean()
    share = cell(wide, "parse_rate", model, method).to_numpy().mean()
    _, low, high = wilson(round(texts * share), round(texts))
    return row | {"mcq_parse_rate": share, "mcq_parse_rate_low": low, "mcq_parse_rate_high": high}
