"""The claims of the paper (arXiv 2605.11845), each with an estimate, a 95% interval and a verdict.

A verdict follows from the interval alone; see cft.verdict. Intervals come from resampling the units of a benchmark (of
a claim on one noun its draws), training seeds, and several models; see cft.resampling and cft.paired.
"""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cft import paired
from cft.benchmark_settings import PALOMA_SLICES
from cft.claims_fidelity import fidelity, hard_and_soft
from cft.evidence import BASE, HARD, JOINTLY, NOUN_MODELS, SOFT, TUNED, counted, exp, jointly, mean
from cft.paired import (
    at_equal_draws,
    block_sums,
    each_model,
    extreme,
    log_perplexity_ratio,
    mean_difference,
    once_for_all_seeds,
    over_models,
    pooled,
    scores_of,
    together,
)
from cft.provenance import replacing
from cft.resampling import UNKNOWN, Resampled, combine, interval
from cft.summary import cell, in_order, named
from cft.verdict import ABOVE_0, ABOVE_1, BELOW_0, BELOW_1, Claim, Found, criterion, verdict

SOURCE = "arXiv 2605.11845"
NOTHING = Found(UNKNOWN, 0, 0)
LETTERS = "tv_uniform_parsed_only"
ABOUT = 1.5  # "about" a factor: within this factor of it
# (noun, metric, method, the paper's share before, after)
NOUNS = [
    ("weekday", "wednesday_share", SOFT, 0.80, 0.40),
    ("city", "top4_share", SOFT, 0.74, 0.15),
    ("city", "top4_share", HARD, 0.74, 0.24),
]
ANSWERS = {"wednesday_share": "answer Wednesday", "top4_share": "four most frequent answers"}
TASKS = {
    "mmlu": ABOVE_0,
    "hellaswag": ABOVE_0,
    "winogrande": ABOVE_0,
    "gsm8k_strict": BELOW_0,
    "gsm8k_flexible": BELOW_0,
}


