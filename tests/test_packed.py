"""Packed slots against their sequences, one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as some

from cft.packed import pack

SEQUENCES = some.lists(some.lists(some.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=12)


@given(SEQUENCES, some.integers(1, 40))
def test_every_slot_sees_what_its_prefix_has(sequences, block):
    packed = pack(sequences, block)
    size = packed.seen.shape[1]
    for sequence, own in zip(sequences, packed.slots, strict=True):
        assert packed.tokens[own].tolist() == sequence
        assert packed.position[own].tolist() == list(range(len(sequence)))
        for index, slot in enumerate(own):
            number, place = divmod(slot, size)
            seen = packed.keys[number][packed.seen[number, place]]
            assert sorted(seen) == sorted(own[: index + 1])  # each of them once


@given(SEQUENCES, some.integers(1, 40))
def test_no_prefix_is_there_twice(sequences, block):
    packed = pack(sequences, block)
    prefixes = {tuple(sequence[: end + 1]) for sequence in sequences for end in range(len(sequence))}
    assert 0 <= len(packed.tokens) - len(prefixes) < len(packed.keys)
    assert len(set(np.concatenate(packed.slots))) == len(prefixes)


@given(SEQUENCES, some.integers(1, 40))
def test_blocks_hold_all_slots_and_little_else(sequences, block):
    packed = pack(sequences, block)
    blocks, size, keys = packed.seen.shape
    assert packed.keys.shape == (blocks, keys)
    assert size <= block and packed.tokens.shape == packed.position.shape == (blocks * size,)
    assert keys < size + max(map(len, sequences))
    # A block's last keys are its own slots, in order; an added slot sees itself, or softmax has nothing.
    own = np.arange(blocks * size).reshape(blocks, size)
    assert (packed.keys[:, keys - size :] == own).all()
    assert packed.seen[:, np.arange(size), keys - size + np.arange(size)].all()
