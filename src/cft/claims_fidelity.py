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
FIVEFOLD = (5.0, math.inf)
TENFOLD = "at least fivefold (paper: about tenfold)"
NEARLY_VALID = 0.95
WHERE_VALID = f", in families where at least {NEARLY_VALID:.0%} of base's draws are valid"
W1 = "w1_over_scale"
EQUAL = "at equal numbers of valid draws"


def _nearly_valid(rates: Any) -> pd.Index:
    """Which rows of the cell [(family, prompt) x seeds] are of a family where NEARLY_VALID of the draws are valid."""
    if rates.empty:
        return rates.index
    families = rates.mean(axis=1).groupby("unit").transform("mean")
    return rates.index[families >= NEARLY_VALID]


def fidelity(scores: pd.DataFrame, models: list[str]) -> list[Claim]:
    """Each tuned method against base on both splits: of all families, then where base is nearly always valid."""
    wide = scores_of(scores, "structured")
    return [
        claim
        for nearly in (False, True)
        for split in SPLITS
        for method in TUNED
        for claim in _gains(wide, models, split, method, nearly)
    ]


def _gains(wide: pd.DataFrame, models: list[str], split: str, method: str, nearly: bool) -> list[Claim]:
    def whole(model: str, metric: str, names: tuple[str, str]) -> list[Drawn]:
        return [drawn(wide, metric, model, name, split) for name in names]

    def chosen(parts: Sequence[Drawn], model: str) -> list[Drawn]:
        rates = cell(wide, "valid_rate", model, BASE, split)
        return [part.only(_nearly_valid(rates)) if nearly else part for part in parts]

    def distances(model: str) -> list[Drawn]:
        return chosen(at_equal_draws(wide, W1, model, (method, BASE), split), model)

    def divergences(model: str) -> list[Drawn]:
        return chosen(whole(model, "trie_kl", (BASE, method)), model)

    where = SPLITS[split] + (WHERE_VALID if nearly else "")
    w1, kl = each_model(models, log_ratio("median"), distances), each_model(models, log_ratio("mean"), divergences)
    measure = f"family median of normalised W1 {EQUAL}, {method} / base, geometric mean over models"
    other = f"family mean of trie KL, base / {method}, geometric mean over models"
    claims = [
        Claim(f"{method} cuts normalised W1 on {where}", measure, BELOW_1, exp(mean(w1))),
        Claim(f"{method} cuts trie KL {TENFOLD} on {where}", other, FIVEFOLD, exp(mean(kl))),
    ]
    if not nearly:
        measure = f"family mean of PIT-scale W1, {method} / base, geometric mean over models"
        pit = each_model(models, log_ratio("mean"), lambda model: whole(model, "pit_w1", (method, BASE)))
        sentence = f"{method} cuts PIT-scale W1, in which invalid draws count, on {where}"
        claims.insert(1, Claim(sentence, measure, BELOW_1, exp(mean(pit))))
    return claims


def hard_and_soft(scores: pd.DataFrame, models: list[str]) -> list[Claim]:
    """The two tuned methods against each other, a split each."""
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
        Claim(f"soft is better than hard on {SPLITS[FAMILIES]} for at least one model",
              f"{measure}, soft - hard, least over models; {JOINTLY}",
              BELOW_0, jointly(np.min, difference(FAMILIES, (SOFT, HARD)), some=True)),
    ]  # fmt: skip
