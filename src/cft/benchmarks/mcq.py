"""Answer positions of generated multiple-choice questions (arXiv 2605.11845).

Data    one prompt that asks for a medical question whose right answer is equally likely to be A, B, C or D: our own
        (mcq_prompt.txt), or the paper's from upstream
Metric  how far the right answers' letters are from uniform, and how many texts keep to the format
Source  arXiv 2605.11845; golden/mcq.jsonl for the parser and the keys of summary()

Odd cases. The parser is strict: one line per field, no other line, the answer a bare capital letter; the first of a
repeated field is kept and the text does not parse. tv_uniform_parsed_only looks at the texts that parse and is NaN when
none does; the released code gives 0 there, the best score, and summary() repeats that under its name. tv_uniform counts
a text that does not parse as a fifth letter that should never occur. tv_detectable is the shift that the test of the
letters would find.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import brentq

from cft.assets import Assets
from cft.benchmark_settings import McqBenchmark
from cft.benchmarks import jsonable, tidy
from cft.distributions import Registry
from cft.stats import NO_FLOOR, SEED, Floor, wilson
from cft.text import strip_thinking

SPLIT, ITEM = "mcq", "all"
LETTERS = "ABCD"
OPTIONS = tuple(f"option_{letter.lower()}" for letter in LETTERS)
PREFIXES = {
    "question": "Question:",
    **{name: f"{letter}." for name, letter in zip(OPTIONS, LETTERS, strict=True)},
    "correct_answer": "Correct Answer:",
    "explanation": "Explanation:",
}
MISSING_ORDER = (*OPTIONS, "question", "explanation", "correct_answer")
EMPTY_ORDER = ("question", "explanation", *OPTIONS)


def prompts(settings: McqBenchmark, registry: Registry, assets: Assets) -> pd.DataFrame:
    """Columns prompt_id, split, prompt: one row. The paper's prompt needs `assets`, which may download it."""
    if settings.prompt == "paper":
        text = assets.text("mcq_prompt")
    else:
        text = files("cft.benchmarks").joinpath("mcq_prompt.txt").read_text(encoding="utf-8")
    return pd.DataFrame({"prompt_id": ["mcq"], "split": [SPLIT], "prompt": [text]})


@dataclass
class Question:
    """One generated question: its fields (empty where missing) and what is wrong with its format, in order."""

    question_text: str = ""
    option_a: str = ""
    option_b: str = ""
    option_c: str = ""
    option_d: str = ""
    correct_answer: str = ""
    explanation: str = ""
    is_parseable: bool = False
    format_errors: list[str] = field(default_factory=list)
    unique_options: bool = False
    correct_option_nonempty: bool = False
    option_prefixes_valid: bool = False
    has_valid_correct_answer: bool = False


def parse(text: str) -> Question:
    """Read one text strictly; a thinking block, indentation and empty lines do not matter."""
    answer = strip_thinking(text)
    if not answer:
        return Question(format_errors=["empty_response"])
    found, errors = _fields(answer)
    errors += [f"missing_{name}" for name in MISSING_ORDER if name not in found]
    errors += [f"empty_{name}" for name in EMPTY_ORDER if not found.get(name)]
    letter = found.get("correct_answer", "")
    valid = len(letter) == 1 and letter in LETTERS
    errors += [] if valid else ["invalid_correct_answer"]
    options = [found.get(name, "") for name in OPTIONS]
    misplaced = {f"{fault}_{name}" for fault in ("missing", "duplicate") for name in OPTIONS}
    return Question(
        question_text=found.get("question", ""),
        **dict(zip(OPTIONS, options, strict=True)),
        correct_answer=letter,
        explanation=found.get("explanation", ""),
        is_parseable=not errors,
        format_errors=errors,
        unique_options=all(options) and len(set(options)) == len(LETTERS),
        correct_option_nonempty=valid and bool(options[LETTERS.index(letter)]),
        option_prefixes_valid=misplaced.isdisjoint(errors),
        has_valid_correct_answer=valid,
    )


def _fields(answer: str) -> tuple[dict[str, str], list[str]]:
    """The first content of each field that occurs, and the errors of repeated or other lines."""
    found: dict[str, str] = {}
    errors = []
    for line in filter(None, map(str.strip, answer.splitlines())):
        name = next((name for name, prefix in PREFIXES.items() if line.startswith(prefix)), None)
        if name is None:
            errors.append("unexpected_line")
        elif name in found:
            errors.append(f"duplicate_{name}")
        else:
            found[name] = " ".join(line.removeprefix(PREFIXES[name]).split())
    return found, errors


def total_variation(counts: np.ndarray, n: int | None = None) -> float:
    """Total variation distance, 0 to 1, of letter counts [4] from uniform.

    n    number of texts; those beyond sum(counts) are a fifth letter whose target probability is 0. Without n only
         the counted texts exist. NaN for no text.
    """
    total = int(counts.sum()) if n is None else n
    if total == 0:
        return float("nan")
    return float(0.5 * (np.abs(counts / total - 1 / len(LETTERS)).sum() + 1 - counts.sum() / total))


