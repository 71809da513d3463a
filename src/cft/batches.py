"""The loss of soft and hard targets, and the batches it is computed on (paper section 3).

A hard target is a law with all mass on the drawn token. Every label row carries its own weight, normalised over the
whole effective batch, so that the sum over micro-batches is exactly the loss of the batch, however it is cut.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cft import chat
from cft.method_settings import FinetuneMethod
from cft.model_settings import ChatSettings
from cft.prefix import Prefixes, common_start, has_window, left_padded, logits_only_at
from cft.provenance import read_table
from cft.trie import Trie, build_trie

FLOOR = 1e-8  # smallest probability of a token of a target's law, as in the released code

Micro = dict[str, Any]


def law_loss(
    logits: torch.Tensor,
    row: torch.Tensor,
    token: torch.Tensor,
    probability: torch.Tensor,
    weight: torch.Tensor,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Weighted sum of KL(target law || softmax(logits / temperature)) over label rows, in nats.

    logits       [rows, vocabulary]
    row, token   [entries] the label row and token of each entry of the laws, row by row
    probability  [entries] floored at FLOOR and renormalised within a row (a one-hot law gives the cross-entropy)
    weight       [rows]
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    logits = logits / temperature
    target = probability.to(logits.dtype).clamp(min=FLOOR)
    total = torch.zeros(len(logits), dtype=logits.dtype, device=logits.device).index_add(0, row, target)
    target = target / total[row]
    log_model = logits[row, token] - logits.logsumexp(-1)[row]
    return (weight.to(logits.dtype)[row] * target * (target.log() - log_model)).sum()


def batch_loss(model: Any, micro: Micro, temperature: float = 1.0, whole: bool = False) -> torch.Tensor:
    """The loss of one micro-batch: the start of all prompts once, each prompt's rest once for all of its values.

    whole    every value with a copy of its prompt, without a cache: what gradient checkpointing can compute twice
    """
    if whole:
        logits = _whole_sequences(model, micro)
    else:
        common = 0 if has_window(model) else micro["common"]
        values = Prefixes.of(model, micro["prompts"], common).select(micro["prompt_of"])
        first = values.logits
        logits = torch.cat([first, values.extend(micro["tokens"], micro["mask"])])
    return law_loss(logits, micro["row"], micro["token"], micro["probability"], micro["weight"], temperature)


def _whole_sequences(model: Any, micro: Micro) -> torch.Tensor:
    """[label rows, vocabulary] logits, in the order of the labels."""
    prompts, prompt_mask = left_padded(micro["prompts"], model.device)
    tokens = torch.cat([prompts[micro["prompt_of"]], micro["tokens"]], dim=1)
    mask = torch.cat([prompt_mask[micro["prompt_of"]], micro["mask"]], dim=1)
    labelled = mask.bool()
    labelled[:, : prompts.shape[1] - 1] = False  # a prompt's last token predicts the first of a value
    with logits_only_at(model, labelled):
        output = model(
            input_ids=tokens, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0), use_cache=False
        )
    first = torch.zeros(int(labelled.sum()), dtype=torch.bool, device=tokens.device)
    first[labelled.sum(-1).cumsum(0) - labelled.sum(-1)] = True
    return torch.cat([output.logits[0, first], output.logits[0, ~first]])


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
        # Of the whole batch, whatever this process's share: sharded models must all be called equally often.
        common = common_start([self._prompt_tokens(prompt_id) for prompt_id, _, _ in values])
        process, processes = self.share
        own = _part(list(zip(values, weights, strict=True)), process, processes)
        rounds = math.ceil(math.ceil(len(values) / processes) / self.micro)
        # Where others have a round more, this process computes a value of no weight: they wait for each other.
        own += [(values[0], 0.0)] * (rounds - len(own))
        parts = (_part(own, i, rounds) for i in range(rounds))
        return [self._micro([value for value, _ in part], [weight for _, weight in part], common) for part in parts]

    def _label(self, prompt_id: str, value: str) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """A value's tokens, terminator included, and the law that labels each of them."""
        if self.method.labels != "draw":
            trie, row_of = self._trie(prompt_id)
            row = row_of[value]
            tokens, laws = trie.tokens[row, : trie.lengths[row]], trie.laws_along(row)
            if self.method.labels == "mixed":
                weight = self.method.law_weight
                laws = [
                    (ids, weight * law + (1 - weight) * (ids == drawn))
                    for drawn, (ids, law) in zip(tokens, laws, strict=True)
                ]
            return tokens, laws
        tokens = np.append(chat.tokenize_values(self.tokenizer, [value])[0], self.terminator)
        return tokens, [(tokens[i : i + 1], np.ones(1)) for i in range(len(tokens))]

    def _tokenize_prompt(self, prompt_id: str) -> list[int]:
        return chat.prompt_tokens(self.tokenizer, self.prompts.at[prompt_id, "prompt"], self.chat)

    def _build_trie(self, prompt_id: str) -> tuple[Trie, dict[str, int]]:
        target = self.prompts.loc[prompt_id]
        tokens = chat.tokenize_values(self.tokenizer, list(target["values"]))
        trie = build_trie(tokens, target["probabilities"], self.terminator)
        return trie, dict(zip(target["values"], trie.row.tolist(), strict=True))

    def _micro(self, values: Sequence[Any], weights: Sequence[float], common: int) -> Micro:
        prompt_ids = list(dict.fromkeys(prompt_id for prompt_id, _, _ in values))
        lengths = np.array([len(tokens) for _, tokens, _ in values])
        tokens = np.zeros((len(values), lengths.max() - 1), np.int64)
        mask = np.arange(tokens.shape[1]) < lengths[:, None] - 1
        tokens[mask] = np.concatenate([t[:-1] for _, t, _ in values])
        # Rows of the logits: first the first token of every value, then the others value by value.
        laws = [laws[0] for _, _, laws in values] + [law for _, _, laws in values for law in laws[1:]]
        weight = np.concatenate([weights, np.repeat(weights, lengths - 1)])
        return {
            "prompts": [self._prompt_tokens(prompt_id) for prompt_id in prompt_ids],
            "common": common,
            "prompt_of": torch.tensor([prompt_ids.index(prompt_id) for prompt_id, _, _ in values]),
            "tokens": torch.from_numpy(tokens),
            "mask": torch.from_numpy(mask.astype(np.int64)),
            "row": torch.from_numpy(np.repeat(np.arange(len(laws)), [len(ids) for ids, _ in laws])),
            "token": torch.from_numpy(np.concatenate([ids for ids, _ in laws])),
            "probability": torch.from_numpy(np.concatenate([p for _, p in laws])),
            "weight": torch.from_numpy(weight),
        }
