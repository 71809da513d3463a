"""Documents cut into windows, and windows gathered into batches of about equal length."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from cft.benchmark_settings import PalomaBenchmark

BUFFER_TOKENS = 2**20  # documents are gathered up to so many tokens before their windows are sorted


class Window(NamedTuple):
    """A stretch of a document: its first token, its number of tokens, and the tokens that are scored in it."""

    first: int
    length: int
    scored: range


def windows(num_tokens: int, context: int, stride: int, max_scored: int | None = None) -> list[Window]:
    """The windows of a document; positions count from its first token, which is not scored.

    Each window has `context` tokens, the last may have fewer, and begins `stride` tokens after the one before. It
    scores the tokens that no window before it holds, but never its own first. At most `max_scored` tokens in all.
    """
    found: list[Window] = []
    end, left = 0, num_tokens if max_scored is None else max_scored
    for first in range(0, num_tokens - 1, stride):
        start, end = max(end, first + 1), min(first + context, num_tokens)
        scored = range(start, min(end, start + left))
        if scored:
            found.append(Window(first, end - first, scored))
            left -= len(scored)
        if end == num_tokens:
            break
    return found


class Piece(NamedTuple):
    """A window with its tokens [length]; `scored` counts from its first token, `document` names what it is part of."""

    document: int
    tokens: np.ndarray
    scored: range


Tokenised = tuple[int, np.ndarray, int]  # line number, tokens, bytes of the text


def tokenise(tokenizer: Any, texts: Iterable[tuple[int, str]]) -> Iterator[Tokenised]:
    """Line number, tokens and bytes of each text; a text of nothing but white space counts as empty."""
    for number, text in texts:
        text = text if text.strip() else ""
        tokens = tokenizer.encode(text, add_special_tokens=False) if text else []
        yield number, np.array(tokens, np.int64), len(text.encode("utf-8"))


def buffers(tokenised: Iterable[Tokenised]) -> Iterator[list[Tokenised]]:
    """Gather documents of a file up to BUFFER_TOKENS tokens."""
    group: list[Tokenised] = []
    held = 0
    for document in tokenised:
        group.append(document)
        held += len(document[1])
        if held >= BUFFER_TOKENS:
            yield group
            group, held = [], 0
    if group:
        yield group


def pieces_of(number: int, tokens: np.ndarray, settings: PalomaBenchmark) -> list[Piece]:
    """The windows of a document with their tokens."""
    return [
        Piece(number, tokens[first : first + length], range(scored.start - first, scored.stop - first))
        for first, length, scored in windows(len(tokens), settings.context, settings.stride)
    ]


def batches(pieces: list[Piece], window_tokens: int) -> Iterator[list[Piece]]:
    """Cut pieces into batches of at most so many tokens, see by_length."""
    for batch in by_length([len(piece.tokens) for piece in pieces], window_tokens):
        yield [pieces[index] for index in batch]


def by_length(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Indices into `lengths`, longest first, in batches of at most `budget` tokens once padded, or one longer row."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
