"""What the report says first: the key results in sentences, and what to beware of."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from cft.benchmarks.structured import family_of
from cft.law_scores import LAW_FLOORS
from cft.stats import Interval
from cft.summary import SPLITS, cell, collect, estimate, in_order, ratio, reference, where
from cft.tables import number, with_interval

POOLED = "all held-out prompts"


def key_results(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Per model, tuned method and set of held-out prompts: how the model's exact law moved from the reference method.

    Each row has model, method, prompts and as `Interval`s the support probability (mean of family means) of the
    reference and the method, their sequence KL in nats, and the paired ratio reference / method of the latter.
    """
    wide = collect(scores, "structured")
    methods = in_order(scores["method"])
    before = reference(methods)
    rows = []
    for model in in_order(scores["model"]):
        for method in (name for name in methods if name != before):
            for label, split in [(POOLED, None), *((label, split) for split, label in SPLITS.items())]:
                support = [cell(wide, "support_probability", model, name, split) for name in (before, method)]
                sequence = [cell(wide, "sequence_kl", model, name, split) for name in (before, method)]
                # A method that asks in another way has no law on these prompts.
                if all(part.dropna(how="all").empty for part in (support[1], sequence[1])):
                    continue
                found = [*map(estimate, support), *map(estimate, sequence), ratio(*sequence)]
                names = ("support_before", "support_after", "kl_before", "kl_after", "kl_ratio")
                row = {"model": model, "method": method, "reference": before, "prompts": label}
                row |= dict(zip(names, found, strict=True))
                rows.append(
                    row
                    | {"sentence": _sentence(row) if split is None and _complete(row) else None, "cells": _cells(row)}
                )
    return rows


def _sentence(row: Mapping[str, Any]) -> str:
    before, after, times = row["support_before"], row["support_after"], row["kl_ratio"]
    moved = "rose" if after.estimate > before.estimate else "fell" if after.estimate < before.estimate else "stayed"
    kl = "fell" if times.estimate > 1 else "did not fall"
    kl_before, kl_after = with_interval(*row["kl_before"]), with_interval(*row["kl_after"])
    return (
        f"{row['model']}, {row['method']}: the probability that an output is in the support {moved} from "
        f"{with_interval(*before)} ({row['reference']}) to {with_interval(*after)}; the sequence KL {kl}, from "
        f"{kl_before} to {kl_after} nats, a factor of {with_interval(*times)}."
    )


def _complete(row: Mapping[str, Any]) -> bool:
    return bool(np.isfinite([value.estimate for value in row.values() if isinstance(value, Interval)]).all())


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [with_interval(*value) for value in row.values() if isinstance(value, Interval)]


def remarks(scores: pd.DataFrame) -> list[str]:
    """What limits these results, computed where it can be."""
    structured = where(scores, benchmark="structured")
    draws = where(structured, metric="n")["value"]
    valid = where(structured, metric="valid_rate")
    nothing = Counter(where(valid, value=0)["method"])
    models = len(in_order(scores["model"]))
    found = []
    if models < 3:
        found.append(
            f"{'One model' if models == 1 else 'Two models'}: the direction of an effect may carry over to other "
            "models and training budgets, its size need not."
        )
    if any(len(in_order(where(scores, model=model)["seed"])) == 1 for model in in_order(scores["model"])):
        found.append(
            "One training seed: the intervals say how much families, their prompts and draws vary, not how much "
            "another training run would."
        )
    if len(draws):
        found.append(
            f"The structured benchmark has {number(float(np.median(draws)))} draws per prompt. With so many, the "
            "distances of a perfect sampler are not 0 either: they are the floors printed beside the distances."
        )
    if nothing:
        listed = ", ".join(f"{method} {count}" for method, count in nothing.items())
        found.append(
            f"Prompts without a single valid draw, over all models and seeds: {listed}. The normalised W1 leaves them "
            "out and says nothing of them; from few valid draws it is noisier, and its floor higher. The W1 on the "
            "probability scale counts every invalid draw."
        )
    found.append(
        "The support probability and the KLs are exact for the target's strings, not estimated from draws. A correct "
        "number that is none of these, as it has other decimals or lies between them, is outside the support."
        + _floors(scores)
    )
    return found


def _floors(scores: pd.DataFrame) -> str:
    """What perfect answers have on the target's strings, as a sentence; nothing where there is no law."""
    found: Any = where(scores, benchmark="structured")
    found = found[found["metric"].isin(LAW_FLOORS)].drop_duplicates(["item", "metric"])
    if found.empty:
        return ""
    families: Any = found.assign(family=found["item"].map(family_of)).groupby(["metric", "family"])["value"].mean()
    means = families.groupby("metric").mean()
    support, divergence = (number(float(means[name])) for name in LAW_FLOORS)
    return (
        f" Answers that follow the stated distributions exactly, rounded to the strings' decimals, have a support "
        f"probability of {support} and a sequence KL of {divergence} nats (mean over families), not 1 and 0; a "
        "model that was trained on the same strings can be better."
    )
