"""What a training step takes of memory at Qwen3's vocabulary, against full sequences and all logits.

    python perf/memory.py

Qwen3's architecture with random weights: the width of Qwen3-0.6B and so many of its 28 layers, 151,936 tokens; prompts
in SmolLM2's tokens, which has the same digits. A step (labels, forward, backward) of the paper's soft method, each way
in a process of its own: the most memory that it held, over what it held before. There is no dropout, so that losses are
equal.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from record import THREADS, compared, keep
from training import data_of, method, naive_loss, our_loss, support_of
from transformers import AutoConfig, AutoModelForCausalLM

from cft.lora import add_adapter
from cft.models import load_tokenizer

VOCABULARY, WANTED = 151_936, 3
WIDTH = {"hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8,
         "head_dim": 128}  # fmt: skip

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
NOTE = (
    "Over what the process held before; what a tensor frees goes back at once (MALLOC_TRIM_THRESHOLD_), which the C "
    "library does not do by itself. 28 layers are Qwen3-0.6B."
)


def held(field: str) -> float:
    """MB of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


@app.command()
def step(way: str, layers: int, draws: int, batch: int, model: Path) -> None:
    """Print the MB of one step one way."""
    torch.set_num_threads(THREADS)
    config = AutoConfig.for_model(
        "qwen3", vocab_size=VOCABULARY, num_hidden_layers=layers, tie_word_embeddings=True, **WIDTH
    )
    torch.manual_seed(1)
    lora = method("soft").lora.model_copy(update={"dropout": 0.0})
    network = add_adapter(AutoModelForCausalLM.from_config(config, dtype=torch.float32), lora).train()
    data = data_of(
        load_tokenizer(model), method("soft", draws=16, draws_per_prompt=draws, batch_size=batch, max_steps=1)
    )
    supports = {key: support_of(data, key) for key in dict(data.steps[0])}
    network(input_ids=torch.tensor([[1, 2]])).logits.sum().backward()  # what any step allocates once
    before = held("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    loss = our_loss(network, data) if way == "ours" else naive_loss(network, data, supports)
    loss.backward()
    print(loss.item(), held("VmHWM") - before)


def measured(way: str, layers: int, draws: int, batch: int, model: Path) -> tuple[float, float]:
    """Loss and MB of a step in a fresh process.

    What a tensor frees goes back at once, so that what is held is what is in use: left to itself, the C library keeps
    half as much again or not, by chance.
    """
    line = [sys.executable, __file__, "step", way, *map(str, (layers, draws, batch)), str(model)]
    settings = {"OMP_NUM_THREADS": "2", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    found = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | settings)
    loss, memory = map(float, found.stdout.split()[-2:])
    return loss, memory


@app.command()
def compare(
    model: Annotated[Path, typer.Option()] = Path("results/models/smollm2"),
    batch: Annotated[int, typer.Option(min=1)] = 16,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Keep the section `memory`."""
    rows = []
    for layers, draws in [(layers, draws) for layers in (2, 28) for draws in (1, 4, 16)]:
        ours, naive = ([measured(way, layers, draws, batch, model) for _ in range(rounds)] for way in ("ours", "naive"))
        if abs(ours[0][0] - naive[0][0]) > 1e-5 * naive[0][0]:
            raise SystemExit(f"the losses differ: {ours[0][0]}, {naive[0][0]}")
        work = f"{layers} layers, {batch // draws} prompts x {draws}"
        rows.append(compared(work, "MB", [mb for _, mb in ours], [mb for _, mb in naive], WANTED))
        print(rows[-1], flush=True)
    keep(
        "memory",
        f"Peak memory of a training step of {batch} values, Qwen3 of 151,936 tokens, against all logits",
        rows,
        [NOTE],
    )


if __name__ == "__main__":
    app() if sys.argv[1:2] in (["step"], ["--help"]) else app(["compare", *sys.argv[1:]])
