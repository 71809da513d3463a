"""How fast perplexity is measured: windows of many documents in a batch, against one window after the other.

    python perf/perplexity.py                       short documents of mixed length
    python perf/perplexity.py --longest 3000        … up to several windows of 2,048 tokens

Documents of words that we make up. Both ways see the same windows, in turns, so that a machine that is slower for a
while is slower for both. One after the other is what the authors' code does with its windows: a forward pass each,
logits at every place, cross-entropy. On a processor, batches pay where windows are short: a pass over few tokens waits
for the weights, one over some hundred is limited by its multiplications, however they are grouped. Printed and kept in
results/perf. A ratio within one run means something; a speed on a shared machine means little.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from cft.benchmark_settings import PalomaBenchmark
from cft.corpus import made_up_text
from cft.models import load_model, load_tokenizer
from cft.perplexity import nats_by_document
from cft.streams import stream
from cft.windows import Piece, pieces_of, tokenise

THREADS, SHORTEST = 2, 4


def pieces_of_documents(model: Path, count: int, longest: int) -> list[Piece]:
    """The windows of so many documents, SHORTEST to `longest` words long, evenly spread on a log scale."""
    generator = stream(1, "perf", "perplexity")
    lengths = np.geomspace(SHORTEST, longest, count).astype(int)
    texts = enumerate(made_up_text(generator, words) for words in generator.permutation(lengths))
    settings = PalomaBenchmark(data="generated")
    return [
        piece
        for number, tokens, _ in tokenise(load_tokenizer(model), texts)
        for piece in pieces_of(number, tokens, settings)
    ]


@torch.inference_mode()
def one_by_one(model: Any, pieces: list[Piece]) -> dict[int, float]:
    """The sum of -log p (nats) of each document."""
    nats: dict[int, float] = {}
    for piece in pieces:
        tokens = torch.from_numpy(piece.tokens)[None].to(model.device)
        labels = torch.full_like(tokens, -100)
        labels[0, piece.scored.start : piece.scored.stop] = tokens[0, piece.scored.start : piece.scored.stop]
        logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[:, :-1].contiguous()
        each = torch.nn.functional.cross_entropy(
            logits.view(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), reduction="none", ignore_index=-100
        )
        nats[piece.document] = nats.get(piece.document, 0.0) + float(each.double().sum())
    return nats


def seconds(work: Callable[[], dict[int, float]]) -> tuple[float, dict[int, float]]:
    started = time.perf_counter()
    nats = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, nats


def main(
    model: Annotated[Path, typer.Option()] = Path("results/models/smollm2"),
    documents: Annotated[int, typer.Option(min=1)] = 120,
    longest: Annotated[int, typer.Option(min=SHORTEST, help="words of the longest document")] = 40,
    window_tokens: Annotated[int, typer.Option(min=1)] = 2048,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Windows per second of both ways; fails where the sums of a document differ by more than 1e-5 of them."""
    torch.set_num_threads(THREADS)
    network, pieces = load_model(model), pieces_of_documents(model, documents, longest)
    nats_by_document(network, pieces[:4], window_tokens, "warm up")
    times: dict[str, list[float]] = {"batched": [], "one_by_one": []}
    for _ in range(rounds):
        took, ours = seconds(lambda: nats_by_document(network, pieces, window_tokens, "batched"))
        times["batched"].append(took)
        took, theirs = seconds(lambda: one_by_one(network, pieces))
        times["one_by_one"].append(took)
    worst = max(abs(ours[document] - theirs[document]) / theirs[document] for document in theirs)
    assert ours.keys() == theirs.keys() and worst < 1e-5, f"sums differ by {worst:.1e}"
    best = {name: min(measured) for name, measured in times.items()}
    found = {
        "longest_document_in_words": longest,
        "windows": len(pieces),
        "tokens": sum(len(piece.tokens) for piece in pieces),
        "median_window": float(np.median([len(piece.tokens) for piece in pieces])),
        "windows_per_s": {name: len(pieces) / took for name, took in best.items()},
        "ratio": best["one_by_one"] / best["batched"],
        "largest_relative_difference": worst,
        "device": str(network.device),
    }
    folder = Path("results/perf")
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=2)
    (folder / f"perplexity-{longest}.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    typer.run(main)
