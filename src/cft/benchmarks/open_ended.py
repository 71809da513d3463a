"""Open-ended random generation: "Name a random city." (arXiv 2605.11845).

Data    102 prompts: a list of nouns, asked for with four verbs in turn
Metric  among a prompt's draws the share of different answers, of empty ones, and of the most frequent answer and the
        four most frequent (top_share, top4_share), of the weekdays that of Wednesday (wednesday_share; "Wednesday." and
        "WEDNESDAY" count there); tokens per draw; from the law, how many next tokens make up a given
        share of the probability (support_size)
Source  arXiv 2605.11845; golden/open_ended.jsonl, golden/support_size.jsonl

Odd cases. An answer is the first line that is not empty, without a thinking block and one pair of straight quotes;
"Paris", "paris" and "Paris." are three answers. Empty answers count in n, not among the different or frequent ones. A
prompt that is not of this list is scored like the others, so that draws for other nouns can be compared.
"""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from cft import CftError
from cft.assets import Assets
from cft.benchmark_settings import OpenEndedBenchmark
from cft.benchmarks import jsonable, texts_by, tidy
from cft.distributions import Registry
from cft.streams import stream
from cft.text import has_thinking, strip_thinking

SPLIT = "open_ended"
VERBS = ("Think of", "Choose", "Name", "Pick")
_NOUNS = """
    word, first name, city, country, animal, food, job, hobby, sport, color, flower, tree, disease, medicine, body part,
    musical instrument, book title, movie title, historical figure, fictional character, vegetable, fruit, bird, fish,
    mammal, reptile, insect, sea creature, language, nationality, mountain, river, lake, island, planet, constellation,
    chemical element, gemstone, metal, household object, kitchen tool, piece of clothing, shoe type, hat style, vehicle,
    car brand, musical genre, song title, band name, composer, actor, actress, director, painter, sculptor, architect,
    philosopher, scientist, mathematician, inventor, academic subject, school supply, weather condition, season, month,
    weekday, holiday, board game, video game, toy, cartoon character, superhero, mythological figure,
    fairy-tale character, dinosaur, dog breed, cat breed, farm animal, wild animal, snack, dessert, drink, spice, herb,
    restaurant dish, disease symptom, medical specialty, hospital department, medicine brand, vitamin, bone, muscle,
    organ, facial feature, surname, baby name for a girl, baby name for a boy, capital city, UNESCO world heritage site,
    famous landmark, religion, programming language
"""
NOUNS = [noun.strip() for noun in _NOUNS.split(",")]

THRESHOLDS = (0.01, *(round(0.05 * step, 2) for step in range(1, 20)), 0.99)
NAMED = {"weekday": "Wednesday"}  # answers that a claim of the paper names


def prompts(settings: OpenEndedBenchmark, registry: Registry, assets: Assets) -> pd.DataFrame:
    """Columns prompt_id (the noun), split, prompt: the first `settings.limit` prompts, or all 102."""
    nouns = NOUNS[: settings.limit]
    texts = [f"{VERBS[i % len(VERBS)]} a random {noun}. Output ONLY the answer." for i, noun in enumerate(nouns)]
    return pd.DataFrame({"prompt_id": nouns, "split": SPLIT, "prompt": texts})


def normalise(text: str) -> str:
    """The answer that counts: first line with content, white space collapsed, one pair of straight quotes removed."""
    lines = strip_thinking(text).splitlines()
    answer = next((collapsed for line in lines if (collapsed := " ".join(line.split()))), "")
    if len(answer) > 1 and answer[0] in "'\"" and answer[0] == answer[-1]:
        return answer[1:-1].strip()
    return answer


def support_size(probabilities: np.ndarray, thresholds: tuple[float, ...] = THRESHOLDS) -> np.ndarray:
    """[..., len(thresholds)] the smallest number of tokens whose probability reaches each threshold.

    probabilities    [..., vocabulary] next-token laws; all tokens where rounding keeps their sum below the threshold
    """
    cumulative = np.cumsum(-np.sort(-np.asarray(probabilities, dtype=np.float64), axis=-1), axis=-1)
    counts = [(cumulative < threshold).sum(axis=-1) + 1 for threshold in thresholds]
    return np.minimum(np.stack(counts, axis=-1), cumulative.shape[-1])


@lru_cache
def expected_share(outcomes: int, n: int, most: int) -> float:
    """The mean share of n draws that the `most` most frequent of equally likely outcomes have, which is above
    most/outcomes: they are chosen by the same draws. A simulation of 20,000 samplers with a fixed seed."""
    counts = stream(0, "equally likely", outcomes, n).multinomial(n, np.full(outcomes, 1 / outcomes), size=20_000)
    return float(np.sort(counts, axis=1)[:, -most:].sum(axis=1).mean() / n)


def _count(texts: Iterable[str]) -> dict[str, Any]:
    answers = [normalise(text) for text in texts]
    counts = Counter(answer for answer in answers if answer)
    return {
        "n": len(answers),
        "num_unique": len(counts),
        "unique_fraction": len(counts) / len(answers),
        "empty": len(answers) - counts.total(),
        "counts": dict(counts.most_common()),
    }


def _count_all(draws: pd.DataFrame) -> dict[str, dict[str, Any]]:
    if "prompt_id" not in draws:
        raise CftError("open-ended draws need the column prompt_id, such as city: which prompt the text answers")
    groups = texts_by(draws["prompt_id"], draws["text"])
    return {prompt_id: _count(texts) for prompt_id, texts in groups.items()}


def score(draws: pd.DataFrame, law: pd.DataFrame | None, registry: Registry) -> pd.DataFrame:
    """Tidy scores: n, rates and shares of every prompt in `draws`, the support_size_… columns of `law`.

    Also tokens_per_draw, the mean of the column tokens, where the draws have it.
    """
    rows = []
    for prompt_id, found in _count_all(draws).items():
        frequent = list(found["counts"].values())
        rates = {
            "n": found["n"],
            "unique_rate": found["unique_fraction"],
            "empty_rate": found["empty"] / found["n"],
            "top_share": sum(frequent[:1]) / found["n"],
            "top4_share": sum(frequent[:4]) / found["n"],
        }
        if answer := NAMED.get(prompt_id):
            same = sum(count for text, count in found["counts"].items() if text.strip(".!").lower() == answer.lower())
            rates[f"{answer.lower()}_share"] = same / found["n"]
        rows += [(SPLIT, prompt_id, metric, value) for metric, value in rates.items()]
    if "tokens" in draws:
        means: Any = draws["tokens"].groupby(draws["prompt_id"].astype(str), sort=False).mean()
        rows += [(SPLIT, prompt_id, "tokens_per_draw", value) for prompt_id, value in means.items()]
    if law is not None:
        sizes = [column for column in law.columns if column.startswith("support_size_")]
        for prompt_id, *values in law[["prompt_id", *sizes]].itertuples(index=False):
            rows += [(SPLIT, prompt_id, metric, value) for metric, value in zip(sizes, values, strict=True)]
    return tidy(rows)


def summary(draws: pd.DataFrame, registry: Registry) -> dict[str, Any]:
    """n, num_unique, unique_fraction, empty, counts (answer → draws): over all draws together and per prompt.

    Also `thinking`, how many texts hold a thinking tag.
    """
    thinking = sum(has_thinking(text) for text in draws["text"])
    return jsonable({**_count(draws["text"]), "thinking": thinking, "prompts": _count_all(draws)})
