"""Token sequences that begin alike, packed into rows of trees: what several begin with is computed once.

A slot holds the last token of a prefix. It sees the slots of the prefixes that it continues, at the position that its
length gives, so that its next-token logits are those of the sequence alone. A row holds as many sequences as keep it
short: attention compares all slots of a row. What sequences of different rows have in common is in each of these rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ROW = 512  # slots that a row is filled to; what is inserted whole may exceed it


class Tree:
    """The prefixes of sequences: `slots` holds the last token of each and the slot of the prefix before it, or -1."""

    def __init__(self) -> None:
        self.slots: list[tuple[int, int]] = []
        self._slot: dict[tuple[int, int], int] = {}

    def insert(self, sequence: Sequence[int]) -> list[int]:
        """The slots of a sequence's prefixes, each new one after all others."""
        found, parent = [], -1
        for token in sequence:
            slot = self._slot.setdefault((token, parent), len(self.slots))
            if slot == len(self.slots):
                self.slots.append((token, parent))
            found.append(slot)
            parent = slot
        return found

    def holds(self, sequence: Sequence[int]) -> bool:
        """Whether the sequence is a prefix here."""
        slot: int | None = -1
        for token in sequence:
            slot = self._slot.get((token, slot))
            if slot is None:
                return False
        return True


class Packed(NamedTuple):
    """Sequences as rows.

    tokens, position   [rows, slots] a prefix's last token and its place; padding is token 0 at place 0
    seen               [rows, slots, slots] whether the first slot sees the second; padding sees itself
    slots              for each sequence [its tokens] the slot of each prefix, counted through all rows
    """

    tokens: np.ndarray
    position: np.ndarray
    seen: np.ndarray
    slots: list[np.ndarray]


def pack(sequences: Sequence[Sequence[int]], heads: Sequence[int], row: int = ROW) -> Packed:
    """Pack token sequences, none empty, in lexicographic order.

    heads    how many first tokens each is recognised by: those with the same head are in the same row
    """
    whole = Tree()
    for sequence in sequences:
        whole.insert(sequence)
    number = -(-len(whole.slots) // row)
    rows, places = [Tree()], {}
    for index in sorted(range(len(sequences)), key=lambda index: list(sequences[index])):
        head, full = sequences[index][: heads[index]], len(rows[-1].slots) >= len(whole.slots) / number
        if full and len(rows) < number and not rows[-1].holds(head):
            rows.append(Tree())
        places[index] = len(rows) - 1, rows[-1].insert(sequences[index])
    length = max(len(tree.slots) for tree in rows)
    tokens, position = np.zeros((2, len(rows), length), np.int64)
    seen = np.zeros((len(rows), length, length), bool)
    seen[:, np.arange(length), np.arange(length)] = True
    for number, tree in enumerate(rows):
        for slot, (token, parent) in enumerate(tree.slots):
            tokens[number, slot] = token
            if parent >= 0:
                position[number, slot] = position[number, parent] + 1
                seen[number, slot] |= seen[number, parent]
    where = [places[index] for index in range(len(sequences))]
    return Packed(tokens, position, seen, [number * length + np.array(slots) for number, slots in where])
