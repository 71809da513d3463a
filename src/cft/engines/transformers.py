"""Draws by splitting counts down the tree of tokens, on any machine that runs transformers.

The draws of a prompt are exchangeable, so those with the same tokens so far share one row of the forward pass, and the
number that takes each next token is multinomial. Here it comes from inverting the cumulative law of the next token at
one uniform number per (prompt, draw, token): the same law, and a draw does not depend on which others are asked for.
Where texts are long and prefixes stop being shared, each draw has a row of its own: ordinary batched decoding.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch

from cft import CftError
from cft.benchmark_settings import SamplingSettings
from cft.engines import Draw, Job, Request
from cft.models import load_for_evaluation
from cft.prefix import Prefixes
from cft.streams import stream


class TreeSampler:
    """The engine; at most `rows` prefixes are computed at a time."""

    def __init__(self, job: Job):
        self.job = job
        self.rows = max(1, job.cache_tokens // job.longest)
        self.model, self.facts = load_for_evaluation(job.model, job.adapter, next(iter(job.prompts.values())))

    def draw(self, requests: list[Request]) -> Iterator[Draw]:
        try:
            for batch in batches(requests, self.rows):
                yield from draw_batch(self.model, batch, self.job, self.rows)
        except torch.OutOfMemoryError:
            raise CftError(
                f"out of memory with {self.job.cache_tokens} tokens of key-value cache: lower the model's cache_tokens"
            )


def start(job: Job) -> TreeSampler:
    return TreeSampler(job)


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
def draw_batch(model: Any, requests: list[Request], job: Job, rows: int) -> Iterator[Draw]:
    """Draw all texts of a batch, at most `rows` prefixes at a time; yields them in the order in which they end."""
    limit = job.settings.max_new_tokens
    prompts = {request.prompt_id: request.prompt for request in requests}
    row_of = {prompt_id: row for row, prompt_id in enumerate(prompts)}
    node = np.array([row_of[request.prompt_id] for request in requests])
    uniform = np.stack([stream(job.seed, "draw", r.prompt_id, r.draw).random(limit) for r in requests])
    tokens: list[list[int]] = [[] for _ in requests]
    alive = np.arange(len(requests))
    waiting: list[Callable[[], Branch]] = [lambda: (Prefixes.of(model, list(prompts.values())), node, alive)]
    while waiting:
        # A branch is computed when its turn comes: only the caches along one path of the tree are in memory.
        prefixes, node, alive = waiting.pop()()
        step = len(tokens[alive[0]])
        chosen = _invert(next_token_law(prefixes.logits, job.settings), node, uniform[alive, step])
        finished = np.isin(chosen, job.stops)
        for index, token in zip(alive[~finished], chosen[~finished], strict=True):
            tokens[index].append(int(token))
        if job.settings.stop:
            finished |= [job.stops_at(tokens[index]) for index in alive]
        ended = finished | (step + 1 == limit)
        yield from (
            Draw(requests[index], tokens[index], bool(by_itself))
            for index, by_itself in zip(alive[ended], finished[ended], strict=True)
        )
        if not ended.all():
            waiting += _branches(prefixes, node[~ended], chosen[~ended], alive[~ended], rows)


Branch = tuple[Prefixes, np.ndarray, np.ndarray]  # prefixes, the row of each draw among them, the draws


def _branches(
    prefixes: Prefixes, node: np.ndarray, token: np.ndarray, alive: np.ndarray, rows: int
) -> Iterator[Callable[[], Branch]]:
    """Append each draw's token; draws with the same tokens so far become one row, and too many rows are split."""
    pairs, row = np.unique(np.stack([node, token]), axis=1, return_inverse=True)
    for first in range(0, pairs.shape[1], rows):
        here = (row >= first) & (row < first + rows)
        alone = pairs.shape[1] <= rows
        yield partial(_extend, prefixes, pairs[:, first : first + rows], row[here] - first, alive[here], alone)


def _extend(prefixes: Prefixes, pairs: np.ndarray, node: np.ndarray, alive: np.ndarray, alone: bool) -> Branch:
    """The branch of `pairs` [2, rows]: which prefix, which next token. Unless it is `alone`, others need `prefixes`."""
    parents, tokens = torch.from_numpy(pairs).to(prefixes.mask.device)
    if not (alone and len(parents) == len(prefixes.mask) and bool((parents.diff() == 1).all())):
        prefixes = prefixes.select(parents)
    prefixes.advance(tokens)
    return prefixes, node, alive


def next_token_law(logits: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """[rows, vocabulary] float64 probabilities at the settings' temperature, within the top-p nucleus."""
    law = (logits.float() / settings.temperature).softmax(-1).double()
    if settings.top_p < 1:
        ordered, index = law.sort(dim=-1, descending=True)
        # A token stays when the mass before it has not yet reached top_p.
        outside = ordered.cumsum(-1) - ordered >= settings.top_p
        law = law.scatter(-1, index, ordered.masked_fill(outside, 0))
    mass = law.sum(-1, keepdim=True)
    if not mass.isfinite().all():
        raise CftError("probabilities that are no numbers; the weights or the dtype are wrong")
    return law / mass


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
