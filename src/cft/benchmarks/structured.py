"""Structured sampling: one random number from a stated distribution (arXiv 2605.11845).

Data    the 42 selected prompts of the two held-out splits, or all 683 of their grids
Metric  per prompt from the draws: validity (…_low and …_high its Wilson interval), moment errors, distances and what a
        perfect sampler scores on them (…_floor its mean, …_floor_high its 95 % quantile), standard errors (…_se) of
        those that table 1 averages, the test of fit p_fit and whether it passes the first 100, 300 and 1,000 draws,
        tokens per draw; from the law (no draws): probabilities and divergences in nats
Source  arXiv 2605.11845; golden/structured_scores.jsonl for validity, moments and w1_valid_only

Odd cases. A text is one decimal number and nothing else; "inf", "1,000", "1_000" and "0x1F" are malformed, digits of
other scripts are digits. "16.0" and "3." are integers. A number too large for a float is non_finite. The standard
deviation of the draws divides by n. w1_valid_only is blind to invalid draws, as the paper's is, and its floor is that
of as many draws as are valid; pit_w1 counts them.
w1_over_scale divides by target_scale; the paper's own normaliser is not released. In ks, tv and p_fit an invalid draw
counts as much as a draw can (fit.py). A metric is NaN where it is undefined (no valid draw, a target without variance,
tv of a continuous target, fewer draws than a test is of), never 0 or infinite.
"""

import math
import zlib
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rv_discrete

from cft import CftError, fit, stats
from cft.assets import Assets
from cft.benchmark_settings import StructuredBenchmark
from cft.benchmarks import jsonable, texts_by, tidy
from cft.distributions import Family, Registry
from cft.law_scores import law_scores
from cft.numbers import read_number

METRICS = (
    "n", "valid_rate", "valid_rate_low", "valid_rate_high", "valid_rate_se", "support_violation_rate",
    "mean_error", "variance_error",
    "w1_valid_only", "w1_floor", "w1_floor_high",
    "w1_over_scale", "w1_over_scale_floor", "w1_over_scale_floor_high", "w1_over_scale_se",
    "w1_over_iqr", "w1_over_iqr_floor", "w1_over_iqr_floor_high",
    "pit_w1", "pit_w1_floor", "pit_w1_floor_high", "pit_w1_se",
    "ks", "ks_floor", "ks_floor_high", "ks_upper",
    "tv", "tv_floor", "tv_floor_high",
    "p_fit", "not_rejected_at_100", "not_rejected_at_300", "not_rejected_at_1000",
)  # fmt: skip
GREATEST = {"valid_rate": 1.0, "pit_w1": stats.INVALID_DISTANCE}  # other distances have no bound
TESTED_AT = (100, 300, 1000)
SUPPORT_ERRORS = ("non_finite", "below_support", "above_support", "non_integer")
ELSEWHERE = "elsewhere"


def prompts(settings: StructuredBenchmark, registry: Registry, assets: Assets) -> pd.DataFrame:
    """Columns prompt_id, split, prompt: the selected prompts, or every prompt of the two held-out grids."""
    if settings.prompts == "selected":
        chosen = registry.select(selected=True)
    else:
        chosen = [*registry.select("unseen_params"), *registry.select("unseen_families")]
    rows = [(prompt.prompt_id, prompt.split, prompt.text) for prompt in chosen]
    return pd.DataFrame(rows, columns=["prompt_id", "split", "prompt"])


def family_of(prompt_id: str) -> str:
    """The family's name in a prompt_id such as gaussian(mu=3.5,sigma=3.0)."""
    return prompt_id.partition("(")[0]


