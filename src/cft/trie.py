"""A target's values as token sequences, and the law of the next token after any prefix (arXiv 2605.11845).

The values' token rows are sorted, so that the values sharing a prefix are a contiguous range of rows: the law after a
prefix is found by cutting its range where the next column changes. There is no node object and no dictionary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cft import CftError

Ragged = tuple[np.ndarray, np.ndarray]
END = -1
FLOOR = 1e-8  # smallest probability of a token of a target's law, as in the released code


@dataclass(frozen=True)
class Level:
    """All prefixes of one length, in the order of their rows.

    token   [nodes] the last token of each prefix
    parent  [nodes] index of the prefix without that token, in the level before
    mass    [nodes] probability that a value starts with the prefix
    start   [nodes] first row of the prefix; stop [nodes] one past its last row
    """

    token: np.ndarray
    parent: np.ndarray
    mass: np.ndarray
    start: np.ndarray
    stop: np.ndarray


@dataclass(frozen=True)
class Trie:
    """The sorted token rows of a target.

    tokens       [values, longest] int64, each row ends with the terminator and is padded with END
    lengths      [values] tokens per row, terminator included
    probability  [values] of each row
    order        [values] index of each row's value in the target
    """

    tokens: np.ndarray
    lengths: np.ndarray
    probability: np.ndarray
    order: np.ndarray
    terminator: int

    @cached_property
    def cumulative(self) -> np.ndarray:
        """[values + 1] mass before each row; extended precision, as a rare prefix is a small difference."""
        return np.concatenate([[0], np.cumsum(self.probability, dtype=np.longdouble)])

    @cached_property
    def row(self) -> np.ndarray:
        """[values] the row of each value of the target."""
        return np.argsort(self.order)

    def find(self, prefix: Sequence[int]) -> tuple[int, int]:
        """The rows [start, stop) that begin with `prefix`; raises KeyError when there is none."""
        start, stop = 0, len(self.tokens)
        for depth, token in enumerate(prefix):
            column = self.tokens[start:stop, depth] if depth < self.tokens.shape[1] else np.empty(0)
            low, high = np.searchsorted(column, token, "left"), np.searchsorted(column, token, "right")
            if low == high:
                raise KeyError(f"no value starts with the tokens {list(prefix)}")
            start, stop = start + int(low), start + int(high)
        return start, stop

    def law(self, prefix: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
        """The next tokens after `prefix` [k], increasing, and their probabilities [k]."""
        start, stop = self.find(prefix)
        token, _, mass = self._children(start, stop, len(prefix))
        return token, mass / mass.sum()

    def laws_along(self, row: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The law at each token of one row, from the first token to the terminator."""
        start, stop, laws = 0, len(self.tokens), []
        for depth in range(int(self.lengths[row])):
            token, edges, mass = self._children(start, stop, depth)
            laws.append((token, mass / mass.sum()))
            child = np.searchsorted(token, self.tokens[row, depth])
            start, stop = int(edges[child]), int(edges[child + 1])
        return laws

    def _children(self, start: int, stop: int, depth: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        column = self.tokens[start:stop, depth]
        edges = np.concatenate([[start], start + 1 + np.flatnonzero(column[1:] != column[:-1]), [stop]])
        return self.tokens[edges[:-1], depth], edges, np.diff(self.cumulative[edges]).astype(float)

    def levels(self) -> Iterator[Level]:
        """Every prefix of length 1, 2, …; a prefix that ends with the terminator is a whole value."""
        if len(self.tokens) > 1:
            differs = self.tokens[1:] != self.tokens[:-1]
            shared = np.concatenate([[-1], np.argmax(differs, axis=1)])
        else:
            shared = np.array([-1])
        before = np.array([0])
        for length in range(1, self.tokens.shape[1] + 1):
            start = np.flatnonzero(shared < length)
            stop = np.append(start[1:], len(self.tokens))
            alive = self.lengths[start] >= length
            start, stop = start[alive], stop[alive]
            yield Level(
                token=self.tokens[start, length - 1],
                parent=np.searchsorted(before, start, "right") - 1,
                mass=(self.cumulative[stop] - self.cumulative[start]).astype(float),
                start=start,
                stop=stop,
            )
            before = start

    def soft_loss(self, levels: Sequence[Level], steps: Sequence[np.ndarray]) -> float:
        """The expected soft loss in nats: KL(next-token law || a model's), mean over a drawn value's tokens.

        levels    all of this trie
        steps     [nodes] for each level, the model's log-probability of the last token of each prefix
        """
        per_token = np.concatenate([[0], np.cumsum(self.probability / self.lengths)])
        total, above = 0.0, np.ones(1)
        for level, step in zip(levels, steps, strict=True):
            parents = len(above)
            share = level.mass / np.maximum(above[level.parent], np.finfo(float).tiny)
            floored = np.maximum(share, FLOOR)
            floored /= np.bincount(level.parent, floored, parents)[level.parent]
            divergence = np.bincount(level.parent, floored * (np.log(floored) - step), parents)
            # A prefix's KL counts once in each value through it, divided by that value's number of tokens.
            visits = np.bincount(level.parent, per_token[level.stop] - per_token[level.start], parents)
            total += float((divergence * visits).sum())
            above = level.mass
        return total


def build_trie(ragged: Ragged, probabilities: np.ndarray, terminator: int) -> Trie:
    """End every value's tokens with the terminator and sort them.

    `ragged` has the tokens of all values in one row, and the number of each value (chat.tokenize_values gives them).
    Raises CftError when two values have the same tokens, a value has none, or a value contains the terminator.
    """
    flat, lengths = ragged
    if not len(lengths) or lengths.min() == 0:
        raise CftError("the target is empty, or one of its values has no token")
    tokens = np.full((len(lengths), lengths.max() + 1), END, np.int64)
    tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = flat
    if (tokens == terminator).any():
        raise CftError(f"a value of the target contains the terminator token {terminator}")
    tokens[np.arange(len(lengths)), lengths] = terminator
    order = np.lexsort(tokens.T[::-1])
    tokens = tokens[order]
    same = np.flatnonzero((tokens[1:] == tokens[:-1]).all(axis=1))
    if len(same):
        first, second = sorted(1 + order[same[0] : same[0] + 2])
        raise CftError(f"values {first} and {second} of the target have the same tokens; leave one out")
    return Trie(tokens, lengths[order] + 1, np.asarray(probabilities, float)[order], order, terminator)
