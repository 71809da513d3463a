"""How fast NoveltyBench's classifier judges: sorted by length in batches of so many tokens, against what it replaces.

    python perf/judge.py       tiny random DeBERTa-v2, 128 tokens per answer, against batches of 16 pairs as they come

Answers have mixed lengths, every pair is different, both ways must reach the same verdicts. On a processor small
batches are faster: the attention of a batch must not outgrow the caches.
"""

import tempfile
import time
from functools import partial
from pathlib import Path

import torch
import typer
from record import ROUNDS, THREADS, compared, in_turns, keep

from cft.judges import MAX_TOKENS, THRESHOLD, Judge, Row
from cft.model_settings import ModelSource
from cft.prepare import prepare
from cft.streams import stream

BATCH, PAIRS, WANTED = 16, (64, 256, 1024), 2


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


def main(batch_tokens: int = 2048, rounds: int = ROUNDS) -> None:
    """Keep the section `judge`: seconds of the processor both ways."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        prepare(ModelSource(source="tiny", architecture="deberta_v2", dtype="float32"), Path(folder) / "judge")
        model = Judge("similarity", Path(folder) / "judge", batch_tokens)
    rows = []
    for pairs in PAIRS:
        encoded = pairs_of(model, pairs)
        ways = {"ours": partial(model.logits, encoded), "as they come": partial(as_they_come, model, encoded)}
        times, found = in_turns(ways, rounds, clock=time.process_time, warm_up=pairs == PAIRS[0])
        verdicts = [found[name].softmax(-1)[:, 1] > THRESHOLD for name in ways]
        assert torch.equal(*verdicts), "the two ways disagree"
        rows.append(compared(f"{pairs:,} pairs", "s", times["ours"], times["as they come"], WANTED))
        print(rows[-1], flush=True)
    title = "NoveltyBench's classifier (tiny), in seconds of the processor: sorted by length, against batches of 16"
    keep("judge", title, rows, ["Answers of mixed length, at most 128 tokens each; same verdicts both ways."])


if __name__ == "__main__":
    typer.run(main)