def measure(
    texts: list[str], family: Family, parameters: dict[str, float], quantiles: tuple[float, float]
) -> tuple[dict[str, float], Counter[str]]:
    """The METRICS of one prompt's draws, and how often each error code occurred.

    quantiles    where the target's support is cut (Registry.quantiles), for target_scale
    Distances and mean_error are in the target's units, variance_error in their square; rates and pit_w1 have no unit.
    """
    frozen = family.frozen(parameters)
    support = frozen.support()
    numbers = [read_number(text, support, family.discrete) for text in texts]
    valid = np.array([code is None for _, code in numbers], dtype=bool)
    every = np.array([value for value, _ in numbers], dtype=float)
    errors = Counter(code for _, code in numbers if code is not None)
    mean, variance = (float(moment) for moment in frozen.stats("mv"))
    rate = stats.wilson(int(valid.sum()), len(texts))
    found = {
        "n": len(texts),
        "valid_rate": rate.estimate,
        "valid_rate_low": rate.low,
        "valid_rate_high": rate.high,
        # By Jeffreys' posterior, as none or all valid leave an error too.
        "valid_rate_se": _jeffreys_error(int(valid.sum()), len(valid)),
        "support_violation_rate": sum(errors[code] for code in SUPPORT_ERRORS) / len(texts),
        "mean_error": _error(every[valid], np.mean, mean),
        "variance_error": _error(every[valid], np.var, variance),
    }
    # What is randomised (stats.pit) has one stream per prompt, the same in every run.
    seed = [stats.SEED, zlib.crc32(family.identifier(parameters).encode())]
    scale = stats.target_scale(family, frozen, quantiles)
    found |= _distances(every[valid], len(texts) - int(valid.sum()), frozen, scale, seed)
    decimals = fit.printed_decimals(text for text, good in zip(texts, valid, strict=True) if good)
    found |= _tests(every, valid, frozen, decimals, seed)
    # Of numbers near the largest float, a distance or a moment is too large for one.
    return {name: value if math.isfinite(value) else math.nan for name, value in found.items()}, errors


def _jeffreys_error(k: int, n: int) -> float:
    """The standard deviation of Beta(k + 1/2, n - k + 1/2)."""
    return ((k + 0.5) * (n - k + 0.5) / (n + 2)) ** 0.5 / (n + 1)


def _distances(values: np.ndarray, invalid: int, frozen: Any, scale: float, seed: list[int]) -> dict[str, float]:
    n, discrete = len(values) + invalid, isinstance(frozen.dist, rv_discrete)
    one, other = (np.random.default_rng(seed) if discrete else None for _ in range(2))
    w1, floor = stats.w1_quantile(values, frozen), stats.w1_floor(frozen, len(values))
    ks = fit.ks(values, frozen, invalid, one)
    variation = fit.total_variation(values, frozen, invalid) if discrete else math.nan
    measured = {
        "w1": (w1, floor),
        "w1_over_scale": _in_units(w1, floor, scale),
        "w1_over_iqr": _in_units(w1, floor, stats.target_iqr(frozen)),
        "pit_w1": (stats.pit_w1(values, frozen, invalid, other), stats.pit_floor(n)),
        "ks": (ks, fit.ks_floor(n)),
        "tv": (variation, fit.total_variation_floor(frozen, n) if discrete else stats.NO_FLOOR),
    }
    found = {"ks_upper": fit.ks_upper(ks, len(values), invalid), **_errors(values, invalid, frozen, scale, seed)}
    for name, (value, beside) in measured.items():
        found |= {name: value, f"{name}_floor": beside.mean, f"{name}_floor_high": beside.high}
    found["w1_valid_only"] = found.pop("w1")
    return found


def _errors(values: np.ndarray, invalid: int, frozen: Any, scale: float, seed: list[int]) -> dict[str, float]:
    again = np.random.default_rng(seed) if isinstance(frozen.dist, rv_discrete) else None
    levels = stats.midpoints(len(values))
    w1 = stats.distance_error(np.sort(values), stats.quantiles_of(frozen, levels))
    return {
        "w1_over_scale_se": w1 / scale if 0 < scale < math.inf else math.nan,
        "pit_w1_se": stats.distance_error(np.sort(stats.pit(values, frozen, again)), levels, invalid),
    }


def _in_units(w1: float, floor: stats.Floor, unit: float) -> tuple[float, stats.Floor]:
    if not 0 < unit < math.inf:
        return math.nan, stats.NO_FLOOR
    return w1 / unit, stats.Floor(floor.mean / unit, floor.high / unit)


def _tests(every: np.ndarray, valid: np.ndarray, frozen: Any, decimals: int, seed: list[int]) -> dict[str, float]:
    def p_value(count: int) -> float:
        generator, here = np.random.default_rng(seed), valid[:count]
        return fit.p_value(every[:count][here], frozen, int((~here).sum()), generator, decimals)

    found = {"p_fit": p_value(len(every))}
    for count in TESTED_AT:
        passes = float(p_value(count) > fit.ALPHA) if count <= len(every) else math.nan
        found[f"not_rejected_at_{count}"] = passes
    return found


