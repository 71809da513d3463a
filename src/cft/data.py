"""The ordered training examples of a (method, seed): strings only, no tokenizer, no torch (arXiv 2605.11845).

All randomness of training but the adapter's first weights and dropout is decided here. `prompts.parquet` has a row per
prompt that is trained on, with its target where labels are laws; `examples.parquet` has a row per drawn value, in
training order.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cft.distributions import Prompt, Registry
from cft.method_settings import FinetuneMethod
from cft.progress import Progress
from cft.provenance import replacing, write_run, write_table
from cft.streams import stream
from cft.target import Target, make_target

PROMPTS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("values", pa.list_(pa.string())),
        ("probabilities", pa.list_(pa.float64())),
    ]
)


def order(prompts: list[Prompt], method: FinetuneMethod, seed: int) -> pd.DataFrame:
    """The order of training: columns epoch, step, prompt (an index), draw; one row per value.

    Families take turns: every round takes the next group of values of each family that has any left, families
    shuffled in every round and each family's groups shuffled in every epoch. A batch never spans two epochs.
    """
    rows, step = [], 0
    for epoch in range(method.epochs):
        turns = list(_turns(prompts, method, stream(seed, "order", epoch)))
        for first in range(0, len(turns), method.batch_size):
            if method.max_steps is not None and step == method.max_steps:
                return pd.DataFrame(rows, columns=["epoch", "step", "prompt", "draw"])
            rows += [(epoch, step, *turn) for turn in turns[first : first + method.batch_size]]
            step += 1
    return pd.DataFrame(rows, columns=["epoch", "step", "prompt", "draw"])


def _turns(prompts: list[Prompt], method: FinetuneMethod, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """One epoch's (prompt, draw) pairs."""
    groups = method.draws // method.draws_per_prompt
    queues: dict[str, list[tuple[int, int]]] = {}
    for index, prompt in enumerate(prompts):
        queues.setdefault(prompt.family, []).extend((index, group) for group in range(groups))
    for queue in queues.values():
        rng.shuffle(queue)
    families = list(queues)
    while families:
        for family in rng.permutation(families):
            index, group = queues[family].pop()
            first = group * method.draws_per_prompt
            yield from ((index, draw) for draw in range(first, first + method.draws_per_prompt))
        families = [family for family in families if queues[family]]


def write_data(registry: Registry, method: FinetuneMethod, seed: int, folder: Path) -> None:
    """Write the training prompts of the families, see `write_examples`."""

    def target_of(prompt: Prompt) -> Target:
        return make_target(registry, prompt.family, prompt.parameters, method.decimals, method.max_bins)

    write_examples(registry.select("train"), target_of, method, seed, folder)


def write_examples(
    prompts: list[Prompt], target_of: Callable[[Prompt], Target], method: FinetuneMethod, seed: int, folder: Path
) -> None:
    """Write prompts.parquet and examples.parquet into `folder`, with a run.json."""
    examples = order(prompts, method, seed)
    drawn = np.empty(len(examples), object)
    rows_of = examples.groupby("prompt", sort=True).indices
    with (
        replacing(folder / "prompts.parquet") as temporary,
        pq.ParquetWriter(temporary, PROMPTS) as writer,
        Progress("targets", len(rows_of), "prompts") as progress,
    ):
        batch: list[dict[str, object]] = []
        for index, rows in rows_of.items():
            record, drawn[rows] = _draw(target_of, prompts[cast(int, index)], method, seed, examples.iloc[rows])
            batch.append(record)
            # Row groups, so that memory does not grow with the number of prompts.
            if len(batch) == 128 or progress.done + 1 == len(rows_of):
                writer.write_table(pa.Table.from_pylist(batch, PROMPTS))
                batch = []
            progress.update()
    examples["prompt_id"] = [prompts[i].prompt_id for i in examples.pop("prompt")]
    examples["value"] = drawn
    write_table(examples, folder / "examples.parquet", method=method.model_dump(), seed=seed)
    write_run(folder, method=method.model_dump(), seed=seed, prompts=len(rows_of), values=len(examples))


def _draw(
    target_of: Callable[[Prompt], Target], prompt: Prompt, method: FinetuneMethod, seed: int, rows: pd.DataFrame
) -> tuple[dict[str, object], np.ndarray]:
    """A prompt's row, and the values at its rows of the examples, by inversion of the target's law."""
    target = target_of(prompt)
    uniform = np.stack([stream(seed, "values", prompt.prompt_id, e).random(method.draws) for e in range(method.epochs)])
    cumulative = np.cumsum(target.probabilities)
    chosen = np.searchsorted(cumulative, uniform[rows["epoch"], rows["draw"]] * cumulative[-1], "right")
    laws = method.needs_laws
    record = {
        "prompt_id": prompt.prompt_id,
        "prompt": prompt.text,
        "values": target.values if laws else None,
        "probabilities": target.probabilities if laws else None,
    }
    return record, np.array(target.values, object)[chosen]
