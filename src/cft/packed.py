"""Token sequences that begin alike, packed as a tree: what several begin with is computed once.

A slot holds the last token of a prefix. It sees the slots of the prefixes that it continues, at the position that its
length gives, so that its next-token logits are those of the sequence alone. Slots are in the order of a walk through
the tree. Attention works on them block by block: a block sees itself and the path to its first slot, and nothing else.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BLOCK = 128  # slots at most


class Packed(NamedTuple):
    """Sequences as one row of slots, in blocks of equal size: fewer than there are blocks are added to that end.

    tokens, position   [slots] a prefix's last token and its place; of an added slot 0
    keys               [blocks, keys] the slots that a block may see: the path to its first one, then its own; where
                       that path is short, a slot that none sees
    seen               [blocks, block, keys] which of them each of a block's sees; an added slot sees itself
    slots              for each sequence [its tokens] the slot of each prefix
    """

    tokens: np.ndarray
    position: np.ndarray
    keys: np.ndarray
    seen: np.ndarray
    slots: list[np.ndarray]


def pack(sequences: Sequence[Sequence[int]], block: int = BLOCK) -> Packed:
    """Pack token sequences, none empty."""
    slot_of: dict[tuple[int, int], int] = {}
    tokens: list[int] = []
    parents: list[int] = []
    position: list[int] = []
    places: dict[int, list[int]] = {}
    for index in sorted(range(len(sequences)), key=lambda index: list(sequences[index])):
        path, parent = [], -1
        for place, token in enumerate(sequences[index]):
            slot = slot_of.setdefault((token, parent), len(tokens))
            if slot == len(tokens):
                tokens.append(token)
                parents.append(parent)
                position.append(place)
            path.append(slot)
            parent = slot
        places[index] = path
    keys, seen = _blocks(parents, position, block)
    added = seen.shape[0] * seen.shape[1] - len(tokens)
    slots = [np.array(places[index]) for index in range(len(sequences))]
    return Packed(np.pad(tokens, (0, added)), np.pad(position, (0, added)), keys, seen, slots)


def _blocks(parents: list[int], position: list[int], block: int) -> tuple[np.ndarray, np.ndarray]:
    """Packed.keys and Packed.seen of blocks of equal size."""
    size = -(-len(parents) // -(-len(parents) // block))
    starts = range(0, len(parents), size)
    longest = max(position[start] for start in starts)
    keys = np.zeros((len(starts), longest + size), np.int64)
    seen = np.zeros((len(starts), size, longest + size), bool)
    for number, start in enumerate(starts):
        slot = start
        for place in reversed(range(position[start])):
            slot = keys[number, place] = parents[slot]
        keys[number, longest:] = np.arange(start, start + size)
        for slot in range(start, min(start + size, len(parents))):
            # What is above it lies in the block or, as slots are in the order of a walk, on the path to the first.
            if parents[slot] >= start:
                seen[number, slot - start] = seen[number, parents[slot] - start]
            else:
                seen[number, slot - start, : position[slot]] = True
            seen[number, slot - start, longest + slot - start] = True
        own = np.arange(size)
        seen[number, own, longest + own] = True
    return keys, seen
