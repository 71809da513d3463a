"""Prompts computed once, and their key-value caches shared by everything that continues them.

Sampling and the exact law continue each prompt with a tree of next tokens; training has cft.packed. Prompts are
padded on the left, so that distances between tokens are those of the unpadded sequence and sliding windows hold.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Prefixes:
    """A batch of token prefixes whose caches are known, and the logits of their next tokens.

    logits    [rows, vocabulary] of the token after each prefix
    mask      [rows, slots] 1 where a slot of the cache holds a token, 0 for padding
    position  [rows] position of the next token
    """

    def __init__(self, model: Any, cache: Any, mask: torch.Tensor, position: torch.Tensor, logits: torch.Tensor):
        self.model, self.cache, self.mask, self.position, self.logits = model, cache, mask, position, logits

    @classmethod
    def of(cls, model: Any, prompts: list[list[int]]) -> "Prefixes":
        """Compute `prompts` (token lists of any lengths, none empty)."""
        tokens, mask = left_padded(prompts, model.device)
        position = (mask.cumsum(-1) - 1).clamp(min=0)
        output = model(input_ids=tokens, attention_mask=mask, position_ids=position, use_cache=True, logits_to_keep=1)
        return cls(model, output.past_key_values, mask, mask.sum(-1), output.logits[:, -1])

    def select(self, rows: torch.Tensor) -> "Prefixes":
        """The prefixes of `rows` [n], repeats allowed; this batch stays usable, gradients flow to it."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        cache.batch_select_indices(rows)
        return Prefixes(self.model, cache, self.mask[rows], self.position[rows], self.logits[rows])

    def extend(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Continue every prefix with `tokens` [rows, length], padded on the right where `mask` is 0.

        Returns the logits after each unpadded token, row by row [tokens, vocabulary]. The cache grows in place.
        """
        mask = torch.ones_like(tokens) if mask is None else mask
        self.mask = torch.cat([self.mask, mask], dim=1)
        position = self.position[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        with logits_only_at(self.model, mask.bool()):
            output = self.model(
                input_ids=tokens,
                attention_mask=self.mask,
                position_ids=position,
                past_key_values=self.cache,
                use_cache=True,
            )
        self.position = self.position + mask.sum(-1)
        return output.logits[0]

    def advance(self, tokens: torch.Tensor) -> None:
        """Append one token [rows] to each prefix and update the logits."""
        self.logits = self.extend(tokens[:, None])


def left_padded(prompts: list[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens of `prompts` [prompts, longest], and a mask that is 0 for padding."""
    longest = max(map(len, prompts))
    tokens = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return tokens.to(device), mask.to(device)


@contextmanager
def logits_only_at(model: Any, positions: torch.Tensor) -> Iterator[None]:
    """Let the model compute logits only at `positions` [rows, length], as if they were one row."""

    def pick(module: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        return (arguments[0][positions].unsqueeze(0),)

    inner = getattr(model, "module", model)  # within the wrapper of several processes
    handle = inner.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()
