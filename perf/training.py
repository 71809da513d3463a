"""Where the time of a training step goes, and what sharing prompts saves.

    python perf/training.py

SmolLM2 with the paper's two methods, 32 values a step: 32 prompts with 1 value, 8 with 4, 2 with 16. Each turn takes
the next step of a run, as what values share differs from prompt to prompt. Same values, same labels, same loss:
`batch_loss` against the straightforward step. That one gives every value its own copy of its prompt and computes all
logits. A soft label is a dictionary, made in a loop over the target's values that share the prefix, written into a row
as long as the vocabulary; losses are added up label row by label row. A hard label is a token, and the loss PyTorch's
cross-entropy over all places. Both find their labels within the step; tokens of supports and tries are there before.
Each way has a process to itself: a step of the straightforward way gives gigabytes back to the system and asks for them
again in the next, which another step should not pay for. And each timed step follows the one before it, which is not
timed, as in a run: after the other way's step nothing would be left in the processor's caches. First `finetune` itself:
the share of its time outside forward and backward passes.
"""

import tempfile
import time
from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from record import ROUNDS, THREADS, compared, in_turns, keep
from torch.nn.functional import cross_entropy, kl_div

from cft import train, trainer
from cft.batches import Batches, batch_loss
from cft.config import load
from cft.data import write_data
from cft.distributions import registry
from cft.lora import add_adapter
from cft.loss import FLOOR
from cft.method_settings import FinetuneMethod
from cft.model_settings import ChatSettings, TrainingSettings
from cft.models import load_model, load_tokenizer

WANTED = {"soft": {1: 2, 4: 6, 16: 10}, "hard": {1: 1.3, 4: 2.5, 16: 5}}
Support = list[tuple[tuple[int, ...], float]]


def method(name: str, experiment: str = "paper", **changes: Any) -> FinetuneMethod:
    """A method of the paper or of the demo."""
    return FinetuneMethod.model_validate(load(f"config/{experiment}.yaml").methods[name].model_dump() | changes)


def data_of(tokenizer: Any, chosen: FinetuneMethod) -> Batches:
    """The batches of a run, each uncut."""
    with tempfile.TemporaryDirectory() as folder:
        write_data(registry(), chosen, 1, Path(folder))
        return Batches(Path(folder), tokenizer, ChatSettings(), chosen, chosen.batch_size)


def our_loss(model: Any, data: Batches, step: int = 0) -> torch.Tensor:
    """Labels and loss of a batch."""
    data._labels.cache_clear()
    (micro,) = data[step]
    return batch_loss(model, micro)


def support_of(data: Batches, prompt_id: str) -> Support:
    """Every value of a target: its tokens with the terminator, and its probability."""
    target = data.prompts.loc[prompt_id]
    rows = data.tokenizer(list(target["values"]), add_special_tokens=False).input_ids
    return [((*row, data.terminator), p) for row, p in zip(rows, target["probabilities"], strict=True)]


def naive_loss(model: Any, data: Batches, supports: dict[str, Support], step: int = 0) -> torch.Tensor:
    """The straightforward loss of a batch, see above; `supports` are empty for hard labels."""
    prompts, values = [], []
    for prompt_id, value in data.steps[step]:
        prompts.append(data._prompt_tokens(prompt_id))
        values.append([*data.tokenizer(value, add_special_tokens=False).input_ids, data.terminator])
    longest = max(len(prompt) + len(own) for prompt, own in zip(prompts, values, strict=True))
    tokens = torch.full((len(values), longest), data.tokenizer.pad_token_id)
    mask, labels = torch.zeros_like(tokens), torch.full_like(tokens, -100)
    for row, (prompt, own) in enumerate(zip(prompts, values, strict=True)):
        end = len(prompt) + len(own)
        tokens[row, :end], mask[row, :end] = torch.tensor(prompt + own), 1
        labels[row, len(prompt) : end] = torch.tensor(own)
    logits = model(input_ids=tokens, attention_mask=mask).logits.float()
    if not supports:
        return cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))
    parts = []
    for (prompt_id, _), prompt, own, rows in zip(data.steps[step], prompts, values, logits, strict=True):
        losses = []
        for depth in range(len(own)):
            law = dense(supports[prompt_id], tuple(own[:depth]), logits.shape[-1])
            losses.append(kl_div(rows[len(prompt) - 1 + depth].log_softmax(-1), law, reduction="sum"))
        parts.append(torch.stack(losses).mean())
    return torch.stack(parts).mean()


def dense(support: Support, prefix: tuple[int, ...], vocabulary: int) -> torch.Tensor:
    """[vocabulary] the law of the next token, by a loop over the values that begin with the prefix."""
    law: dict[int, float] = {}
    for tokens, probability in support:
        if tokens[: len(prefix)] == prefix:
            law[tokens[len(prefix)]] = law.get(tokens[len(prefix)], 0.0) + probability
    row, mass = torch.zeros(vocabulary), sum(law.values())
    row[list(law)] = torch.tensor([p / mass for p in law.values()], dtype=row.dtype).clamp(min=FLOOR)
    return row / row.sum()


