"""What the report says first: the key results in sentences, and what to beware of."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from cft.benchmarks.structured import family_of
from cft.law_scores import LAW_FLOORS
from cft.stats import Interval
from cft.summary import SPLITS, collect, drawn, estimate, in_order, ratio, reference, where
from cft.tables import number, with_interval

POOLED = "all held-out prompts"
MEASURES = {"valid_rate": "valid", "pit_w1": "pit", "support_probability": "support", "sequence_kl": "kl"}


def key_results(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Per model, tuned method and set of held-out prompts: how draws and exact law moved from the reference method.

    Each row has model, method, prompts and as `Interval`s, means of family means, of the reference and the method each:
    the valid rate, the PIT-scale W1 of draws, the support probability, the sequence KL in nats; at last the paired
    ratio reference / method of the latter.
    """
    wide = collect(scores, "structured")
    methods = in_order(scores["method"])
    before = reference(methods)
    rows = []
    for model in in_order(scores["model"]):
        for method in (name for name in methods if name != before):
            for label, split in [(POOLED, None), *((label, split) for split, label in SPLITS.items())]:
                both = [[drawn(wide, metric, model, name, split) for name in (before, method)] for metric in MEASURES]
                # A method that asks in another way has no law on these prompts.
                if all(pair[1].found.dropna(how="all").empty for pair in both[2:]):
                    continue
                found = [*(estimate(part) for pair in both for part in pair), ratio(*both[-1])]
                names = [f"{name}_{when}" for name in MEASURES.values() for when in ("before", "after")] + ["kl_ratio"]
                row = {"model": model, "method": method, "reference": before, "prompts": label}
                row |= dict(zip(names, found, strict=True))
                rows.append(
                    row
                    | {"sentence": _sentence(row) if split is None and _complete(row) else None, "cells": _cells(row)}
                )
    return rows


def _sentence(row: Mapping[str, Any]) -> str:
    def moved(name: str) -> str:
        before, after = row[f"{name}_before"], row[f"{name}_after"]
        if before.estimate == after.estimate:
            return f"stayed at {with_interval(*after)}"
        change = "rose" if after.estimate > before.estimate else "fell"
        return f"{change} from {with_interval(*before)} ({row['reference']}) to {with_interval(*after)}"

    return (
        f"{row['model']}, {row['method']}: the share of valid draws {moved('valid')}; the PIT-scale W1 of draws, ½ "
        f"where none is valid, {moved('pit')}. The probability of the target's strings {moved('support')}; the "
        f"sequence KL {moved('kl')} nats ({row['reference']} / {row['method']}: {with_interval(*row['kl_ratio'])})."
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
        of = Counter(valid["method"])
        listed = ", ".join(f"{method} {count} of {of[method]}" for method, count in nothing.items())
        found.append(
            f"Prompts without a single valid draw, of each model and seed: {listed}. The normalised W1 leaves them "
            "out and says nothing of them; from few valid draws it is noisier, and its floor higher. The W1 on the "
            "probability scale counts every invalid draw."
        )
    found.append(
        "The probability of the target's strings (support probability) and the KLs are exact, not estimated from "
        "draws. A correct number that is none of these, as it has other decimals or lies between them, is outside the "
        "support." + _floors(scores)
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
        f"probability of {support} and a sequence KL of {divergence} nats (mean over families), not 1 and 0; their "
        "trie KL, above 0 too, depends on the tokenizer. A model that was trained on the same strings can be better."
    )
