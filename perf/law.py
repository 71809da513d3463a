"""What bounds on a model's law cost, against the draws that would say as much, and whether draws fall within them.

    python perf/law.py
    python perf/law.py --every 3 --checked 12       ten minutes: twice the prompts, and draws against the bounds

SmolLM2 with the demo's adapter, or without (`--no-adapted`). The processor time of the bounds of every sixth of the 42
prompts, wide and at the default gap, against 1,000 draws of each with `generate` at batch 64, of which a batch is
measured. With `--checked`, 20,000 draws of so many prompts by the tree sampler: how far they leave the bounds, beside
how far they may (99%, by the inequality of Dvoretzky, Kiefer and Wolfowitz).
"""

import time
from typing import Any

import numpy as np
import torch
import typer
from record import ROUNDS, THREADS, compared, keep
from sampling import ADAPTER, MODEL, generate, job_of, measured

from cft import engines
from cft.benchmark_settings import StructuredBenchmark
from cft.bounded import bounded
from cft.distributions import registry
from cft.models import load_for_evaluation
from cft.numbers import read_number
from cft.prefix import Prefixes
from cft.target import for_prompt

GAPS = {0.05: None, 0.015: None, 0.005: 4}  # the last is the default: at most a quarter


def main(adapted: bool = True, every: int = 6, rounds: int = ROUNDS, checked: int = 0, draws: int = 20_000) -> None:
    """Keep the section `law`, in seconds of the processor per prompt."""
    adapter = ADAPTER if adapted else None
    job = job_of(MODEL, adapter, "transformers", draws)
    torch.set_num_threads(THREADS)
    keys = list(job.prompts)[::every]
    model, _ = load_for_evaluation(MODEL, adapter, job.prompts[keys[0]])
    laws: dict[str, dict[str, Any]] = {}
    ours: dict[float, list[float]] = {gap: [] for gap in GAPS}
    other = []
    with torch.inference_mode():
        for _ in range(rounds):
            for gap, spent in ours.items():
                started = time.process_time()
                laws = {key: law_of(model, job, key, gap) for key in keys}
                spent.append((time.process_time() - started) / len(keys))
            other.append(1000 / measured(lambda: generate(model, job, keys, 1))["draws_per_cpu_s"])
    width = [law["law_pit_w1_high"] - law["law_pit_w1_low"] for law in laws.values()]
    tokens = np.mean([law["law_forward_tokens"] for law in laws.values()])
    notes = [
        f"At the last gap {tokens:.0f} tokens of a prompt are computed, its own not counted. Width of the bounds on "
        f"PIT-scale W1: {np.median(width):.3f} (median), {max(width):.3f} (most)."
    ]
    if checked:
        engine: Any = engines.start(job)
        some = keys[:: max(1, len(keys) // checked)][:checked]
        within = sum(
            found["outside"] <= found["allowed"] for key in some for found in [outside(engine, job, key, laws[key])]
        )
        notes.append(f"{draws:,} draws of {len(some)} prompts: within the bounds and their sampling error on {within}.")
    title = "Bounds on a prompt's law, in seconds of the processor, against 1,000 draws with `generate` at batch 64"
    rows = [
        compared(f"a prompt (mean of {len(keys)}), gap {gap:g}", "s", ours[gap], other, aim)
        for gap, aim in GAPS.items()
    ]
    keep("law", title, rows, notes)


def law_of(model: Any, job: Any, key: str, gap: float) -> dict[str, Any]:
    """The bounds on one prompt's law."""
    settings = StructuredBenchmark(draws=1, max_new_tokens=32, gap=gap)
    start = Prefixes.of(model, [job.prompts[key]])
    target = for_prompt(registry(), key, settings.decimals, settings.max_bins)
    return bounded(start, job.tokenizer, job.stops, key, target, registry(), settings, 64, 1.0)


def outside(engine: Any, job: Any, key: str, law: dict[str, Any]) -> dict[str, float]:
    """How far the draws of a prompt leave the bounds on the valid rate and on the distribution function."""
    family, parameters = registry().parse(key)
    support = family.frozen(parameters).support()
    texts = [job.text(draw.tokens) for draw in engine.draw([one for one in job.requests if one.prompt_id == key])]
    read = [read_number(text, support, family.discrete) for text in texts]
    values = np.sort([value for value, code in read if code is None])
    rate = len(values) / len(read)
    found = {"valid_rate": rate, "outside": max(0.0, law["law_valid_low"] - rate, rate - law["law_valid_high"])}
    found["allowed"] = float(np.sqrt(np.log(2 / 0.01) / (2 * max(1, len(values)))))
    if len(values):
        seen = np.searchsorted(values, law["points"], side="right") / len(values)
        beyond = max(float((law["cdf_low"] - seen).max()), float((seen - law["cdf_high"]).max()))
        found["outside"] = max(found["outside"], beyond)
    return found


if __name__ == "__main__":
    typer.run(main)
