"""How fast perplexity is measured: windows of many documents in a batch, against one window after the other.

    python perf/perplexity.py

Documents of words that we make up. One after the other is what the authors' code does with its windows: a forward pass
each, logits at every place, cross-entropy. On a processor, batches pay where windows are short: a pass over few tokens
waits for the weights, one over some hundred is limited by its multiplications, however they are grouped.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from record import ROUNDS, THREADS, compared, in_turns, keep

from cft.benchmark_settings import PalomaBenchmark
from cft.corpus import made_up_text
from cft.models import load_model, load_tokenizer
from cft.perplexity import nats_by_document
from cft.streams import stream
from cft.windows import Piece, pieces_of, tokenise

SHORTEST, LONGEST, WANTED = 4, (10, 40, 100, 400), 2


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


def main(
    model: Annotated[Path, typer.Option()] = Path("results/models/smollm2"),
    documents: Annotated[int, typer.Option(min=1)] = 60,
    window_tokens: Annotated[int, typer.Option(min=1)] = 2048,
    rounds: Annotated[int, typer.Option(min=1)] = ROUNDS,
) -> None:
    """Keep the section `perplexity`; fails where the sums of a document differ by more than 1e-5 of them."""
    torch.set_num_threads(THREADS)
    network, rows, worst = load_model(model), [], 0.0
    for longest in LONGEST:
        pieces = pieces_of_documents(model, documents, longest)
        ways = {
            "ours": lambda pieces=pieces: nats_by_document(network, pieces, window_tokens, "batched"),
            "one by one": lambda pieces=pieces: one_by_one(network, pieces),
        }
        times, found = in_turns(ways, rounds, warm_up=longest == LONGEST[0])
        ours, theirs = found["ours"], found["one by one"]
        worst = max(worst, *(abs(ours[document] - theirs[document]) / theirs[document] for document in theirs))
        assert ours.keys() == theirs.keys() and worst < 1e-5, f"sums differ by {worst:.1e}"
        median = np.median([len(piece.tokens) for piece in pieces])
        work = f"{documents} documents of {SHORTEST} to {longest} words (half of them up to {median:.0f} tokens)"
        rows.append(compared(work, "s", times["ours"], times["one by one"], WANTED))
        print(rows[-1], flush=True)
    title = "Perplexity, SmolLM2 in float32: windows in batches, against one after the other"
    keep("perplexity", title, rows, [f"Sums of a document agree to {worst:.0e} of them."])


if __name__ == "__main__":
    typer.run(main)
