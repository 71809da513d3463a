"""What scoring of draws costs: ten runs of 42 prompts with 1,000 draws each, with floors and tests of fit, on one core.

    python perf/scoring.py

Made-up draws of samplers that are nearly right. Each measurement is a process of its own, as what it computes for a
prompt is kept for the next run. Also the floors of W1 alone, against the same simulation without tables of quantiles:
SciPy's own for every draw of every replicate.
"""

import os
import resource
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import typer
from record import ROUNDS, compared, in_turns, keep

from cft import stats
from cft.benchmarks.structured import score
from cft.distributions import Registry, registry

DRAWS, RUNS = 1000, (1, 3, 10)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def draws_of(families: Registry, seed: int) -> pd.DataFrame:
    """The texts of one run: a share of them no number, the others off by a tenth of the target's spread."""
    random, parts = np.random.default_rng(seed), []
    for prompt in families.select(selected=True):
        family = families[prompt.family]
        values = stats.quantiles_of(family.frozen(prompt.parameters), random.random(DRAWS))
        low, high = np.quantile(values, [0.25, 0.75])
        values = values + 0.1 * (high - low)
        texts = [str(int(value)) if family.discrete else f"{value:.5f}" for value in values]
        texts = ["none" if random.random() < 0.03 else text for text in texts]
        parts.append(pd.DataFrame({"prompt_id": prompt.prompt_id, "text": texts}))
    return pd.concat(parts, ignore_index=True)


@app.command()
def once(runs: int) -> None:
    """Print the seconds and the peak MB of scoring so many runs."""
    families = registry()
    frames = [draws_of(families, seed) for seed in range(runs)]
    started = time.process_time()
    for frame in frames:
        score(frame, None, families)
    print(time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def in_a_process(runs: int) -> tuple[float, float]:
    """Seconds and MB."""
    line = [sys.executable, __file__, "once", str(runs)]
    one_core = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    found = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True, env=one_core)
    seconds, memory = map(float, found.stdout.split())
    return seconds, memory


def our_floors(families: Registry) -> list[float]:
    """The 95% quantile of each continuous prompt's floor of W1."""
    stats._w1_floor.cache_clear()
    return [stats.w1_floor(frozen, DRAWS).high for frozen in continuous(families)]


def naive_floors(families: Registry) -> list[float]:
    """The same, every quantile by SciPy."""
    found = []
    for frozen in continuous(families):
        random, wanted = np.random.default_rng(stats.SEED), frozen.ppf(stats.midpoints(DRAWS))
        uniforms = np.sort(random.random((stats.REPLICATES, DRAWS)), axis=1)
        found.append(float(np.quantile([np.abs(frozen.ppf(row) - wanted).mean() for row in uniforms], 0.95)))
    return found


def continuous(families: Registry) -> list:
    """The distributions of the selected continuous prompts."""
    return [families[p.family].frozen(p.parameters) for p in families.select(selected=True)
            if not families[p.family].discrete]  # fmt: skip


@app.command()
def compare(rounds: int = ROUNDS) -> None:
    """Keep the section `scoring`."""
    rows, peak = [], 0.0
    for runs in RUNS:
        measured = [in_a_process(runs) for _ in range(rounds)]
        rows.append(compared(f"{runs} runs of 42 prompts x {DRAWS:,} draws", "s", [s for s, _ in measured]))
        peak = max(mb for _, mb in measured)
        print(rows[-1], peak, flush=True)
    families = registry()
    ways = {"ours": lambda: our_floors(families), "naive": lambda: naive_floors(families)}
    times, found = in_turns(ways, rounds, clock=time.process_time, warm_up=False)
    worst = max(abs(one - other) / other for one, other in zip(found["ours"], found["naive"], strict=True))
    assert worst < 1e-3, f"the floors differ by {worst:.1e}"
    rows.append(compared(f"floors of W1, {len(found['ours'])} continuous prompts", "s", times["ours"], times["naive"]))
    notes = [f"The process of the {RUNS[-1]} runs holds {peak:,.0f} MB at most. Floors agree to {worst:.0e} of them."]
    keep(
        "scoring",
        "Scores of draws on one core, in seconds of the processor; floors against SciPy's quantiles",
        rows,
        notes,
    )


if __name__ == "__main__":
    app() if sys.argv[1:2] in (["once"], ["--help"]) else app(["compare", *sys.argv[1:]])
