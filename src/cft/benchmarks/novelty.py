"""NoveltyBench v1.0: how different ten draws are, and how much a patient reader gains (arXiv 2605.11845).

Data    100 curated and 1,000 WildChat prompts from upstream, or a few of our own
Metric  per prompt: distinct, the number of classes of equivalent answers; utility, the mean of the draws' scores with
        weights 0.8^position, where only the first of a class scores; reward, the plain mean of all draws' scores
Source  arXiv 2504.05228; src/partition.py and src/score.py of novelty-bench/novelty-bench at 1339e15;
        golden/novelty.jsonl

Odd cases. Scores come from `cft judge`'s file, not from raw draws. A raw reward equal to a threshold gets the lower
score. Upstream has written `distinct` as the largest class index, one too low, in some of its published files and as
the number of classes in others; ours is the number. Later versions of the benchmark partition with another judge: so
each name says v1.0.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cft import CftError
from cft.assets import Assets
from cft.benchmark_settings import NoveltyBenchmark
from cft.benchmarks import jsonable, tidy
from cft.distributions import Registry

VERSION = "NoveltyBench v1.0"
COLUMNS = ["prompt_id", "split", "draw", "label", "reward"]
METRICS = ("distinct_v1.0", "utility_v1.0", "reward_v1.0")
SPLITS = {"curated": "noveltybench_curated", "wildchat": "noveltybench_wildchat"}
PATIENCE = 0.8
THRESHOLDS = np.array([-7.71875, -6.28125, -6.0, -5.71875, -5.5, -5.0, -4.375, -3.4375, -2.046875])
OWN = (
    "Suggest a name for a small bakery by the sea.",
    "Recommend one thing to do on a rainy Sunday.",
    "Write a riddle whose answer is a shadow.",
    "Name a country that begins with a vowel.",
    "Think of a number between 1 and 100 and say why you like it.",
    "Begin a story about a lighthouse keeper in two sentences.",
)


def prompts(settings: NoveltyBenchmark, registry: Registry, assets: Assets) -> pd.DataFrame:
    """Columns prompt_id, split, prompt: the first `settings.limit` of each split. Upstream's prompts need `assets`."""
    if settings.prompts == "own":
        found = {"own": [(f"own-{number}", prompt) for number, prompt in enumerate(OWN)]}
    else:
        found = {split: _read(assets.path(asset)) for split, asset in SPLITS.items()}
    rows = [(name, split, prompt) for split, pairs in found.items() for name, prompt in pairs[: settings.limit]]
    return pd.DataFrame(rows, columns=["prompt_id", "split", "prompt"])


def _read(path: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return [(row["id"], row["prompt"]) for row in rows]


def in_order(draws: pd.DataFrame) -> pd.DataFrame:
    """The draws of each split and prompt in order of `draw`; raises CftError when a prompt has the same draw twice."""
    twice = draws.duplicated(["prompt_id", "draw"])
    if twice.any():
        row = draws[twice].iloc[0]
        raise CftError(f"prompt {row['prompt_id']} has draw {row['draw']} twice; give the draws of one model at a time")
    return draws.sort_values(["split", "prompt_id", "draw"], ignore_index=True)


def ratings(rewards: np.ndarray) -> np.ndarray:
    """The score from 1 to 10 of each raw reward; raises CftError where one is not a number."""
    if not np.isfinite(rewards).all():
        raise CftError("a reward is not a number; run `cft judge` again")
    return np.searchsorted(THRESHOLDS, rewards, side="left") + 1


def firsts(labels: np.ndarray) -> np.ndarray:
    """[draws] whether each draw is the first of its class."""
    return ~pd.Series(labels).duplicated().to_numpy()


def utility(labels: np.ndarray, scores: np.ndarray) -> float:
    """Between 0 and 10: the mean of a prompt's scores with weights 0.8^position, all but a class's first counted as 0.

    labels, scores    [draws] in the order of the draws
    """
    return float(np.average(scores * firsts(labels), weights=PATIENCE ** np.arange(len(scores))))


def _per_prompt(draws: pd.DataFrame) -> pd.DataFrame:
    """One row per prompt: split, prompt_id and METRICS."""
    rows = []
    for _, group in in_order(draws).groupby(["split", "prompt_id"], sort=False):
        labels, scores = group["label"].to_numpy(), ratings(group["reward"].to_numpy(dtype=float))
        key = group[["split", "prompt_id"]].iloc[0]
        rows.append((*key, firsts(labels).sum(), utility(labels, scores), scores.mean()))
    return pd.DataFrame(rows, columns=["split", "prompt_id", *METRICS])


def score(draws: pd.DataFrame, law: pd.DataFrame | None, registry: Registry) -> pd.DataFrame:
    """Tidy scores of judged draws: distinct, utility and reward of every prompt; there is no law."""
    found = _per_prompt(draws)
    rows = [
        (split, prompt, metric, value)
        for split, prompt, *values in found.itertuples(index=False)
        for metric, value in zip(METRICS, values, strict=True)
    ]
    return tidy(rows)


def summary(draws: pd.DataFrame, registry: Registry) -> dict[str, Any]:
    """version, and for all prompts and those of each split: prompts, and the metrics' means over prompts."""
    found = _per_prompt(draws)

    def means(prompts: pd.DataFrame) -> dict[str, Any]:
        return {"prompts": len(prompts), **prompts[list(METRICS)].mean().to_dict()}

    splits = {split: means(prompts) for split, prompts in found.groupby("split", sort=False)}
    return jsonable({"version": VERSION, "all": means(found), "splits": splits})


def rescore(path: Path) -> dict[str, float]:
    """Means over the prompts of a file scores.jsonl as upstream publishes them: ours from its partitions and scores.

    Each line has partition (class of each generation) and generation_scores. Keys: prompts, distinct_v1.0,
    utility_v1.0. Raises CftError naming the line that is not of that form.
    """
    if not path.is_file():
        raise CftError(f"{path}: no such file; name a scores.jsonl of NoveltyBench")
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            labels, scores = np.array(row["partition"]), np.array(row["generation_scores"])
            if not np.isfinite(scores).all():
                raise ValueError("a score is not a number")
            found.append((firsts(labels).sum(), utility(labels, scores)))
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise CftError(f"{path}: line {number} has no partition with its generation_scores ({error!r})")
    if not found:
        raise CftError(f"{path}: holds no prompts; name a scores.jsonl of NoveltyBench")
    distinct, gained = np.mean(found, axis=0).tolist()
    return {"prompts": len(found), "distinct_v1.0": distinct, "utility_v1.0": gained}