WORKER: dict[str, Any] = {}


def _start(model: Path, way: str) -> None:
    """Of a process that only takes steps one way, as one that trains does: what a step frees is its own next one's."""
    torch.set_num_threads(THREADS)
    network = add_adapter(load_model(model), method("soft").lora).eval()  # no dropout: the losses must be equal
    WORKER.update(network=network, tokenizer=load_tokenizer(model), way=way)


@lru_cache(maxsize=1)
def _prepared(name: str, draws: int, steps: int) -> tuple[Batches, dict[str, Support]]:
    data = data_of(WORKER["tokenizer"], method(name, draws=16, draws_per_prompt=draws, max_steps=steps))
    if name == "hard":
        return data, {}
    asked = {prompt_id for step in range(steps) for prompt_id, _ in data.steps[step]}
    for prompt_id in asked:
        data._trie(prompt_id)
    return data, {prompt_id: support_of(data, prompt_id) for prompt_id in asked}


def _step(name: str, draws: int, steps: int, turn: int) -> float:
    """The loss of a step (labels, forward, backward) of a method with so many values a prompt; one of so many steps."""
    data, supports = _prepared(name, draws, steps)
    network = WORKER["network"]
    network.zero_grad()
    number = turn % steps
    ours = WORKER["way"] == "ours"
    found = our_loss(network, data, number) if ours else naive_loss(network, data, supports, number)
    found.backward()
    return found.item()


def overhead(model: Path, steps: int) -> float:
    """The share of the time of the demo's steps that is not forward and backward passes, start and end left out."""
    computing, ends = [0.0], []
    loss, step = trainer.batch_loss, trainer.CalibrationTrainer.training_step

    def timed_loss(*arguments: Any, **named: Any) -> torch.Tensor:
        started = time.perf_counter()
        found = loss(*arguments, **named)
        computing[0] += time.perf_counter() - started
        return found

    def timed_step(self: Any, *arguments: Any, **named: Any) -> torch.Tensor:
        backward = self.accelerator.backward

        def timed_backward(*a: Any, **k: Any) -> None:
            started = time.perf_counter()
            backward(*a, **k)
            computing[0] += time.perf_counter() - started

        ends.append((time.perf_counter(), computing[0]))
        self.accelerator.backward = timed_backward
        try:
            return step(self, *arguments, **named)
        finally:
            self.accelerator.backward = backward

    trainer.batch_loss, trainer.CalibrationTrainer.training_step = timed_loss, timed_step  # type: ignore[assignment]
    try:
        with tempfile.TemporaryDirectory() as folder:
            chosen = method("soft", "demo", max_steps=steps + 2)
            write_data(registry(), chosen, 1, Path(folder) / "data")
            how = TrainingSettings(micro_batch=16)
            train.finetune(model, Path(folder) / "data", chosen, 1, how, Path(folder) / "adapter")
    finally:
        trainer.batch_loss, trainer.CalibrationTrainer.training_step = loss, step
    # From the start of the second step to that of the last: the first one warms up.
    (begin, before), (end, after) = ends[1], ends[-1]
    return 1 - (after - before) / (end - begin)


def _turn(process: Any, name: str, draws: int, steps: int, turns: Iterator[int]) -> float:
    return process.apply(_step, (name, draws, steps, next(turns)))


def main(
    model: Annotated[Path, typer.Option()] = Path("results/models/smollm2"),
    steps: Annotated[int, typer.Option(min=2)] = 12,
    rounds: Annotated[int, typer.Option(min=1)] = ROUNDS,
) -> None:
    """Keep the section `training`."""
    torch.set_num_threads(THREADS)
    share = overhead(model, steps)
    processes = {way: get_context("spawn").Pool(1, _start, (model, way)) for way in ("ours", "naive")}
    rows = []
    for name in ("soft", "hard"):
        for draws in (1, 4, 16):
            ways = {}
            for way, process in processes.items():
                turn = partial(_turn, process, name, draws, rounds)
                ways |= {f"before {way}": partial(turn, count(-1)), way: partial(turn, count())}
            # The first step of each builds the tries and is not counted.
            times, losses = in_turns(ways, rounds)
            if abs(losses["ours"] - losses["naive"]) > 1e-5 * losses["naive"]:
                raise SystemExit(f"the losses differ: {losses}")
            work = f"{name}, {32 // draws} prompts x {draws}"
            rows.append(compared(work, "s", times["ours"], times["naive"], WANTED[name][draws]))
            print(rows[-1], flush=True)
    keep(
        "training",
        "A training step of 32 values, SmolLM2 in float32, against full sequences, all logits and a loop over labels",
        rows,
        [f"Outside forward and backward passes fine-tuning spends {share:.1%} of a step (the demo's)."],
    )


if __name__ == "__main__":
    typer.run(main)
