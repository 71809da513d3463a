"""The claims on fidelity, from the structured benchmark; see cft.claims."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cft.evidence import BASE, HARD, JOINTLY, SOFT, TUNED, exp, jointly, mean
from cft.paired import at_equal_draws, each_model, log_ratio, scores_of
from cft.resampling import Drawn, Resampled, combine
from cft.summary import SPLITS, cell, drawn
from cft.verdict import BELOW_0, BELOW_1, Claim

PARAMETERS, FAMILIES = SPLITS
TENFOLD = (5.0, math.inf)
NEARLY_VALID = 0.95
W1 = "w1_over_scale"
EQUAL = "at equal numbers of valid draws"


def _nearly_valid(rates: Any) -> pd.Index:
    """Which rows of the cell [(family, prompt) x seeds] are of a family where NEARLY_VALID of the draws are valid."""
    if rates.empty:
        return rates.index
    families = rates.mean(axis=1).groupby("unit").transform("mean")
    return rates.index[families >= NEARLY_VALID]


def fidelity(scores: pd.DataFrame, models: list[str]) -> list[Claim]:
    wide = scores_of(scores, "structured")
    rows = []
    for where in ("", f", in families where at least {NEARLY_VALID:.0%} of base's draws are valid"):
        for split, label in SPLITS.items():
            for method in TUNED:

                def chosen(parts: Sequence[Drawn], model: str, split: str = split, near: bool = bool(where)):
                    rates = cell(wide, "valid_rate", model, BASE, split)
                    return [part.only(_nearly_valid(rates)) if near else part for part in parts]

                def distances(model: str, split: str = split, pair: tuple[str, str] = (method, BASE), chosen=chosen):
                    return chosen(at_equal_draws(wide, W1, model, pair, split), model)

                def divergences(model: str, split: str = split, method: str = method, chosen=chosen):
                    return chosen([drawn(wide, "trie_kl", model, name, split) for name in (BASE, method)], model)

                w1 = each_model(models, log_ratio("median"), distances)
                kl = each_model(models, log_ratio("mean"), divergences)
                measure = f"family median of normalised W1 {EQUAL}, {method} / base, geometric mean over models"
                rows.append(Claim(f"{method} cuts normalised W1 on {label}{where}", measure, BELOW_1, exp(mean(w1))))
                measure = f"family mean of trie KL, base / {method}, geometric mean over models"
                sentence = f"{method} cuts trie KL about tenfold on {label}{where}"
                rows.append(Claim(sentence, measure, TENFOLD, exp(mean(kl))))
    return rows


def hard_and_soft(scores: pd.DataFrame, models: list[str]) -> list[Claim]:
    wide = scores_of(scores, "structured")

    def difference(split: str, methods: tuple[str, str]) -> list[Resampled]:
        return each_model(
            models,
            lambda first, second: combine(first, "median") - combine(second, "median"),
            lambda model: at_equal_draws(wide, W1, model, methods, split),
        )

    measure = f"family median of normalised W1 {EQUAL}"
    return [
        Claim(f"hard is better than soft on {SPLITS[PARAMETERS]}", f"{measure}, hard - soft, mean over models",
              BELOW_0, mean(difference(PARAMETERS, (HARD, SOFT)))),
        Claim(f"soft is at least as good as hard on {SPLITS[FAMILIES]} for at least one model",
              f"{measure}, soft - hard, least over models; {JOINTLY}",
              BELOW_0, jointly(np.min, difference(FAMILIES, (SOFT, HARD)))),
    ]  # fmt: skip
