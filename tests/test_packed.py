"""Packed rows against their sequences, one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as some

from cft.packed import pack

SEQUENCES = some.lists(some.lists(some.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=12)


@given(SEQUENCES, some.integers(1, 40), some.integers(1, 9))
def test_every_slot_sees_what_its_prefix_has(sequences, row, head):
    tokens, position, seen, slots = pack(sequences, [head] * len(sequences), row)
    length = tokens.shape[1]
    for sequence, own in zip(sequences, slots, strict=True):
        (number,) = set(own // length)
        places = own - number * length
        assert tokens[number, places].tolist() == sequence
        assert position[number, places].tolist() == list(range(len(sequence)))
        for index, place in enumerate(places):
            assert np.flatnonzero(seen[number, place]).tolist() == sorted(places[: index + 1])


@given(SEQUENCES)
def test_in_one_row_no_prefix_is_there_twice(sequences):
    tokens, _, _, slots = pack(sequences, [1] * len(sequences), 1000)
    prefixes = {tuple(sequence[: end + 1]) for sequence in sequences for end in range(len(sequence))}
    assert tokens.shape == (1, len(prefixes))
    assert len(set(np.concatenate(slots))) == len(prefixes)


def test_rows_are_about_as_long():
    rng = np.random.default_rng(1)
    sequences = [[7] * 30 + rng.integers(0, 9, 20).tolist() for _ in range(40)]
    tokens, *_ = pack(sequences, [50] * 40, 200)
    assert tokens.shape[0] == 4 and tokens.shape[1] <= 300


@given(SEQUENCES, some.integers(1, 40), some.integers(1, 9))
def test_one_head_is_in_one_row(sequences, row, head):
    tokens, _, _, slots = pack(sequences, [head] * len(sequences), row)
    rows = {}
    for sequence, own in zip(sequences, slots, strict=True):
        rows.setdefault(tuple(sequence[:head]), set()).add(own[0] // tokens.shape[1])
    assert all(len(each) == 1 for each in rows.values())
