"""PALOMA: how well a model predicts texts of seven sources (arXiv 2605.11845).

Data    the test split of allenai/paloma: wikitext_103, c4_en, dolma-v1_5, mc4, ptb, redpajama, falcon-refinedweb; any
        other texts of the same layout, or a few that we make up
Metric  perplexity = exp(nats per scored token); bits per byte = nats of the scored tokens / ln 2 / bytes of the texts
Source  arXiv 2312.10523 (data), arXiv 2605.11845 (windows of 2,048 tokens); golden/windows.jsonl

Odd cases. A slice's figures come from sums over its documents, the figures of `all` from sums over the slices, so that
a long text counts more than a short one. A document of one token has bytes but no scored token. Texts of nothing but
white space count as documents and have neither; the authors' code leaves them out, which gives the same perplexity and
bits per byte. No special token is put before a text, as in the authors' code: models that were trained to
see one first (Gemma) look worse than they are, base and tuned alike. Perplexities per token compare methods of one
model, as another tokenizer has other tokens; bits per byte also compare models. Undefined figures are NaN.
"""

import math
from typing import Any

import pandas as pd

from cft.benchmarks import jsonable, tidy
from cft.distributions import Registry

COLUMNS = ("split", "file", "document", "tokens", "nats", "bytes")
METRICS = ("perplexity", "bits_per_byte", "tokens", "bytes", "documents")
SUMS = ["nats", "tokens", "bytes"]
ALL = "all"
BLOCKS = 100


def score(draws: pd.DataFrame, law: pd.DataFrame | None, registry: Registry) -> pd.DataFrame:
    """Tidy scores of measured documents (COLUMNS): METRICS of each slice, which is the split, and of all together.

    Documents are dealt in turn into BLOCKS blocks of their slice, fewer where it has fewer documents, the same ones
    whatever the model. Their sums of nats, tokens and bytes are the items block-00, block-01, …: from them differences
    between two methods are bootstrapped in pairs.
    """
    rows = [(ALL, ALL, metric, value) for metric, value in _figures(draws).items()]
    for split, documents in draws.groupby("split", sort=False):
        rows += [(str(split), ALL, metric, value) for metric, value in _figures(documents).items()]
        ordered = documents.sort_values(["file", "document"])
        for block in range(min(BLOCKS, len(ordered))):
            sums = zip(SUMS, _sums(ordered.iloc[block::BLOCKS]), strict=True)
            rows += [(str(split), f"block-{block:02d}", metric, value) for metric, value in sums]
    return tidy(rows)


def _sums(documents: pd.DataFrame) -> list[float]:
    """SUMS over documents; those of pandas would leave out what is NaN."""
    return [float(documents[column].to_numpy().sum()) for column in SUMS]


def _figures(documents: pd.DataFrame) -> dict[str, float]:
    nats, tokens, size = _sums(documents)
    return {
        "perplexity": _exp(nats / tokens) if tokens else math.nan,
        "bits_per_byte": nats / math.log(2) / size if size else math.nan,
        "tokens": tokens,
        "bytes": size,
        "documents": float(len(documents)),
    }


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def summary(draws: pd.DataFrame, registry: Registry) -> dict[str, Any]:
    """METRICS over all documents together, and in `slices` those of each slice; None where undefined."""
    slices = {str(split): _figures(documents) for split, documents in draws.groupby("split", sort=False)}
    return jsonable({**_figures(draws), "slices": slices})
