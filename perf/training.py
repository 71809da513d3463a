"""Where the time of a training step goes, and what sharing a prompt among its values saves.

    python perf/training.py

SmolLM2 and the demo's methods. First `finetune` itself, some steps of it: the share of its time outside forward and
backward passes (batches, labels, optimiser, log). Then single steps with 1, 4 and 16 values per prompt, the same values
and labels each way: `batch_loss` against every value with its own copy of the prompt, all logits computed and the loss
of a label row after the other, as the authors' code does it. Printed and kept in results/perf. A ratio within one run
means something; a speed on a shared machine means little.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from cft import chat, train, trainer
from cft.batches import Batches, batch_loss
from cft.config import load
from cft.data import write_data
from cft.distributions import registry
from cft.lora import add_adapter
from cft.method_settings import FinetuneMethod
from cft.model_settings import ChatSettings, TrainingSettings
from cft.models import load_model, load_tokenizer

THREADS = 2


def method(name: str, **changes: Any) -> FinetuneMethod:
    """A method of the demo."""
    return FinetuneMethod.model_validate(load("config/demo.yaml").methods[name].model_dump() | changes)


def overhead(model: Path, steps: int) -> dict[str, float]:
    """Seconds of so many steps, without start and end, and how many of them were forward and backward passes."""
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
            chosen = method("soft", max_steps=steps + 2)
            write_data(registry(), chosen, 1, Path(folder) / "data")
            how = TrainingSettings(micro_batch=16)
            train.finetune(model, Path(folder) / "data", chosen, 1, how, Path(folder) / "adapter")
    finally:
        trainer.batch_loss, trainer.CalibrationTrainer.training_step = loss, step
    # From the start of the second step to that of the last: the first one warms up.
    (begin, before), (end, after) = ends[1], ends[-1]
    return {"seconds": end - begin, "forward_and_backward": after - before}


def one_by_one(model: Any, tokenizer: Any, data: Batches) -> torch.Tensor:
    """The loss of the first batch: a sequence per value, a softmax over the vocabulary per label row."""
    values = [(data._prompt_tokens(prompt_id), *data._labels(prompt_id, value)) for prompt_id, value in data.steps[0]]
    longest = max(len(prompt) + len(tokens) for prompt, tokens, _ in values)
    tokens = torch.full((len(values), longest), tokenizer.pad_token_id)
    mask = torch.zeros_like(tokens)
    for row, (prompt, own, _) in enumerate(values):
        tokens[row, : len(prompt) + len(own)] = torch.tensor([*prompt, *own.tolist()])
        mask[row, : len(prompt) + len(own)] = 1
    logits = model(input_ids=tokens, attention_mask=mask).logits
    parts, count = [], sum(len(own) for _, own, _ in values)
    for row, (prompt, _, laws) in enumerate(values):
        terms = []
        for place, (ids, law) in enumerate(laws, len(prompt) - 1):
            wanted = torch.as_tensor(law, dtype=logits.dtype).clamp(min=1e-8)
            wanted = wanted / wanted.sum()
            log_model = logits[row, place].log_softmax(-1)[torch.as_tensor(ids)]
            terms.append((wanted * (wanted.log() - log_model)).sum())
        by_value = data.method.average == "value"
        parts.append(torch.stack(terms).sum() / (len(terms) * len(values) if by_value else count))
    return torch.stack(parts).sum()


def compare(model: Path, name: str, draws: int, rounds: int) -> dict[str, float]:
    """Median seconds of a step (forward and backward) both ways, in turns; fails where the losses differ."""
    network = add_adapter(load_model(model), method(name).lora).eval()  # no dropout: the losses must be equal
    tokenizer = load_tokenizer(model)
    with tempfile.TemporaryDirectory() as folder:
        chosen = method(name, draws=16, draws_per_prompt=draws, batch_size=16, max_steps=1)
        write_data(registry(), chosen, 1, Path(folder))
        data = Batches(Path(folder), tokenizer, ChatSettings(), chosen, 16)
    assert data.terminator == chat.terminator(tokenizer, ChatSettings())
    times: dict[str, list[float]] = {"shared": [], "one_by_one": []}
    for _ in range(rounds + 1):
        losses = {}
        for kind in times:
            network.zero_grad()
            started = time.perf_counter()
            loss = batch_loss(network, data[0][0]) if kind == "shared" else one_by_one(network, tokenizer, data)
            loss.backward()
            times[kind].append(time.perf_counter() - started)
            losses[kind] = loss.item()
        if abs(losses["shared"] - losses["one_by_one"]) > 1e-4 * losses["one_by_one"]:
            raise SystemExit(f"the losses differ: {losses}")
    # The first round warms up, and builds the tries of both.
    return {kind: sorted(found[1:])[rounds // 2] for kind, found in times.items()}


def main(
    model: Annotated[Path, typer.Option()] = Path("results/models/smollm2"),
    steps: Annotated[int, typer.Option(min=2)] = 12,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Print both comparisons."""
    torch.set_num_threads(THREADS)
    found: dict[str, Any] = {"training": overhead(model, steps)}
    share = 1 - found["training"]["forward_and_backward"] / found["training"]["seconds"]
    print(f"outside forward and backward: {share:.1%} of {found['training']['seconds']:.1f} s for {steps} steps")
    for name in ("soft", "hard"):
        for draws in (1, 4, 16):
            times = found[f"{name}_{draws}"] = compare(model, name, draws, rounds)
            ratio = times["one_by_one"] / times["shared"]
            print(f"{name}, {draws:2} values per prompt: {times['shared']:.2f} s a step, {ratio:.1f} times faster")
    out = Path("results/perf/training.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found | {"threads": THREADS, "torch": torch.__version__}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
