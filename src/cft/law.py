"""A model's own law, computed and not drawn.

Structured prompts: the exact expectation, over a target's whole trie, of the soft loss and of the sequence KL
(a few drawn paths say little of them), and bounds on the distances that draws estimate. Open-ended prompts: the
law of the first token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cft import chat
from cft.benchmark_settings import LawSettings, OpenEndedBenchmark, StructuredBenchmark
from cft.benchmarks.open_ended import THRESHOLDS, support_size
from cft.bounded import bounded
from cft.distributions import Registry
from cft.models import load_for_evaluation, load_tokenizer, published_ends, settings_of
from cft.perfect import trie_floor
from cft.prefix import Prefixes
from cft.progress import Progress
from cft.provenance import write_table
from cft.target import Target, for_prompt
from cft.trie import Level, Trie, build_trie

READ = {*LawSettings.model_fields, "max_new_tokens"}


@dataclass(frozen=True)
class TrieLaw:
    """A model against a target, exactly; all in nats.

    log_probability  [values] of each value, terminator included, as the whole output
    trie_kl          expected soft loss: KL(target's next-token law || model's), mean over a drawn value's tokens
    sequence_kl      KL(target || model) over whole outputs = support_nll + kl_within_support
    support_nll      -log P(the output is a value of the support)
    forward_tokens   tokens computed after the prompt
    """

    log_probability: np.ndarray
    trie_kl: float
    sequence_kl: float
    support_nll: float
    kl_within_support: float
    forward_tokens: int


def trie_law(prompt: Prefixes, trie: Trie, rows: int, temperature: float = 1.0) -> TrieLaw:
    """The law of the model after `prompt` (one row) on all values of `trie`, its logits divided by `temperature`.

    Walks the trie from the root, `rows` prefixes at a time: only the caches along one path of chunks are alive.
    """
    levels, steps, forward = _log_steps(prompt, trie, rows, [temperature])
    log_probability = np.empty(len(trie.probability))
    before = np.zeros(1)
    for level, (log_step,) in zip(levels, steps, strict=True):
        path = before[level.parent] + log_step
        ended = level.token == trie.terminator
        log_probability[trie.order[level.start[ended]]] = path[ended]
        before = path
    target = np.empty(len(trie.probability))
    target[trie.order] = trie.probability
    some = target > 0
    sequence = float((target[some] * (np.log(target[some]) - log_probability[some])).sum())
    missed = -float(np.logaddexp.reduce(log_probability))
    soft = trie.soft_loss(levels, [step for (step,) in steps])
    return TrieLaw(log_probability, soft, sequence, missed, sequence - missed, forward)


def expected_nll(prompt: Prefixes, trie: Trie, rows: int, temperatures: Sequence[float]) -> np.ndarray:
    """[temperatures] the target's expectation of -log P(value, terminator) in nats, all from one walk of the trie.

    A prefix counts with the mass of the values through it. Convex in 1/temperature: each term is a log-sum-exp of
    logits/temperature minus one of them.
    """
    levels, steps, _ = _log_steps(prompt, trie, rows, temperatures)
    total = np.zeros(len(temperatures))
    for level, step in zip(levels, steps, strict=True):
        some = level.mass > 0
        total -= step[:, some] @ level.mass[some]
    return total


def rows_within(cache_tokens: int, prompt: list[int], trie: Trie) -> int:
    """How many prefixes of a trie may be computed at a time: of every level a chunk of caches may be alive."""
    levels = int(trie.lengths.max())
    return max(1, cache_tokens // (levels * (len(prompt) + levels)))


def _log_steps(
    prompt: Prefixes, trie: Trie, rows: int, temperatures: Sequence[float]
) -> tuple[list[Level], list[np.ndarray], int]:
    """The trie's levels, the log-probability of each prefix's last token [temperatures, nodes], tokens computed."""
    levels = list(trie.levels())
    steps = [np.full((len(temperatures), len(level.token)), np.nan) for level in levels]
    forward = _walk(prompt, np.zeros(1, int), 0, levels, trie.terminator, rows, temperatures, steps)
    return levels, steps, forward


def _walk(
    prefixes: Prefixes,
    nodes: np.ndarray,
    depth: int,
    levels: list[Level],
    end: int,
    rows: int,
    temperatures: Sequence[float],
    steps: list[np.ndarray],
) -> int:
    """Fill `steps` with the log-probabilities of all tokens below `nodes`; returns the number of tokens computed.

    `nodes` [n] are the unfinished prefixes of a stretch of one level, row i of `prefixes` is nodes[i].
    """
    level = levels[depth]
    low, high = np.searchsorted(level.parent, [nodes[0], nodes[-1] + 1])
    parent = torch.from_numpy(np.searchsorted(nodes, level.parent[low:high])).to(prefixes.mask.device)
    token = torch.from_numpy(level.token[low:high]).to(prefixes.mask.device)
    logits = prefixes.logits if prefixes.logits.dtype == torch.float64 else prefixes.logits.float()
    # One temperature after the other: a copy of a chunk's logits for each of them would not fit.
    step = torch.stack([_log_laws(logits, parent, token, temperature) for temperature in temperatures])
    steps[depth][:, low:high] = step.double().cpu().numpy()
    unfinished, computed = torch.nonzero(token != end)[:, 0], 0
    del logits, step  # not kept while all below is computed
    for chunk in unfinished.split(rows) if len(unfinished) else ():
        below = prefixes.select(parent[chunk])
        below.advance(token[chunk])
        computed += len(chunk) + _walk(
            below, low + chunk.cpu().numpy(), depth + 1, levels, end, rows, temperatures, steps
        )
    return computed


def _log_laws(logits: torch.Tensor, row: torch.Tensor, token: torch.Tensor, temperature: float) -> torch.Tensor:
    """[n] the log-probability of each `token` [n] in a `row` [n] of `logits`."""
    scaled = logits if temperature == 1 else logits / temperature
    return scaled[row, token] - scaled.logsumexp(-1)[row]


def write_law(
    settings: StructuredBenchmark | OpenEndedBenchmark,
    prompts: pd.DataFrame,
    registry: Registry,
    model_folder: Path,
    adapter: Path | None,
    identity: dict[str, Any],
    cache_tokens: int,
    out: Path,
    temperature: float = 1.0,
) -> None:
    """Write the law of every prompt (columns prompt_id, prompt) to a parquet file; `identity` fills more columns.

    temperature    divides the logits everywhere; the benchmark's own is that of draws, and is not used
    """
    tokenizer = load_tokenizer(model_folder)
    chat_settings = settings_of(model_folder).chat
    tokens = [chat.prompt_tokens(tokenizer, text, chat_settings) for text in prompts["prompt"]]
    model, facts = load_for_evaluation(model_folder, adapter, tokens[0])
    ends = chat.stops(tokenizer, chat_settings, published_ends(model_folder))
    records = []
    with torch.inference_mode(), Progress("law", len(tokens), "prompts") as progress:
        for prompt_id, prompt in zip(prompts["prompt_id"], tokens, strict=True):
            start = Prefixes.of(model, [prompt])
            if isinstance(settings, StructuredBenchmark):
                target = for_prompt(registry, prompt_id, settings.decimals, settings.max_bins)
                trie = build_trie(chat.tokenize_values(tokenizer, target.values), target.probabilities, ends[0])
                rows, (family, parameters) = rows_within(cache_tokens, prompt, trie), registry.parse(prompt_id)
                record = on_target(start, trie, target, rows, temperature)
                record["trie_kl_floor"] = trie_floor(tokenizer, trie, target.values, family.frozen(parameters))
                record |= bounded(start, tokenizer, ends, prompt_id, target, registry, settings, rows, temperature)
            else:
                record = _first_token(start, temperature)
            records.append({**identity, "prompt_id": prompt_id, **record})
            progress.update()
    facts |= {"benchmark": settings.model_dump(include=READ), "identity": identity, "temperature": temperature}
    write_table(pd.DataFrame(records), out, **facts)


def on_target(start: Prefixes, trie: Trie, target: Target, rows: int, temperature: float = 1.0) -> dict[str, Any]:
    """Columns of one prompt, the only row of `start`: support_probability, trie_kl, sequence_kl, …, law [values]."""
    law = trie_law(start, trie, rows, temperature)
    return {
        "support_probability": math.exp(-law.support_nll),
        "trie_kl": law.trie_kl,
        "sequence_kl": law.sequence_kl,
        "support_nll": law.support_nll,
        "kl_within_support": law.kl_within_support,
        "forward_tokens": law.forward_tokens,
        "values": target.values,
        "target": target.probabilities,
        "law": np.exp(law.log_probability),
    }


def _first_token(start: Prefixes, temperature: float) -> dict[str, Any]:
    probability = (start.logits[0].double() / temperature).softmax(-1).cpu().numpy()
    sizes = support_size(probability, THRESHOLDS)
    return {f"support_size_{threshold}": float(size) for threshold, size in zip(THRESHOLDS, sizes, strict=True)}
