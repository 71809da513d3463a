"""Structured sampling: how faithful each model and method is on the two held-out splits, beside a perfect sampler."""

import pandas as pd

from cft.summary import STRUCTURED, structured, where


def make(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per model, method and split; a column, its interval and where there is one its floor per measure."""
    found = structured(scores)
    heads = ["model", "method", "split", "seeds", "prompts", "prompts_without_valid_draw"]
    table = pd.DataFrame(found[heads]).drop_duplicates(ignore_index=True)
    for name, measure in STRUCTURED.items():
        rows = where(found, measure=name).reset_index(drop=True)
        table[name], table[f"{name}_low"], table[f"{name}_high"] = (rows["value"], rows["low"], rows["high"])
        if measure.floor:
            table[f"{name}_floor"] = rows["floor"]
    return table