@lru_cache(maxsize=64)
def total_variation_floor(n: int) -> Floor:
    """The total_variation of a perfect sampler with n texts, by 20,000 simulations with a fixed seed."""
    if n == 0:
        return NO_FLOOR
    counts = np.random.default_rng(SEED).multinomial(n, [1 / len(LETTERS)] * len(LETTERS), size=20_000)
    found = 0.5 * np.abs(counts / n - 1 / len(LETTERS)).sum(axis=1)
    return Floor(float(found.mean()), float(np.quantile(found, 0.95)))


def detectable_shift(n: int) -> float:
    """The shift of one letter that the chi-square test of n parsed texts at 5% finds in four of five cases.

    Its total variation, for mass moved from that letter to the other three or back, by the noncentral chi-square law:
    the statistic's noncentrality is 16/3 n tv². From two letters to the other two it is 4 n tv²: such a shift must be
    1.15 times as large. NaN for n = 0.
    """
    freedom = len(LETTERS) - 1
    critical = stats.chi2.ppf(0.95, freedom)
    needed: Any = brentq(lambda noncentrality: stats.ncx2.sf(critical, freedom, noncentrality) - 0.8, 1, 100)
    return float(np.sqrt(3 * needed / (16 * n))) if n else float("nan")


def _measure(questions: list[Question]) -> dict[str, float]:
    """Everything that score() and summary() report; NaN where no text parses."""
    n = len(questions)
    letters = [question.correct_answer for question in questions if question.is_parseable]
    counts = np.array([letters.count(letter) for letter in LETTERS])
    frequencies = counts / len(letters) if letters else np.full(len(LETTERS), np.nan)
    statistic, p_value = stats.chisquare(counts) if letters else (np.nan, np.nan)
    floor, floor_of_parsed = total_variation_floor(n), total_variation_floor(len(letters))
    answered = sum(question.has_valid_correct_answer for question in questions)
    return {
        "num_samples": n,
        "num_parseable": len(letters),
        "parse_rate": len(letters) / n,
        "num_valid_correct_answer": answered,
        "valid_correct_answer_rate": answered / n,
        **{f"count_{letter.lower()}": int(count) for letter, count in zip(LETTERS, counts, strict=True)},
        **{f"freq_{letter.lower()}": float(share) for letter, share in zip(LETTERS, frequencies, strict=True)},
        "chi_square_statistic": float(statistic),
        "chi_square_pvalue": float(p_value),
        "tv_distance_from_uniform": total_variation(counts),
        "max_abs_deviation_from_uniform": float(np.abs(frequencies - 1 / len(LETTERS)).max()),
        "unique_options_rate": sum(question.unique_options for question in questions) / n,
        "tv_uniform": total_variation(counts, n),
        "tv_uniform_floor": floor.mean,
        "tv_uniform_floor_high": floor.high,
        "tv_uniform_parsed_only_floor": floor_of_parsed.mean,
        "tv_uniform_parsed_only_floor_high": floor_of_parsed.high,
        "tv_detectable": detectable_shift(len(letters)),
    }


def score(draws: pd.DataFrame, law: pd.DataFrame | None, registry: Registry) -> pd.DataFrame:
    """Tidy scores of all draws together (item "all"), shares with Wilson intervals; `law` is not used.

    chi_square_… is the test of the parsed letters against uniform; it needs about 20 of them to be valid.
    """
    metrics = _measure([parse(text) for text in draws["text"]])
    parsed = metrics["num_parseable"]
    shares = {f"freq_{letter.lower()}": (metrics[f"count_{letter.lower()}"], parsed) for letter in LETTERS}
    for name, (count, of) in {"parse_rate": (parsed, metrics["num_samples"]), **shares}.items():
        _, metrics[f"{name}_low"], metrics[f"{name}_high"] = wilson(int(count), int(of))
    renamed = {"num_samples": "n", "tv_distance_from_uniform": "tv_uniform_parsed_only"}
    return tidy([(SPLIT, ITEM, renamed.get(metric, metric), value) for metric, value in metrics.items()])


def summary(draws: pd.DataFrame, registry: Registry) -> dict[str, Any]:
    """The released code's summary, its zeros and p = 1 where nothing parses included, and tv_uniform with its floor."""
    metrics = _measure([parse(text) for text in draws["text"]])
    if not metrics["num_parseable"]:
        released = [f"freq_{letter.lower()}" for letter in LETTERS]
        released += ["chi_square_statistic", "tv_distance_from_uniform", "max_abs_deviation_from_uniform"]
        metrics |= dict.fromkeys(released, 0.0) | {"chi_square_pvalue": 1.0}
    return jsonable(metrics)
