"""How likely a model finds given answers to prompts: each prompt is computed once for all its answers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from cft import CftError
from cft.prefix import Prefixes

Pair = tuple[Any, list[int], list[int]]  # the texts (unused), tokens of the prompt, tokens of an answer


def batches(requests: list[Pair], cache_tokens: int) -> Iterator[list[int]]:
    """Cut the places of requests into batches of whole prompts, long ones first, of at most so many tokens or one."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, (_, prompt, _) in enumerate(requests):
        groups.setdefault(tuple(prompt), []).append(place)
    longest, batch = 0, list[int]()
    for prompt, places in sorted(groups.items(), key=lambda group: -len(group[0])):
        length = len(prompt) + max(len(requests[place][2]) for place in places)
        longest = max(longest, length)
        if batch and (len(batch) + len(places)) * longest > cache_tokens:
            yield batch
            batch, longest = [], length
        batch += places
    if batch:
        yield batch


@torch.inference_mode()
def log_likelihoods(model: Any, requests: list[Pair]) -> list[tuple[float, bool]]:
    """log p (nats) of each answer after its prompt, and whether it is the likeliest token at every place."""
    prompts = {tuple(prompt): None for _, prompt, _ in requests}
    place = {prompt: row for row, prompt in enumerate(prompts)}
    rows = torch.tensor([place[tuple(prompt)] for _, prompt, _ in requests], device=model.device)
    lengths = np.array([len(answer) for _, _, answer in requests])
    tokens = np.zeros((len(requests), lengths.max()), np.int64)
    there = np.arange(tokens.shape[1]) < lengths[:, None]
    tokens[there] = [token for _, _, answer in requests for token in answer]
    read, mask = (torch.from_numpy(part).to(model.device) for part in (tokens, there.astype(np.int64)))
    known = Prefixes.of(model, list(map(list, prompts)))
    logits = known.logits[rows]
    if tokens.shape[1] > 1:
        logits = torch.cat([logits, known.select(rows).extend(read[:, :-1], mask[:, 1:])])
    # The logits of all first tokens, then those of the others answer by answer.
    wanted = torch.cat([read[:, 0], read[:, 1:][mask[:, 1:].bool()]])
    answer = np.concatenate([np.arange(len(requests)), np.repeat(np.arange(len(requests)), lengths - 1)])
    logits = logits if logits.dtype == torch.float64 else logits.float()
    each = (logits.gather(-1, wanted[:, None])[:, 0] - logits.logsumexp(-1)).double().cpu().numpy()
    if np.isnan(each).any():
        raise CftError("probabilities that are no numbers; the weights or the dtype are wrong")
    other = (logits.argmax(-1) != wanted).cpu().numpy()
    sums, others = (np.bincount(answer, part, len(requests)) for part in (each, other))
    return [(float(total), not count) for total, count in zip(sums, others, strict=True)]
