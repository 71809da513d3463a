"""How fast NoveltyBench's classifier judges: sorted by length in batches of so many tokens, against what it replaces.

    python perf/judge.py       tiny random DeBERTa-v2, 128 tokens per answer, against batches of 16 pairs as they come

Answers have mixed lengths, every pair is different, both ways must reach the same verdicts. On a processor small
batches are faster: the attention of a batch must not outgrow the caches. Results are printed and kept in results/perf.
A ratio within one run means something; a speed on a shared machine means little.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import typer

from cft.judges import MAX_TOKENS, THRESHOLD, Judge, Row
from cft.model_settings import ModelSource
from cft.models import prepare
from cft.streams import stream

THREADS, BATCH = 2, 16


def pairs_of(model: Judge, count: int) -> list[Row]:
    """Encoded pairs of random answers; an answer's length is log-normal, half of them above 60 characters."""
    random = stream(0, "perf", "judge")
    letters = list("abcdefghijklmnopqrstuvwxyz     ")
    lengths = random.lognormal(mean=4.1, sigma=0.9, size=2 * count).astype(int) + 6
    texts = ["".join(random.choice(letters, length)) for length in lengths]
    tokens = model.tokens(texts, MAX_TOKENS)
    start, end = model.tokenizer.cls_token_id, model.tokenizer.sep_token_id
    return [(start, *a, end, *b, end) for a, b in zip(tokens[::2], tokens[1::2], strict=True)]


@torch.inference_mode()
def as_they_come(model: Judge, rows: list[Row]) -> torch.Tensor:
    """Batches of 16 in the given order, each padded to its longest row: how the paper's authors call the classifier."""
    found = []
    for first in range(0, len(rows), BATCH):
        inputs = {"input_ids": [list(row) for row in rows[first : first + BATCH]]}
        padded = model.tokenizer.pad(inputs, padding_side="right", return_tensors="pt")
        found.append(model.model(input_ids=padded.input_ids, attention_mask=padded.attention_mask).logits)
    return torch.cat(found)


def measured(work: Callable[[], torch.Tensor], repeats: int) -> tuple[torch.Tensor, float]:
    """The logits and the shortest processor time in seconds of a few runs, after one that warms up."""
    logits, seconds = work(), []
    for _ in range(repeats):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return logits, min(seconds)


def main(pairs: int = 2048, batch_tokens: int = 2048, repeats: int = 3) -> None:
    """Pairs per second of processor time both ways, and their ratio."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        prepare(ModelSource(source="tiny", architecture="deberta_v2", dtype="float32"), Path(folder) / "judge")
        model = Judge("similarity", Path(folder) / "judge", batch_tokens)
    rows = pairs_of(model, pairs)
    theirs, before = measured(lambda: as_they_come(model, rows), repeats)
    ours, now = measured(lambda: model.logits(rows), repeats)
    verdicts = [logits.softmax(-1)[:, 1] > THRESHOLD for logits in (ours, theirs)]
    assert torch.equal(*verdicts), "the two ways disagree"
    found = {
        "pairs": pairs,
        "equivalent": float(verdicts[0].float().mean()),
        "sorted_pairs_per_cpu_s": pairs / now,
        "batches_of_16_pairs_per_cpu_s": pairs / before,
        "ratio": before / now,
    }
    kept = Path("results/perf/judge.json")
    kept.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=2, default=lambda value: round(value, 3))
    kept.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    typer.run(main)
