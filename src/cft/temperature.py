"""The temperature at which a model fits best: a baseline that trains nothing.

The model's logits are divided by one temperature everywhere, and the temperature is chosen on training prompts by the
expected negative log-likelihood of the target's values (the terminator included), computed from the law over each
target's whole trie, without draws. It is called oracle because it is told the targets.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cft import CftError, chat
from cft.distributions import Prompt, Registry
from cft.law import expected_nll, rows_within
from cft.method_settings import TemperatureMethod
from cft.models import load_for_evaluation, load_tokenizer, settings_of
from cft.prefix import Prefixes
from cft.progress import Progress
from cft.provenance import replacing, write_run
from cft.target import make_target
from cft.trie import build_trie

POINTS = 33  # temperatures in each of the two grids


@dataclass(frozen=True)
class Fit:
    """The best temperature of two grids.

    grid        [points] temperatures that were tried, increasing
    objectives  [points, prompts] nats
    objective   [points] what was minimised
    resolution  relative distance of neighbours of the finer grid: the minimum is at most so far from `temperature`
    """

    temperature: float
    at_bound: bool
    resolution: float
    grid: np.ndarray
    objectives: np.ndarray
    objective: np.ndarray


def minimise(measure: Callable[[np.ndarray], np.ndarray], weights: np.ndarray, lowest: float, highest: float) -> Fit:
    """The temperature in [lowest, highest] at which the weighted sum of `measure` is least.

    measure    temperatures [points] → objectives [points, prompts], each convex in 1/temperature, so that the minimum
               lies between the neighbours of the best point of a grid
    weights    [prompts]
    """
    coarse = np.geomspace(lowest, highest, POINTS)
    first = measure(coarse)
    best = int(np.argmin(first @ weights))
    fine = np.geomspace(coarse[max(best - 1, 0)], coarse[min(best + 1, POINTS - 1)], POINTS)
    second = measure(fine)
    temperature = float(fine[np.argmin(second @ weights)])
    grid, index = np.unique(np.concatenate([coarse, fine]), return_index=True)
    objectives = np.concatenate([first, second])[index]
    return Fit(
        temperature=temperature,
        at_bound=temperature in (coarse[0], coarse[-1]),
        resolution=float(fine[1] / fine[0] - 1),
        grid=grid,
        objectives=objectives,
        objective=objectives @ weights,
    )


def training_prompts(registry: Registry, per_family: int) -> list[Prompt]:
    """Training prompts of every family, spread evenly over its list: the middles of `per_family` equal stretches."""
    families: dict[str, list[Prompt]] = {}
    for prompt in registry.select("train"):
        families.setdefault(prompt.family, []).append(prompt)
    chosen = []
    for prompts in families.values():
        count = min(per_family, len(prompts))
        chosen += [prompts[(2 * place + 1) * len(prompts) // (2 * count)] for place in range(count)]
    return chosen


def fit(settings: TemperatureMethod, registry: Registry, model: Path, cache_tokens: int, out: Path) -> None:
    """Write the best temperature of a prepared model to a JSON file, with a run.json.

    Keys: temperature; objective (nats: mean over a family's prompts, then over families); at_bound (the best is an end
    of the allowed range, and the true one may lie beyond it); resolution (relative); grid (a list of temperature and
    objective); families (prompts and objective of each, at the best temperature).
    """
    prompts = training_prompts(registry, settings.prompts_per_family)
    tokenizer, chat_settings = load_tokenizer(model), settings_of(model).chat
    tokens = [chat.prompt_tokens(tokenizer, prompt.text, chat_settings) for prompt in prompts]
    end = chat.terminator(tokenizer, chat_settings)
    loaded, facts = load_for_evaluation(model, None, tokens[0])

    def measure(temperatures: np.ndarray) -> np.ndarray:
        rows = []
        for prompt, start in zip(prompts, tokens, strict=True):
            target = make_target(registry, prompt.family, prompt.parameters, settings.decimals, settings.max_bins)
            trie = build_trie(chat.tokenize_values(tokenizer, target.values), target.probabilities, end)
            prefix = Prefixes.of(loaded, [start])
            objectives = expected_nll(prefix, trie, rows_within(cache_tokens, start, trie), temperatures.tolist())
            if not np.isfinite(objectives).all():
                raise CftError(f"{prompt.prompt_id}: the model's law is not finite; set the model's dtype to float32")
            rows.append(objectives)
            progress.update()
        return np.stack(rows, axis=1)

    members = [prompt.family for prompt in prompts]
    weights = np.array([1 / (members.count(family) * len(set(members))) for family in members])
    with torch.inference_mode(), Progress("temperature", 2 * len(prompts), "prompts") as progress:
        found = minimise(measure, weights, settings.lowest, settings.highest)
    _write(found, prompts, out)
    write_run(out, **facts, settings=settings.model_dump())


def _write(found: Fit, prompts: list[Prompt], out: Path) -> None:
    best = int(np.searchsorted(found.grid, found.temperature))
    families: dict[str, Any] = {}
    for prompt, objective in zip(prompts, found.objectives[best], strict=True):
        families.setdefault(prompt.family, {})[prompt.prompt_id] = float(objective)
    record = {
        "temperature": found.temperature,
        "objective": float(found.objective[best]),
        "at_bound": found.at_bound,
        "resolution": found.resolution,
        "grid": [
            {"temperature": temperature, "objective": objective}
            for temperature, objective in zip(found.grid.tolist(), found.objective.tolist(), strict=True)
        ],
        "families": {
            family: {"prompts": list(each), "objective": sum(each.values()) / len(each)}
            for family, each in families.items()
        },
    }
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")


def read(path: Path) -> float:
    """The temperature in a file that `fit` wrote; raises CftError when it cannot be read."""
    try:
        return float(json.loads(Path(path).read_text())["temperature"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CftError(f"{path}: holds no temperature ({error or type(error).__name__}); delete it and fit again")
