"""Draw texts from a model: one function, `sample`, whatever the engine.

The transformers engine draws by inverting the law of the next token with one uniform number per (prompt, draw, token).
These numbers come from a stable hash, so a draw does not depend on which others are asked for; and draws of a prompt
that have the same tokens so far share one row of the forward pass, which is exact and saves most of the work.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cft import CftError, chat
from cft.config import SamplingSettings
from cft.models import load_for_evaluation, load_tokenizer, settings_of
from cft.prefix import Prefixes
from cft.progress import Progress
from cft.provenance import replacing, write_table
from cft.streams import stream

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One text to draw: the prompt's tokens and which draw it is."""

    prompt_id: str
    prompt: list[int]
    draw: int


@dataclass(frozen=True)
class Draw:
    """One drawn text: its tokens without the stop token, and whether it stopped by itself."""

    request: Request
    tokens: list[int]
    finished: bool


def sample(
    prompts: pd.DataFrame,
    settings: SamplingSettings,
    seed: int,
    model_folder: Path,
    adapter: Path | None,
    identity: dict[str, Any],
    cache_tokens: int,
    out: Path,
) -> None:
    """Draw `settings.draws` texts for each prompt (columns prompt_id, prompt) and write them to a parquet file.

    Columns: those of `identity` (constants), prompt_id, draw, text, tokens, finished (stopped before the token limit).
    Draws are kept in a journal beside `out` as they come; a killed job continues from it.
    Raises CftError when the adapter does not fit or is not active, or there is nothing to draw.
    """
    if prompts.empty:
        raise CftError("no prompts to draw from")
    tokenizer = load_tokenizer(model_folder)
    chat_settings = settings_of(model_folder).chat
    requests = [
        Request(prompt_id, tokens, draw)
        for prompt_id, text in zip(prompts["prompt_id"], prompts["prompt"], strict=True)
        for tokens in [chat.prompt_tokens(tokenizer, text, chat_settings)]
        for draw in range(settings.draws)
    ]
    model, facts = load_for_evaluation(model_folder, adapter, requests[0].prompt)
    stops = [chat.terminator(tokenizer, chat_settings), tokenizer.eos_token_id]
    journal = Journal(
        out, {**facts["source"], **settings.model_dump(), **identity, "seed": seed, "adapter": str(adapter)}
    )
    todo = [request for request in requests if (request.prompt_id, request.draw) not in journal.done]
    with Progress("sample", len(requests), "draws") as progress:
        progress.update(len(requests) - len(todo))
        rows = max(1, cache_tokens // (max(len(r.prompt) for r in requests) + settings.max_new_tokens))
        for batch in batches(todo, rows):
            draws = list(draw_batch(model, batch, settings, seed, stops, rows))
            journal.add(
                {"prompt_id": draw.request.prompt_id, "draw": draw.request.draw, "text": tokenizer.decode(draw.tokens),
                 "tokens": len(draw.tokens), "finished": draw.finished}
                for draw in draws
            )  # fmt: skip
            progress.update(len(draws))
    rows = [{**identity, **journal.done[request.prompt_id, request.draw]} for request in requests]
    write_table(pd.DataFrame(rows), out, **facts, sampling=settings.model_dump(), seed=seed, identity=identity)
    journal.remove()


class Journal:
    """The draws of an unfinished file, one JSON line each, under a first line that says what they were drawn with."""

    def __init__(self, out: Path, header: dict[str, Any]):
        self.path = out.with_name(f".{out.name}.journal")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.done: dict[tuple[str, int], dict[str, Any]] = {}
        first = json.dumps(header, sort_keys=True) + "\n"
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.is_file() else []
        if lines[:1] == [first]:
            # A line that a kill cut short lacks its end.
            for row in [json.loads(line) for line in lines[1:] if line.endswith("\n")]:
                self.done[row["prompt_id"], row["draw"]] = row
            log.info("continuing after %d draws", len(self.done))
        with replacing(self.path) as temporary:
            temporary.write_text(first + "".join(json.dumps(row) + "\n" for row in self.done.values()), "utf-8")

    def add(self, rows: Iterator[dict[str, Any]]) -> None:
        new = list(rows)
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
        self.done.update({(row["prompt_id"], row["draw"]): row for row in new})

    def remove(self) -> None:
        self.path.unlink()


def batches(requests: list[Request], rows: int) -> Iterator[list[Request]]:
    """Cut requests into batches of whole prompts with at most `rows` draws, or one prompt with more."""
    batch: list[Request] = []
    for _, group in groupby(requests, key=lambda request: request.prompt_id):
        draws = list(group)
        if batch and len(batch) + len(draws) > rows:
            yield batch
            batch = []
        batch += draws
    if batch:
        yield batch


@torch.inference_mode()
def draw_batch(
    model: Any, requests: list[Request], settings: SamplingSettings, seed: int, stops: list[int], rows: int
) -> Iterator[Draw]:
    """Draw all texts of a batch, at most `rows` prefixes at a time; yields them in the order in which they end."""
    prompts = {request.prompt_id: request.prompt for request in requests}
    row_of = {prompt_id: row for row, prompt_id in enumerate(prompts)}
    node = np.array([row_of[request.prompt_id] for request in requests])
    uniform = np.stack([stream(seed, "draw", r.prompt_id, r.draw).random(settings.max_new_tokens) for r in requests])
    tokens: list[list[int]] = [[] for _ in requests]
    waiting = [(Prefixes.of(model, list(prompts.values())), node, np.arange(len(requests)))]
    while waiting:
        prefixes, node, alive = waiting.pop()
        step = len(tokens[alive[0]])
        chosen = _invert(next_token_law(prefixes.logits, settings), node, uniform[alive, step])
        stopped = np.isin(chosen, stops)
        for index in alive[stopped]:
            yield Draw(requests[index], tokens[index], True)
        alive, node, chosen = alive[~stopped], node[~stopped], chosen[~stopped]
        for index, token in zip(alive, chosen, strict=True):
            tokens[index].append(int(token))
        if step + 1 == settings.max_new_tokens:
            yield from (Draw(requests[index], tokens[index], False) for index in alive)
        elif len(alive):
            waiting += _branch(prefixes, node, chosen, alive, rows)


def _branch(
    prefixes: Prefixes, node: np.ndarray, token: np.ndarray, alive: np.ndarray, rows: int
) -> Iterator[tuple[Prefixes, np.ndarray, np.ndarray]]:
    """Append each draw's token; draws with the same tokens so far become one row, and too many rows are split."""
    pairs, row = np.unique(np.stack([node, token]), axis=1, return_inverse=True)
    for first in range(0, pairs.shape[1], rows):
        parents, tokens = torch.from_numpy(pairs[:, first : first + rows]).to(prefixes.mask.device)
        here = (row >= first) & (row < first + rows)
        same = len(parents) == len(prefixes.mask) == pairs.shape[1] and bool((parents.diff() == 1).all())
        below = prefixes if same else prefixes.select(parents)
        below.advance(tokens)
        yield below, row[here] - first, alive[here]


def next_token_law(logits: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """[rows, vocabulary] float64 probabilities at the settings' temperature, within the top-p nucleus."""
    law = (logits.float() / settings.temperature).softmax(-1).double()
    if settings.top_p < 1:
        ordered, index = law.sort(dim=-1, descending=True)
        # A token stays when the mass before it has not yet reached top_p.
        outside = ordered.cumsum(-1) - ordered >= settings.top_p
        law = law.scatter(-1, index, ordered.masked_fill(outside, 0))
    return law / law.sum(-1, keepdim=True)


def _invert(law: torch.Tensor, node: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The token of each draw: the inverse of its row's cumulative law at its uniform number."""
    cumulative = law.cumsum(-1)
    order = np.argsort(node, kind="stable")
    counts = np.bincount(node, minlength=len(law))
    slot = np.empty(len(node), np.int64)
    slot[order] = np.arange(len(node)) - np.repeat(np.cumsum(counts) - counts, counts)
    wanted = np.zeros((len(law), counts.max()))
    wanted[node, slot] = uniform
    scaled = torch.from_numpy(wanted).to(law.device) * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, scaled, right=True).clamp(max=law.shape[1] - 1)
    return token.cpu().numpy()[node, slot]