def claims(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per claim: claim, verdict, models, seeds, measure, estimate, low, high, criterion, source.

    models, seeds    how many models the estimate has, and how many training seeds each of them has at least
    """
    models = in_order(scores["model"])
    groups = (fidelity, hard_and_soft, _support, _nouns, _positions, _novelty, _retention, _perplexity)
    rows = []
    for claim in (claim for group in groups for claim in group(scores, models)):
        found = claim.found or NOTHING
        decided = verdict(claim.found and found.interval, claim.region)
        rows.append(
            {"claim": claim.claim, "verdict": decided, "models": found.models, "seeds": found.seeds}
            | {"measure": claim.measure, **found.interval._asdict()}
            | {"criterion": criterion(claim.region), "source": SOURCE}
        )
    return pd.DataFrame(rows)


def write(scores: pd.DataFrame, out: Path) -> None:
    """Write the claims of tidy scores as CSV."""
    with replacing(out) as temporary:
        claims(scores).to_csv(temporary, index=False, float_format="%.6g")


def _support(scores: pd.DataFrame, models: list[str]) -> list[Claim]:
    wide = scores_of(scores, "open_ended")
    parts = each_model(
        models,
        lambda soft, base: np.log(combine(soft / base, "median")),
        lambda model: [cell(wide, "support_size_0.9", model, method) for method in (SOFT, BASE)],
    )
    measure = "median over nouns of the top-90% support size, soft / base"
    return [
        Claim("soft widens the top-90% support in every model that was run", f"{measure}, least over models; {JOINTLY}",
              ABOVE_1, exp(jointly(np.min, parts))),
        Claim("soft widens the top-90% support by at least one order of magnitude in every model that was run",
              f"{measure}, least over models; {JOINTLY}", (10.0, math.inf), exp(jointly(np.min, parts))),
        Claim("soft widens the top-90% support by at most two orders of magnitude in every model that was run",
              f"{measure}, greatest over models; {JOINTLY}", (0.0, 100.0), exp(jointly(np.max, parts))),
    ]  # fmt: skip


def _nouns(scores: pd.DataFrame, models: list[str]) -> list[Claim]:
    wide = scores_of(scores, "open_ended")
    rows = []
    for noun, metric, method, before, after in NOUNS:
        part = NOUN_MODELS[noun]
        model = named(models, part) or ""
        shares = [paired.share_of_draws(wide, metric, noun, model, name) for name in (method, BASE)]
        known = [share for share in shares if share is not None]
        what = f"share of the {ANSWERS[metric]} to {noun!r} in {part}"
        for sentence, sign, function, region in [
            (f"{method} lowers the {what}", "-", np.subtract, BELOW_0),
            (f"{method} divides the {what} by about {before / after:.2g} (paper: {before:.0%} to {after:.0%})", "/",
             np.divide,
             (after / before / ABOUT, after / before * ABOUT)),
        ]:  # fmt: skip
            if len(known) == len(shares):
                both = together(function, *known)
                found = Found(interval(both), *counted([both]))
            else:
                found = None
            rows.append(Claim(sentence, f"share of the draws that choose them, {method} {sign} base", region, found))
    return rows


def _positions(scores: pd.DataFrame, models: list[str]) -> list[Claim]:
    wide = scores_of(scores, "mcq")
    return [claim for method in TUNED for claim in _evened_out(wide, models, method)]


def _evened_out(wide: pd.DataFrame, models: list[str], method: str) -> list[Claim]:
    def change(chosen: list[str]) -> list[Resampled]:
        pair = (method, BASE)
        return each_model(chosen, mean_difference, lambda model: at_equal_draws(wide, LETTERS, model, pair))

    qwen = [model for model in models if "qwen3" in model.lower()]
    groups = [change(qwen), change([model for model in models if model not in qwen])]
    means = [over_models(parts, name) for parts, name in zip(groups, ("qwen3", "others"), strict=True)]
    both = [part for parts in groups for part in parts]
    most = Found(interval(together(np.subtract, *means)), *counted(both)) if all(groups) else None
    whole = each_model(
        models, mean_difference, lambda model: [cell(wide, "tv_uniform", model, name) for name in (method, BASE)]
    )
    sentence = f"{method} evens out MCQ answer positions"
    measure = f"total variation from uniform, {method} - base, mean over models"
    parsed = f"{measure}, at equal numbers of parsed questions"
    return [
        Claim(sentence, parsed, BELOW_0, mean(change(models))),
        Claim(f"{sentence} most in Qwen3", f"{parsed}: Qwen3's less the others'", BELOW_0, most),
        Claim(
            f"{sentence}, unparsed texts counted", f"{measure}, unparsed texts as a fifth letter", BELOW_0, mean(whole)
        ),
    ]


def _novelty(scores: pd.DataFrame, models: list[str]) -> list[Claim]:
    wide = scores_of(scores, "novelty")
    metric = next((name for name in wide.columns if name.startswith("utility_")), "utility")

    def best(*utilities: np.ndarray) -> np.ndarray:
        soft, *others = map(combine, utilities)
        return (soft > np.max(others, axis=0)).astype(float)

    parts = each_model(models, best, lambda model: [pooled(wide, metric, model, name) for name in (SOFT, BASE, HARD)])
    measure = f"share of models whose mean {metric.replace('_', ' ')} is greatest under soft"
    sentence = "NoveltyBench utility is best under soft for most models (paper: 8 of 12)"
    found = Found(paired.share_of_models(parts), *counted(parts)) if parts else None
    return [Claim(sentence, measure, (0.5, math.inf), found)]


def _retention(scores: pd.DataFrame, models: list[str]) -> list[Claim]:
    wide = scores_of(scores, "tinybenchmarks", ["correct"])
    return [_task(wide, models, task, region, method) for task, region in TASKS.items() for method in TUNED]


def _task(wide: pd.DataFrame, models: list[str], task: str, region: tuple[float, float], method: str) -> Claim:
    def pair(model: str) -> list[pd.DataFrame]:
        tuned, base = (cell(wide, "correct", model, name, task) for name in (method, BASE))
        return [tuned, once_for_all_seeds(base, tuned)]

    sentence = f"{method} {'raises' if region == ABOVE_0 else 'lowers'} the score of {task}"
    measure = f"mean over items, {method} - base, mean over models"
    return Claim(sentence, measure, region, mean(each_model(models, mean_difference, pair)))


def _perplexity(scores: pd.DataFrame, models: list[str]) -> list[Claim]:
    wide = scores_of(scores, "paloma", ["nats", "tokens"])
    slices = [name for name in wide.index.unique("split") if name != "all"] if len(wide) else []
    found, numbers = {}, []
    for name in slices:
        for method in TUNED:
            sums = partial(block_sums, wide, method=method, slices=[name])
            parts = each_model(models, log_perplexity_ratio, sums)
            if parts:
                found[name, method] = over_models(parts)
                numbers.append(counted(parts))
    level = 1 - 0.05 / max(1, len(found))
    best = [
        extreme(np.min, [interval(part, level) for (each, _), part in found.items() if each == name])
        for name in in_order(name for name, _ in found)
    ]
    sentence = "on every PALOMA slice at least one tuned variant has lower perplexity than base"
    worst = extreme(np.max, best) if best else None
    if worst and not set(PALOMA_SLICES) <= set(slices):
        worst = worst._replace(high=math.nan)  # a slice that is not there may be worse
    measure = f"perplexity, tuned / base, geometric mean over models; worst slice of the better variant; {JOINTLY}"
    # Slices and variants may lack models: of those that fewest have.
    known = worst and Found(paired.exp(worst), *map(min, zip(*numbers, strict=True)))
    return [Claim(sentence, measure, BELOW_1, known)]
