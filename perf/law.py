"""What bounds on a model's law cost, against the draws that would say as much, and whether draws fall within them.

    python perf/law.py

SmolLM2 with the demo's adapter, or without (`--no-adapted`). First the processor time of the bounds of all 42 prompts,
at the default gap, against 1,000 draws of each with `generate` at batch 64, of which a few batches are measured. Then
many draws of some prompts by the tree sampler: how far they leave the bounds, beside how far they may (99%, by the
inequality of Dvoretzky, Kiefer and Wolfowitz). Printed and kept in results/perf.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from sampling import ADAPTER, MODEL, THREADS, generate, job_of, measured

from cft import engines
from cft.benchmark_settings import StructuredBenchmark
from cft.bounded import bounded
from cft.distributions import registry
from cft.models import load_for_evaluation
from cft.numbers import read_number
from cft.prefix import Prefixes
from cft.target import for_prompt

Checked = Annotated[int, typer.Option(min=1, help="prompts that are drawn from")]


def main(adapted: bool = True, prompts: int = 42, draws: int = 20_000, checked: Checked = 12, batches: int = 4) -> None:
    """Write results/perf/law.json."""
    job = job_of(MODEL, ADAPTER if adapted else None, "transformers", draws)
    torch.set_num_threads(THREADS)
    keys = list(job.prompts)[:: max(1, len(job.prompts) // prompts)]
    model, _ = load_for_evaluation(MODEL, ADAPTER if adapted else None, job.prompts[keys[0]])
    settings = StructuredBenchmark(draws=1, max_new_tokens=32)
    families, laws, each = registry(), {}, []
    with torch.inference_mode():
        for key in keys:
            started = time.process_time()
            start = Prefixes.of(model, [job.prompts[key]])
            target = for_prompt(families, key, settings.decimals, settings.max_bins)
            laws[key] = bounded(start, job.tokenizer, job.stops[0], key, target, families, settings, 64, 1.0)
            each.append(time.process_time() - started)
        other = measured(lambda: generate(model, job, keys, batches))
    width = np.array([law["law_pit_w1_high"] - law["law_pit_w1_low"] for law in laws.values()])
    found: dict[str, Any] = {
        "prompts": len(keys),
        "law_cpu_s": sum(each),
        "generate_1000_cpu_s": len(keys) * 1000 / other["draws_per_cpu_s"],
        "forward_tokens": float(np.mean([law["law_forward_tokens"] for law in laws.values()])),
        "stray": [float(np.quantile([law["law_stray"] for law in laws.values()], level)) for level in (0.5, 0.9)],
        "width_of_pit_w1": [float(np.quantile(width, level)) for level in (0.5, 0.9, 1)],
    }
    found["law_costs"] = found["law_cpu_s"] / found["generate_1000_cpu_s"]
    print(json.dumps(found, indent=2), flush=True)
    some = keys[:: max(1, len(keys) // checked)][:checked]
    engine: Any = engines.start(job)
    found["draws"] = {key: outside(engine, job, key, laws[key]) for key in some}
    found["prompts within"] = sum(part["outside"] <= part["allowed"] for part in found["draws"].values())
    text = json.dumps(found, indent=2)
    Path("results/perf").mkdir(parents=True, exist_ok=True)
    Path("results/perf/law.json").write_text(text + "\n")
    print(text)


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
