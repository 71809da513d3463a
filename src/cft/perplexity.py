"""How well a model predicts texts: the negative log-probability of each document, in windows (arXiv 2605.11845).

A document is tokenised as it is: no chat template and no special token, so that its first token has no context and is
not scored; its bytes count nevertheless. Every other token is scored once, in the first window that holds it. So does
the authors' code (chandar-lab/calibration-finetuning at a09d46d, src/random_steering/perplexity).

Windows of many documents are batched by their length, the longest first, so that a lack of memory shows at once. Logits
are computed only where a token is scored, some rows at a time.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from cft import CftError
from cft.benchmark_settings import PalomaBenchmark
from cft.corpus import Corpus, documents, read_corpus
from cft.journal import Journal, adapter_weights, digest
from cft.models import load_for_evaluation, load_tokenizer, settings_of
from cft.progress import Progress
from cft.provenance import write_table
from cft.windows import Piece, Tokenised, batches, buffers, pieces_of, tokenise

log = logging.getLogger(__name__)
PROBE = "Numbers that somebody wrote down:"
# Logits that exist at once: 128 MB in float32; a GPU has more to do at a time.
CHUNK_LOGITS = {"cpu": 2**25, "cuda": 2**27}


class Document(NamedTuple):
    """What is kept of a document: line number, scored tokens, their -log p summed (nats), bytes of the text."""

    document: int
    tokens: int
    nats: float
    bytes: int


def measure(
    settings: PalomaBenchmark,
    corpus: Path,
    model: Path,
    adapter: Path | None,
    window_tokens: int,
    identity: dict[str, Any],
    out: Path,
) -> None:
    """Measure every document of a corpus (a folder made by write_corpus) and write a parquet file, a row for each.

    Columns: those of `identity` (constants), split (the slice), file, document (line number), tokens (scored), nats
    (sum of their -log p), bytes (of the whole text in UTF-8; 0 where it is nothing but white space, which is not
    scored). A forward pass holds at most `window_tokens` tokens with padding, or one window.
    Finished files are kept in a journal beside `out`; a killed job continues after them, and ends in the same file.
    run.json says how many windows and scored tokens this run had, and how many tokens a second.
    Raises CftError when the adapter does not fit or is not active, a text cannot be read, or memory is too small.
    """
    texts, tokenizer = read_corpus(corpus), load_tokenizer(model)
    journal = Journal(out, _header(settings, texts, model, adapter, identity), ("split", "file", "bytes"), "files")
    network, facts = load_for_evaluation(model, adapter, tokenizer.encode(PROBE, add_special_tokens=False))
    files = [(split, file, size) for split, sizes in texts.slices.items() for file, size in sizes.items()]
    work: dict[str, float] = {"windows": 0, "tokens": 0}
    started = time.monotonic()
    for number, key in enumerate(files, start=1):
        _, file, _ = key
        if key not in journal.done:
            tokenised = tokenise(tokenizer, documents(texts.root / file, settings.limit))
            found, count = _measure_file(
                network, tokenised, settings, window_tokens, f"perplexity, file {number} of {len(files)}"
            )
            journal.add([dict(zip(journal.key, key, strict=True), documents=found)])
            work["windows"] += count
            work["tokens"] += sum(document.tokens for document in found)
    seconds = time.monotonic() - started
    work |= {"seconds": round(seconds, 1), "tokens_per_s": round(work["tokens"] / max(seconds, 1e-9), 1)}
    rows = [(*identity.values(), *key[:2], *document) for key in files for document in journal.done[key]["documents"]]
    frame = pd.DataFrame(rows, columns=[*identity, "split", "file", *Document._fields])
    facts |= {"measured": work, "benchmark": settings.model_dump(), "identity": identity, "corpus": str(corpus)}
    write_table(frame, out, **facts)
    journal.remove()


def _header(
    settings: PalomaBenchmark, texts: Corpus, model: Path, adapter: Path | None, identity: dict[str, Any]
) -> dict[str, Any]:
    """All that the sums of a file depend on; the size of a batch is not among it, so that it may be lowered after a
    failure, and neither are other files, one of which may have been mended."""
    return {
        "model": settings_of(model).model_dump(),
        "adapter": adapter and digest(adapter_weights(adapter)),
        "benchmark": settings.model_dump(),
        "corpus": [str(texts.root), list(texts.slices)],
        "identity": identity,
    }


def _measure_file(
    model: Any, tokenised: Iterable[Tokenised], settings: PalomaBenchmark, window_tokens: int, what: str
) -> tuple[list[Document], int]:
    """The documents of one file, and how many windows they had."""
    found, count = [], 0
    for group in buffers(tokenised):
        pieces = {number: pieces_of(number, tokens, settings) for number, tokens, _ in group}
        nats = nats_by_document(model, [piece for some in pieces.values() for piece in some], window_tokens, what)
        for number, _, size in group:
            scored = sum(len(piece.scored) for piece in pieces[number])
            found.append(Document(number, scored, nats[number], size))
            count += len(pieces[number])
    return found, count


def nats_by_document(model: Any, pieces: list[Piece], window_tokens: int, what: str) -> dict[int, float]:
    """The -log p (nats) of all scored tokens, summed over each document's pieces; 0 for a document without pieces.

    Sums do not depend on the batches, but for rounding. Raises CftError when a batch does not fit into memory.
    """
    nats: dict[int, float] = defaultdict(float)
    with Progress(what, len(pieces), "windows") as progress:
        for batch in batches(pieces, window_tokens):
            try:
                sums = nats_of(model, batch)
            except torch.OutOfMemoryError:
                raise CftError(f"out of memory with {window_tokens} tokens of windows: lower the model's window_tokens")
            if not np.isfinite(sums).all():
                raise CftError(f"{what}: probabilities that are no numbers; the weights or the dtype are wrong")
            for piece, value in zip(batch, sums, strict=True):
                nats[piece.document] += float(value)
            progress.update(len(batch))
    return nats


@torch.inference_mode()
def nats_of(model: Any, batch: list[Piece]) -> np.ndarray:
    """[batch] the sum of -log p (nats) over the scored tokens of each piece: logs in float32, sums in float64."""
    longest = max(len(piece.tokens) for piece in batch)
    tokens = np.zeros((len(batch), longest), np.int64)
    mask, predicting = np.zeros_like(tokens), np.zeros(tokens.shape, bool)
    for row, piece in enumerate(batch):
        tokens[row, : len(piece.tokens)] = piece.tokens
        mask[row, : len(piece.tokens)] = 1
        predicting[row, piece.scored.start - 1 : piece.scored.stop - 1] = True
    # A token is predicted at the place before it.
    targets = torch.from_numpy(tokens[:, 1:][predicting[:, :-1]]).to(model.device)
    states = _states(model, *(torch.from_numpy(part).to(model.device) for part in (tokens, mask, predicting)))
    head = model.get_output_embeddings()
    rows = max(1, CHUNK_LOGITS[model.device.type] // head.weight.shape[0])
    nats = []
    for some, wanted in zip(states.split(rows), targets.split(rows), strict=True):
        logits = head(some)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        nats.append(logits.logsumexp(-1) - logits.gather(-1, wanted[:, None])[:, 0])
    each = torch.cat(nats).double().cpu().numpy()
    return np.bincount(np.nonzero(predicting)[0], each, len(batch))


def _states(model: Any, tokens: torch.Tensor, mask: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """[places, width] what the output layer is given at `places` (bool, [rows, length]), row by row.

    The model itself computes logits at the first place only. Raises CftError when it does more to them than its output
    layer does: then ours would be others.
    """
    seen: list[torch.Tensor] = []

    def keep(module: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        seen.append(arguments[0][places])
        return (seen[0][None, :1],)

    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(keep)
    try:
        logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
    finally:
        handle.remove()
    if not torch.equal(head(seen[0][None, :1]).to(logits.dtype).nan_to_num(), logits.nan_to_num()):
        raise CftError(
            f"{type(model).__name__} changes its logits after the output layer; perplexity.py cannot tell how"
        )
    return seen[0]
