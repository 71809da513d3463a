"""PALOMA scores from measured documents, by hand."""

import math

import pandas as pd
import pytest

from cft.benchmarks import load, paloma

ROWS = [
    # split, file, document, tokens, nats, bytes
    ("ptb", "a", 1, 3, 6.0, 12),
    ("ptb", "a", 2, 1, 2.0, 4),
    ("ptb", "b", 1, 0, 0.0, 1),  # one token
    ("ptb", "b", 2, 0, 0.0, 0),  # empty
    ("mc4", "a", 1, 6, 4.0, 3),
]


def frame(rows=ROWS):
    return pd.DataFrame(rows, columns=list(paloma.COLUMNS))


def scored(draws, registry=None):
    scores = paloma.score(draws, None, registry)
    assert not scores.duplicated(["split", "item", "metric"]).any()
    return scores.set_index(["split", "item", "metric"])["value"]


def test_figures_of_each_slice_and_of_all(families):
    value = scored(frame(), families)
    assert value["ptb", "all", "perplexity"] == pytest.approx(math.exp(2))
    assert value["ptb", "all", "bits_per_byte"] == pytest.approx(8 / math.log(2) / 17)
    assert (value["ptb", "all", "tokens"], value["ptb", "all", "bytes"], value["ptb", "all", "documents"]) == (4, 17, 4)
    assert value["all", "all", "perplexity"] == pytest.approx(math.exp(12 / 10))
    assert value["all", "all", "bits_per_byte"] == pytest.approx(12 / math.log(2) / 20)
    assert value["all", "all", "documents"] == 5
    assert load("paloma").METRICS == ("perplexity", "bits_per_byte", "tokens", "bytes", "documents")


def test_a_uniform_law_over_bytes_is_eight_bits_per_byte():
    """If every byte but none is a token and each has probability 1/256."""
    value = scored(frame([("ptb", "a", 1, 1000, 1000 * math.log(256), 1000)]))
    assert value["ptb", "all", "bits_per_byte"] == pytest.approx(8)
    assert value["ptb", "all", "perplexity"] == pytest.approx(256)


def test_blocks_hold_each_document_once_and_do_not_depend_on_the_order_of_rows():
    rows = [("c4_en", file, number, number, 0.5 * number, 2 * number) for file in "ab" for number in range(1, 121)]
    value = scored(frame(rows))
    blocks = value.loc["c4_en"].drop("all", level="item").unstack()
    assert list(blocks.index) == [f"block-{block:02d}" for block in range(100)]
    assert blocks.sum().to_dict() == {"nats": 7260.0, "tokens": 14520.0, "bytes": 29040.0}
    # Rows 0, 100 and 200 of the files in order: documents 1 and 101 of a, 81 of b.
    assert blocks.loc["block-00", "tokens"] == 1 + 101 + 81
    assert scored(frame(rows[::-1])).sort_index().equals(value.sort_index())


def test_few_documents_make_few_blocks():
    value = scored(frame())
    items = {split: value.loc[split].index.get_level_values("item").unique().tolist() for split in ("ptb", "mc4")}
    assert items == {"ptb": ["all", "block-00", "block-01", "block-02", "block-03"], "mc4": ["all", "block-00"]}
    assert value["ptb", "block-03", "nats"] == 0 and value["ptb", "block-02", "bytes"] == 1


def test_undefined_figures_are_nan_and_large_ones_infinite():
    value = scored(frame([("ptb", "a", 1, 0, 0.0, 0), ("mc4", "a", 1, 0, 0.0, 1), ("c4_en", "a", 1, 1, 1e4, 1)]))
    assert math.isnan(value["ptb", "all", "perplexity"]) and math.isnan(value["ptb", "all", "bits_per_byte"])
    assert math.isnan(value["mc4", "all", "perplexity"]) and value["mc4", "all", "bits_per_byte"] == 0
    assert value["c4_en", "all", "perplexity"] == math.inf
    broken = scored(frame([("ptb", "a", 1, 2, math.nan, 3), ("ptb", "a", 2, 2, 1.0, 3)]))
    assert math.isnan(broken["ptb", "all", "perplexity"]) and math.isnan(broken["ptb", "block-00", "nats"])


def test_summary(families):
    found = paloma.summary(frame(), families)
    assert found["documents"] == 5 and list(found["slices"]) == ["ptb", "mc4"]
    assert found["slices"]["mc4"]["perplexity"] == pytest.approx(math.exp(4 / 6))
    empty = paloma.summary(frame([("ptb", "a", 1, 0, 0.0, 0)]), families)
    assert empty["perplexity"] is None and empty["slices"]["ptb"]["bits_per_byte"] is None
