"""The loss of soft and hard targets: label rows of next-token laws against a model's logits (arXiv 2605.11845)."""

from typing import Any

import torch

from cft.memory import PART
from cft.trie import FLOOR


def law_loss(
    logits: torch.Tensor,
    place: torch.Tensor,
    row: torch.Tensor,
    token: torch.Tensor,
    probability: torch.Tensor,
    weight: torch.Tensor,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Weighted sum of KL(target law || softmax(logits / temperature)) over label rows, in nats.

    logits       [places, vocabulary]; the backward pass writes their gradient in their place
    place        [rows] the place that a row labels; several may label the same
    row, token   [entries] the label row and token of each entry of the laws, row by row
    probability  [entries] floored at FLOOR and renormalised within a row (a one-hot law gives the cross-entropy)
    weight       [rows]
    """
    log_model: Any = _LogProbabilities.apply(logits, place[row], token, temperature)
    target = probability.to(log_model.dtype).clamp(min=FLOOR)
    total = torch.zeros(len(place), dtype=target.dtype, device=logits.device).index_add(0, row, target)
    target = target / total[row]
    return (weight.to(target.dtype)[row] * target * (target.log() - log_model)).sum()


class _LogProbabilities(torch.autograd.Function):
    """[entries] log softmax(logits / temperature) at a place and token each, in float32 at least.

    Only the logits are kept, and their gradient takes their place: with a large vocabulary each copy is much of what a
    step holds. PyTorch refuses a second backward pass, as for any tensor that is written over.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, place: torch.Tensor, token: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        precise = torch.promote_types(logits.dtype, torch.float32)
        total = torch.cat([_scaled(part, precise, temperature).logsumexp(-1) for part in _parts(logits)])
        ctx.save_for_backward(logits, place, token, total)
        ctx.temperature = temperature
        return logits[place, token].to(precise) / temperature - total[place]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        logits, place, token, total = ctx.saved_tensors
        gradient = gradient / ctx.temperature
        mass = torch.zeros_like(total).index_put_((place,), gradient, accumulate=True)
        order = place.argsort()
        parts = _parts(logits)
        ends = torch.tensor([len(part) for part in parts], device=place.device).cumsum(0)
        counts = torch.searchsorted(place[order], ends).diff(prepend=ends.new_zeros(1)).tolist()
        start = 0
        for part, entries in zip(parts, order.split(counts), strict=True):
            own = slice(start, start + len(part))
            found = _scaled(part, total.dtype, ctx.temperature).sub_(total[own, None]).exp_().mul_(-mass[own, None])
            found.index_put_((place[entries] - start, token[entries]), gradient[entries], accumulate=True)
            part.copy_(found)
            start = own.stop
        return logits, None, None, None


def _parts(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Some rows each."""
    return logits.split(max(1, PART // logits.shape[1]))


def _scaled(part: torch.Tensor, precise: torch.dtype, temperature: float) -> torch.Tensor:
    """The part itself where that is it."""
    return part.to(precise) if temperature == 1 else part.to(precise, copy=True).div_(temperature)
