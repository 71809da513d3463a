"""Draw texts from a model: one function, `sample`, whatever the engine.

The transformers engine draws by inverting the law of the next token with one uniform number per (prompt, draw, token).
These numbers come from a stable hash, so a draw does not depend on which others are asked for; and draws of a prompt
that have the same tokens so far share one row of the forward pass, which is exact and saves most of the work.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
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
from cft.provenance import write_table
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
    journal = Journal(out, {**facts["source"], **settings.model_dump(), **identity, "seed": seed, "adapter": str(adapter)})
    todo = [request for request in requests if (request.prompt_id, request.draw) not in journal.done]
    with Progress("sample", len(requests), "draws") as progress:
        progress.update(len(requests) - len(todo))
        for batch in batches(todo, cache_tokens, settings.max_new_tokens):
            draws = list(draw_batch(model, batch, settings, seed, stops))
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
        self.path.write_text(first + "".join(json.dumps(row) + "\n" for row in self.done.values()), encoding="utf-8")

    def add(self, rows: Iterator[dict[str, Any]]) -> None:
        new = list(rows)
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
        self.done.update({(row["prompt_id"], row["draw"]): row for row in new})

    def remove(self) -> None:
        self.path.unlink()


def batches(requests: list[Request], cache_tokens: int, max_new_tokens: int) -> Iterator[list[Request]]:
    """Cut requests, in order, so that a batch's key-value cache holds at most `cache_tokens` tokens at its end."""
    batch: list[Request] = []
    longest = 0
    for request in requests:
        longest = max(longest, len(request.prompt) + max_new_tokens)
        if batch and (len(batch) + 1) * longest > cache_tokens:
            yield batch
            batch, longest = [], len(request.prompt) + max_new_tokens
        batch.append(request)
    if batch:
        yield batch


@torch.inference_mode()
def draw_batch(
    model: Any, requests: list[Request], settings: SamplingSettings, seed: int, stops: list[int]
) -> Iterator[Draw]:
    """Draw all texts of a batch; yields them in the order in which they end."""
    prompts = {request.prompt_id: request.prompt for request in requests}
    prefixes = Prefixes.of(model, list(prompts.values()))
    row_of = {prompt_id: row for row, prompt_id in enumerate(prompts)}
    node = np.array([row_of[request.prompt_id] for request in requests])
    uniform = np.stack([stream(seed, "draw", r.prompt_id, r.draw).random(settings.max_new_tokens) for r in requests])
    tokens: list[list[int]] = [[] for _ in requests]
    alive = np.arange(len(requests))
    for step in range(settings.max_new_tokens):
        chosen = _invert(next_token_law(prefixes.logits, settings), node, uniform[alive, step])
        stopped = np.isin(chosen, stops)
        for index in alive[stopped]:
            yield Draw(requests[index], tokens[index], True)
        alive, node, chosen = alive[~stopped], node[~stopped], chosen[~stopped]
        for index, token in zip(alive, chosen, strict=True):
            tokens[index].append(int(token))
        if not len(alive) or step + 1 == settings.max_new_tokens:
            break
        # Draws with the same tokens so far become one row.
        pairs, node = np.unique(np.stack([node, chosen]), axis=1, return_inverse=True)
        if not np.array_equal(pairs[0], np.arange(len(prefixes.mask))):
            prefixes = prefixes.select(torch.from_numpy(pairs[0]).to(model.device))
        prefixes.advance(torch.from_numpy(pairs[1]).to(model.device))
    for index in alive:
        yield Draw(requests[index], tokens[index], False)


def next_token_law(logits: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """[rows, vocabulary] float64 probabilities at the settings' temperature, cut to the top-p nucleus."""
    law = (logits.double() / settings.temperature).softmax(-1)
    if settings.top_p < 1:
        ordered, index = law.sort(dim=-1, descending=True)
        # A token stays when the mass before it has not yet reached top_p.
        outside = ordered.cumsum(-1) - ordered >= settings.top_p
        law = law.scatter(-1, index, ordered.masked_fill(outside, 0))
    return law


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
