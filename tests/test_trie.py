"""Next-token laws against the authors' code and a brute-force count."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cft import CftError
from cft.target import make_target
from cft.trie import build_trie

END = 0


def toy_tokenizer(digits):
    """At most so many digits per token from the left; every other character is a token."""
    vocabulary = {"<eos>": END}
    pattern = re.compile(rf"\d{{1,{digits}}}|\D")

    def tokenize(values):
        rows = [[vocabulary.setdefault(piece, len(vocabulary)) for piece in pattern.findall(value)] for value in values]
        return np.concatenate(rows), np.array([len(row) for row in rows])

    return tokenize, vocabulary


def test_golden_tries(families, golden_rows):
    for row in golden_rows("tries"):
        target = make_target(families, row["family"], row["parameters"], row["decimals"], row["max_bins"])
        tokenize, vocabulary = toy_tokenizer(row["digits_per_token"])
        trie = build_trie(tokenize(target.values), target.probabilities, END)
        assert 1 + sum(int((level.token != END).sum()) for level in trie.levels()) == row["num_prefixes"]
        for node in row["nodes"]:
            tokens, law = trie.law([vocabulary[piece] for piece in node["prefix"]])
            wanted = {vocabulary[piece]: p for piece, p in node["next"].items()}
            assert dict(zip(tokens.tolist(), law.tolist(), strict=True)) == pytest.approx(wanted, rel=1e-9)


values_strategy = st.lists(st.from_regex(r"\A-?[0-9]{1,3}(\.[0-9]{1,3})?\Z"), min_size=1, max_size=25, unique=True)


@settings(max_examples=60)
@given(values_strategy, st.integers(1, 3), st.randoms(use_true_random=False))
def test_laws_by_brute_force(values, digits, random):
    tokenize, _ = toy_tokenizer(digits)
    flat, lengths = tokenize(values)
    stop = np.cumsum(lengths)
    rows = [(*flat[b - n : b].tolist(), END) for b, n in zip(stop, lengths, strict=True)]
    mass = np.array([random.random() + 1e-3 for _ in values])
    mass /= mass.sum()
    trie = build_trie((flat, lengths), mass, END)

    laws: dict[tuple, dict[int, float]] = {}
    for row, p in zip(rows, mass, strict=True):
        for depth in range(len(row)):
            next_law = laws.setdefault(row[:depth], {})
            next_law[row[depth]] = next_law.get(row[depth], 0) + p
    for prefix, law in laws.items():
        total = sum(law.values())
        tokens, found = trie.law(prefix)
        assert dict(zip(tokens.tolist(), found, strict=True)) == pytest.approx({t: p / total for t, p in law.items()})
    for index, row in enumerate(rows):
        along = trie.laws_along(int(trie.row[index]))
        assert tuple(trie.tokens[trie.row[index]][: len(row)]) == row
        for depth, (tokens, found) in enumerate(along):
            assert (tokens.tolist(), found.tolist()) == tuple(x.tolist() for x in trie.law(row[:depth]))
    nodes = [{(*row[:depth],) for row in rows if len(row) >= depth} for depth in range(1, max(map(len, rows)) + 1)]
    levels = list(trie.levels())
    assert [len(level.token) for level in levels] == [len(prefixes) for prefixes in nodes]
    assert sum(level.mass[level.token == END].sum() for level in levels) == pytest.approx(1)


def test_levels_know_their_parents():
    tokenize, _ = toy_tokenizer(1)
    trie = build_trie(tokenize(["1", "12", "2", "31"]), np.array([0.1, 0.2, 0.3, 0.4]), END)
    first, second, third = trie.levels()
    np.testing.assert_allclose(first.mass, [0.3, 0.3, 0.4])
    assert first.parent.tolist() == [0, 0, 0]
    assert second.parent.tolist() == [0, 0, 1, 2]
    np.testing.assert_allclose(second.mass, [0.1, 0.2, 0.3, 0.4])
    assert third.parent.tolist() == [1, 3]


def test_bad_targets_are_refused():
    with pytest.raises(CftError, match="values 1 and 3 of the target have the same tokens"):
        build_trie((np.array([1, 2, 1, 1, 1, 2]), np.array([2, 2, 2])), np.array([0.5, 0.25, 0.25]), END)
    with pytest.raises(CftError, match="no token"):
        build_trie((np.array([1]), np.array([1, 0])), np.array([0.5, 0.5]), END)
    with pytest.raises(CftError, match="terminator"):
        build_trie((np.array([1, END]), np.array([2])), np.array([1.0]), END)
    with pytest.raises(KeyError, match="no value starts with"):
        build_trie((np.array([1, 2]), np.array([2])), np.array([1.0]), END).law([3])
