"""What the report shows of each structured prompt: the distribution functions of the target, of laws and of draws."""

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cft import CftError
from cft.benchmarks import jsonable, texts_by
from cft.benchmarks.structured import ELSEWHERE, identify
from cft.distributions import Registry
from cft.numbers import valid_values
from cft.prompting import answered
from cft.provenance import read_table
from cft.stats import curve_points
from cft.summary import in_order, where

SAMPLES = 20  # draws of a prompt that are shown as they are
SHOWN = 200  # characters of each
PARTS = 1000  # the page has probabilities as integers, in parts of this
RUN = ["model", "method", "seed"]
NUMBERS = (
    "n", "valid_rate", "valid_rate_low", "valid_rate_high", "law_pit_w1_low", "law_pit_w1_high", "pit_w1",
    "pit_w1_floor", "p_fit",
)  # fmt: skip


def measure(
    draws: Iterable[Path], laws: Iterable[Path], registry: Registry, instructions: Sequence[Path] = ()
) -> pd.DataFrame:
    """A row per prompt, model, method and seed, from files of structured draws and of laws.

    instructions    of methods whose texts hold more than their answers, METHOD.json
    Columns, each None where there is no such file: drawn [points], the share of all draws that are valid and at most
    so large, at the percentiles of the target; low, high [points] between which the law's probability of such an answer
    lies; samples, the first answers. Raises CftError for a law of another target.
    """
    read = (answered(read_table(path, [*RUN, "text"]), instructions) for path in draws)
    drawn = [row for rows in read for row in _of_draws(rows, registry)]
    found = pd.DataFrame(drawn, columns=["prompt_id", *RUN, "drawn", "samples"])
    known = [row for path in laws for row in _of_laws(path, registry)]
    law = pd.DataFrame(known, columns=["prompt_id", *RUN, "low", "high"])
    for model, method in in_order(zip(law["model"], law["method"], strict=True)):
        rows, drawn_from = (where(frame, model=model, method=method) for frame in (law, found))
        seeds = in_order(drawn_from["seed"])
        if len(set(rows["seed"])) == 1 and seeds:  # a method without adapter has one law for all seeds
            shared = rows.drop(columns="seed").merge(pd.DataFrame({"seed": seeds}), "cross")
            law = pd.concat([law.drop(index=list(rows.index)), shared], ignore_index=True)
    merged = found.merge(law, "outer", ["prompt_id", *RUN])
    return merged.astype(object).where(merged.notna(), None)


def _of_draws(rows: pd.DataFrame, registry: Registry) -> Iterable[tuple]:
    groups: Any = rows.groupby(RUN, sort=False)
    for key, group in groups:
        for prompt_id, texts in texts_by(identify(group, registry), group["text"]).items():
            samples = [text[:SHOWN] for text in texts[:SAMPLES]]
            yield (prompt_id, *key, drawn_cdf(texts, prompt_id, registry), samples)


def drawn_cdf(texts: list[str], prompt_id: str, registry: Registry) -> np.ndarray:
    """[points] the share of all texts that are valid answers and at most the point."""
    family, parameters = registry.parse(prompt_id)
    frozen = family.frozen(parameters)
    values = valid_values(texts, frozen, family.discrete)
    return np.searchsorted(values, curve_points(frozen), "right") / len(texts)


def _of_laws(path: Path, registry: Registry) -> Iterable[tuple]:
    columns = ["prompt_id", *RUN, "points", "cdf_low", "cdf_high", "law_valid_low", "law_valid_high"]
    for prompt_id, *run, at, low, high, least, most in read_table(path, columns)[columns].itertuples(index=False):
        family, parameters = registry.parse(prompt_id)
        points = curve_points(family.frozen(parameters))
        if not (len(at) == len(points) and np.allclose(at, points, rtol=1e-6)):
            raise CftError(f"{path}: the law of {prompt_id} is of another target; delete the file and run again")
        yield (prompt_id, *run, low * least, high * most)  # the file's are given that the answer is valid


@dataclass(frozen=True)
class Curves:
    """A prompt, and for each of its runs a row of `measure`."""

    prompt_id: str
    family: str
    title: str
    split: str
    text: str
    runs: list[dict[str, Any]]

    def packed(self, registry: Registry, numbers: Mapping[tuple, Mapping[str, float]]) -> str:
        """All of it as JSON, compressed by zlib, in base64; `numbers` are those of `numbers_of`."""
        family, parameters = registry.parse(self.prompt_id)
        frozen = family.frozen(parameters)
        points = curve_points(frozen)
        runs = [
            {key: _parts(value) for key, value in run.items() if value is not None}
            | {"numbers": jsonable(dict(numbers.get((*(run[key] for key in RUN), self.prompt_id), {})))}
            for run in self.runs
        ]
        content = {
            "points": [float(f"{point:.6g}") for point in points],
            "target": _parts(frozen.cdf(points)),
            "discrete": family.discrete,
            "runs": runs,
        }
        return base64.b64encode(zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 9)).decode()


def _parts(value: Any) -> Any:
    """A distribution function in parts; the samples and the names as they are."""
    if not isinstance(value, np.ndarray):
        return value
    return value.tolist() if value.dtype == object else np.round(value * PARTS).astype(int).tolist()


def numbers_of(scores: pd.DataFrame) -> dict[tuple, dict[str, float]]:
    """(model, method, seed, prompt_id) -> NUMBERS of it, as far as they were measured."""
    rows = where(scores, benchmark="structured")
    rows = rows[rows["metric"].isin(NUMBERS)]
    wide: Any = rows.pivot_table("value", [*RUN, "item"], "metric")
    return wide.to_dict("index")


def by_prompt(rows: pd.DataFrame, registry: Registry) -> list[Curves]:
    """The rows of `measure`, of any number of models, by prompt; prompts in the order of the registry."""
    known = {prompt.prompt_id: (place, prompt.split) for place, prompt in enumerate(registry.prompts)}
    found = []
    for prompt_id, runs in rows.groupby("prompt_id", sort=False):
        family, parameters = registry.parse(str(prompt_id))
        place, split = known.get(str(prompt_id), (len(known), ELSEWHERE))
        own = runs.drop(columns="prompt_id").to_dict("records")
        text = family.prompt(parameters)
        found.append((place, Curves(str(prompt_id), family.name, family.display_name, split, text, own)))
    return [curves for _, curves in sorted(found, key=lambda pair: pair[0])]