def _error(values: np.ndarray, moment: Any, target: float) -> float:
    return abs(float(moment(values)) - target) if len(values) and math.isfinite(target) else math.nan


def identify(draws: pd.DataFrame, registry: Registry) -> list[str]:
    """Each draw's prompt_id in its canonical spelling, from prompt_id or from family and parameters.

    Raises CftError naming an unknown family, or parameters that are missing, unknown or out of range.
    """
    if "prompt_id" in draws:
        given = [str(prompt_id) for prompt_id in draws["prompt_id"]]
        spelling = {prompt_id: _canonical(*registry.parse(prompt_id)) for prompt_id in set(given)}
        return [spelling[prompt_id] for prompt_id in given]
    if "family" not in draws or "parameters" not in draws:
        raise CftError("structured draws need the column prompt_id, or the columns family and parameters")
    pairs = zip(draws["family"], draws["parameters"], strict=True)
    return [_canonical(registry[family], _numbers(parameters)) for family, parameters in pairs]


def _canonical(family: Family, parameters: dict[str, float]) -> str:
    family.check(parameters)
    return family.identifier(parameters)


def _numbers(parameters: Any) -> dict[str, float]:
    try:
        # A parquet file gives every row the parameters of all families, None where they do not apply.
        return {name: float(value) for name, value in parameters.items() if value is not None}
    except (AttributeError, TypeError, ValueError):
        raise CftError(f'parameters {parameters!r} are not names with numbers, such as {{"mu": 3.5, "sigma": 3.0}}')


def _measure_all(draws: pd.DataFrame, registry: Registry) -> dict[str, tuple[dict[str, float], Counter[str]]]:
    found = {}
    for prompt_id, texts in texts_by(identify(draws, registry), draws["text"]).items():
        family, parameters = registry.parse(prompt_id)
        found[prompt_id] = measure(texts, family, parameters, registry.quantiles)
    return found


def score(draws: pd.DataFrame, law: pd.DataFrame | None, registry: Registry) -> pd.DataFrame:
    """Tidy scores: METRICS of every prompt in `draws`, and those of cft.law_scores of every prompt in `law`.

    Also tokens_per_draw, the mean of the column tokens, where the draws have it. The split of a prompt outside the
    paper's grids is "elsewhere". Raises CftError for a law of an earlier version.
    """
    splits = {prompt.prompt_id: prompt.split for prompt in registry.prompts}
    rows = [
        (splits.get(prompt_id, ELSEWHERE), prompt_id, metric, metrics[metric])
        for prompt_id, (metrics, _) in _measure_all(draws, registry).items()
        for metric in METRICS
    ]
    if "tokens" in draws:
        used: Any = draws["tokens"].groupby(identify(draws, registry), sort=False)
        rows += [
            (splits.get(prompt_id, ELSEWHERE), prompt_id, metric, value)
            for metric, values in {"tokens_per_draw": used.mean(), "tokens_per_draw_se": used.sem()}.items()
            for prompt_id, value in values.items()
        ]
    if law is not None:
        rows += [
            (splits.get(prompt_id, ELSEWHERE), prompt_id, metric, value)
            for prompt_id, metric, value in law_scores(law, registry)
        ]
    return tidy(rows)


def summary(draws: pd.DataFrame, registry: Registry) -> dict[str, Any]:
    """METRICS as the mean over a family's prompts, then over families (undefined ones left out), and per prompt.

    n is the total number of draws; p_fit the least of the prompts' by Holm's method, share_passing the share of those
    that it does not reject. Undefined values are None. Key prompts: {prompt_id: METRICS and error_counts}.
    """
    found = _measure_all(draws, registry)
    families: dict[str, list[dict[str, float]]] = {}
    for prompt_id, (metrics, _) in found.items():
        families.setdefault(family_of(prompt_id), []).append(metrics)
    whole = {
        metric: _mean([_mean([metrics[metric] for metrics in members]) for members in families.values()])
        for metric in METRICS
    }
    p_values = [metrics["p_fit"] for metrics, _ in found.values()]
    whole |= {"n": len(draws), "p_fit": min(fit.holm(p_values)), "share_passing": fit.share_passing(p_values)}
    each = {prompt_id: {**metrics, "error_counts": dict(errors)} for prompt_id, (metrics, errors) in found.items()}
    return jsonable({**whole, "prompts": each})


def _mean(values: list[float]) -> float:
    """The mean of the values that are defined; NaN if none is."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
