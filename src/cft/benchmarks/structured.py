"""Structured sampling: one random number from a stated distribution (paper section 5.1).

Data    the 42 selected prompts of the two held-out splits, or all 683 of their grids
Metric  per prompt from the draws: validity, moment errors, Wasserstein-1 distances and what a perfect sampler scores on
        them, tokens per draw; from the law (no draws): probabilities and divergences in nats
Source  arXiv 2605.11845; golden/structured_scores.jsonl for validity, moments and w1_valid_only

Odd cases. A text is one decimal number and nothing else; "inf", "1,000", "1_000" and "0x1F" are malformed, digits of
other scripts are digits. "16.0" and "3." are integers. A number too large for a float is non_finite. The standard
deviation of the draws divides by n. w1_valid_only is blind to invalid draws, as the paper's is; pit_w1 counts them.
w1_over_scale divides by target_scale; the paper's own normaliser is not released. A metric is NaN where it is undefined
(no valid draw, a target without variance), never 0 or infinite.
"""

import math
import re
import zlib
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from cft import CftError, stats
from cft.assets import Assets
from cft.benchmark_settings import StructuredBenchmark
from cft.benchmarks import jsonable, texts_by, tidy
from cft.distributions import Family, Registry
from cft.text import strip_thinking

METRICS = (
    "n", "valid_rate", "support_violation_rate", "mean_error", "variance_error", "w1_valid_only", "w1_floor",
    "w1_over_scale", "w1_over_scale_floor", "pit_w1", "pit_w1_floor",
)  # fmt: skip
LAW_METRICS = ("support_probability", "trie_kl", "sequence_kl", "support_nll", "kl_within_support")
SUPPORT_ERRORS = ("non_finite", "below_support", "above_support", "non_integer")
ELSEWHERE = "elsewhere"

# A digit string matches in one way only, so that a long malformed text costs linear time.
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE)


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


def read_number(text: str, support: tuple[float, float], discrete: bool) -> tuple[float, str | None]:
    """The number that a text states and its error code, None when it is a valid draw.

    support    the least and the greatest value of the target, in its units
    Returns NaN with `empty` or `malformed` when the text is not a number.
    """
    answer = strip_thinking(text)
    if not _NUMBER.fullmatch(answer):
        return math.nan, "malformed" if answer else "empty"
    value = float(answer)
    lower, upper = support
    # SciPy computes some bounds (loc + scale): a draw on the bound is inside whatever the rounding.
    if not math.isfinite(value):
        return value, "non_finite"
    if value < lower and not math.isclose(value, lower, rel_tol=1e-12, abs_tol=1e-12):
        return value, "below_support"
    if value > upper and not math.isclose(value, upper, rel_tol=1e-12, abs_tol=1e-12):
        return value, "above_support"
    if discrete and abs(value - round(value)) > 1e-9:
        return value, "non_integer"
    return value, None


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
    values = np.array([value for value, code in numbers if code is None])
    errors = Counter(code for _, code in numbers if code is not None)
    n, scale = len(texts), stats.target_scale(family, frozen, quantiles)
    mean, variance = (float(moment) for moment in frozen.stats("mv"))
    w1, floor = stats.w1_quantile(values, frozen), stats.w1_floor(frozen, n).mean
    # The randomised transform of a discrete target: one stream per prompt, the same in every run.
    seed = [stats.SEED, zlib.crc32(family.identifier(parameters).encode())]
    generator = np.random.default_rng(seed) if family.discrete else None
    found = {
        "n": n,
        "valid_rate": len(values) / n,
        "support_violation_rate": sum(errors[code] for code in SUPPORT_ERRORS) / n,
        "mean_error": _error(values, np.mean, mean),
        "variance_error": _error(values, np.var, variance),
        "w1_valid_only": w1,
        "w1_floor": floor,
        "w1_over_scale": w1 / scale if scale else math.nan,
        "w1_over_scale_floor": floor / scale if scale else math.nan,
        "pit_w1": stats.pit_w1(values, frozen, n - len(values), generator),
        "pit_w1_floor": stats.pit_floor(n).mean,
    }
    return found, errors


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
    """Tidy scores: METRICS of every prompt in `draws`, LAW_METRICS (nats; a probability) of every prompt in `law`.

    Also tokens_per_draw, the mean of the column tokens, where the draws have it. The split of a prompt outside the
    paper's grids is "elsewhere".
    """
    splits = {prompt.prompt_id: prompt.split for prompt in registry.prompts}
    rows = [
        (splits.get(prompt_id, ELSEWHERE), prompt_id, metric, metrics[metric])
        for prompt_id, (metrics, _) in _measure_all(draws, registry).items()
        for metric in METRICS
    ]
    if "tokens" in draws:
        means: Any = draws["tokens"].groupby(identify(draws, registry), sort=False).mean()
        rows += [
            (splits.get(prompt_id, ELSEWHERE), prompt_id, "tokens_per_draw", value)
            for prompt_id, value in means.items()
        ]
    if law is not None:
        rows += [
            (splits.get(prompt_id, ELSEWHERE), prompt_id, metric, value)
            for prompt_id, *values in law[["prompt_id", *LAW_METRICS]].itertuples(index=False)
            for metric, value in zip(LAW_METRICS, values, strict=True)
        ]
    return tidy(rows)


def summary(draws: pd.DataFrame, registry: Registry) -> dict[str, Any]:
    """METRICS as the mean over a family's prompts, then over families (undefined ones left out), and per prompt.

    n is the total number of draws. Undefined values are None. Key prompts: {prompt_id: METRICS and error_counts}.
    """
    found = _measure_all(draws, registry)
    families: dict[str, list[dict[str, float]]] = {}
    for prompt_id, (metrics, _) in found.items():
        families.setdefault(family_of(prompt_id), []).append(metrics)
    whole = {
        metric: _mean([_mean([metrics[metric] for metrics in members]) for members in families.values()])
        for metric in METRICS
    }
    each = {prompt_id: {**metrics, "error_counts": dict(errors)} for prompt_id, (metrics, errors) in found.items()}
    return jsonable({**whole, "n": len(draws), "prompts": each})


def _mean(values: list[float]) -> float:
    """The mean of the values that are defined; NaN if none is."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
