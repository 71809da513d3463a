"""The loss of soft and hard targets, and the batches it is computed on (arXiv 2605.11845).

A hard target is a law with all mass on the drawn token. Every label row carries its own weight, normalised over the
whole effective batch, so that the sum over micro-batches is exactly the loss of the batch, however it is cut.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import torch

from cft import chat
from cft.attention import mask, use_blocks
from cft.loss import law_loss
from cft.method_settings import FinetuneMethod
from cft.model_settings import ChatSettings
from cft.packed import pack
from cft.prefix import logits_only_at
from cft.provenance import read_table
from cft.trie import Trie, build_trie

Micro = dict[str, torch.Tensor]
Laws = list[tuple[np.ndarray, np.ndarray]]  # tokens and their probabilities, for each label


def batch_loss(model: Any, micro: Micro, temperature: float = 1.0) -> torch.Tensor:
    """The loss of one micro-batch; every prefix of its prompts and values is computed once."""
    use_blocks(model)
    with logits_only_at(model, micro["labelled"][None]):
        output = model(
            input_ids=micro["tokens"][None],
            attention_mask=mask(model, micro["seen"], micro["keys"], micro["position"]),
            position_ids=micro["position"][None],
            use_cache=False,
            blocks=micro["keys"],
        )
    place, labels = micro["place"], (micro["row"], micro["token"], micro["probability"])
    return law_loss(output.logits.flatten(0, 1), place, *labels, micro["weight"], temperature)


def _part(items: list[Any], index: int, parts: int) -> list[Any]:
    """One of so many stretches of a list, all of about the same length."""
    return items[index * len(items) // parts : (index + 1) * len(items) // parts]


class Batches(torch.utils.data.Dataset):
    """The effective batches of a run in order; each item is a list of micro-batches of at most `micro` values.

    share    which of so many processes this is; each gets as many micro-batches as the others, and no value twice
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Any,
        chat_settings: ChatSettings,
        method: FinetuneMethod,
        micro: int,
        share: tuple[int, int] = (0, 1),
    ):
        self.tokenizer, self.chat, self.method, self.micro, self.share = tokenizer, chat_settings, method, micro, share
        examples = read_table(folder / "examples.parquet", ["step", "prompt_id", "value"])
        self.steps = [
            list(zip(rows["prompt_id"], rows["value"], strict=True)) for _, rows in examples.groupby("step", sort=True)
        ]
        self.prompts = read_table(folder / "prompts.parquet", ["prompt_id", "prompt", "values"]).set_index("prompt_id")
        self.terminator = chat.terminator(tokenizer, self.chat)
        for prompt_id, value in self.steps[0]:
            chat.check_boundary(tokenizer, self.prompts.at[prompt_id, "prompt"], value, self.chat)
        self._prompt_tokens = lru_cache(maxsize=None)(self._tokenize_prompt)
        self._trie = lru_cache(maxsize=None)(self._build_trie)
        self._labels = lru_cache(maxsize=8192)(self._label)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> list[Micro]:
        values = [(prompt_id, *self._labels(prompt_id, value)) for prompt_id, value in self.steps[step]]
        count = sum(len(tokens) for _, tokens, _ in values)
        by_value = self.method.average == "value"
        weights = [1 / (len(values) * len(tokens)) if by_value else 1 / count for _, tokens, _ in values]
        process, processes = self.share
        own = _part(list(zip(values, weights, strict=True)), process, processes)
        rounds = math.ceil(math.ceil(len(values) / processes) / self.micro)
        # Where others have a round more, this process computes a value of no weight: they wait for each other.
        own += [(values[0], 0.0)] * (rounds - len(own))
        parts = (_part(own, i, rounds) for i in range(rounds))
        return [self._micro([value for value, _ in part], [weight for _, weight in part]) for part in parts]

    def _label(self, prompt_id: str, value: str) -> tuple[np.ndarray, Laws]:
        """A value's tokens, terminator included, and the law that labels each of them."""
        match self.method.labels:
            case "law":
                return self._law(prompt_id, value)
            case "mixed":
                weight = self.method.law_weight
                tokens, laws = self._law(prompt_id, value)
                return tokens, [
                    (ids, weight * law + (1 - weight) * (ids == drawn))
                    for drawn, (ids, law) in zip(tokens, laws, strict=True)
                ]
            case "draw":
                tokens = np.append(chat.tokenize_values(self.tokenizer, [value])[0], self.terminator)
                return tokens, [(tokens[i : i + 1], np.ones(1)) for i in range(len(tokens))]
        assert_never(self.method.labels)

    def _law(self, prompt_id: str, value: str) -> tuple[np.ndarray, Laws]:
        trie, row_of = self._trie(prompt_id)
        row = row_of[value]
        return trie.tokens[row, : trie.lengths[row]], trie.laws_along(row)

    def _tokenize_prompt(self, prompt_id: str) -> list[int]:
        return chat.prompt_tokens(self.tokenizer, self.prompts.at[prompt_id, "prompt"], self.chat)

    def _build_trie(self, prompt_id: str) -> tuple[Trie, dict[str, int]]:
        target = self.prompts.loc[prompt_id]
        tokens = chat.tokenize_values(self.tokenizer, list(target["values"]))
        trie = build_trie(tokens, target["probabilities"], self.terminator)
        return trie, dict(zip(target["values"], trie.row.tolist(), strict=True))

    def _micro(self, values: Sequence[Any], weights: Sequence[float]) -> Micro:
        return micro_batch([(self._prompt_tokens(prompt_id), *value) for prompt_id, *value in values], weights)


def micro_batch(values: Sequence[tuple[Sequence[int], np.ndarray, Laws]], weights: Sequence[float]) -> Micro:
    """What `batch_loss` takes.

    values     the tokens of the prompt, those of the value with its terminator, and a law for each of the latter
    weights    of each label of a value
    """
    sequences = [[*prompt, *tokens[:-1].tolist()] for prompt, tokens, _ in values]
    packed = pack(sequences)
    # The token before a value's first predicts it, and so on to the one before its terminator.
    slots = [own[len(prompt) - 1 :] for (prompt, _, _), own in zip(values, packed.slots, strict=True)]
    chosen, place = np.unique(np.concatenate(slots), return_inverse=True)
    laws = [law for _, _, laws in values for law in laws]
    arrays = {
        "tokens": packed.tokens,
        "position": packed.position,
        "keys": packed.keys,
        "seen": packed.seen,
        "labelled": np.isin(np.arange(packed.tokens.size), chosen),
        "place": place,
        "row": np.repeat(np.arange(len(laws)), [len(ids) for ids, _ in laws]),
        "token": np.concatenate([ids for ids, _ in laws]),
        "probability": np.concatenate([p for _, p in laws]),
        "weight": np.repeat(weights, [len(tokens) for _, tokens, _ in values]),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
