"""The tree of a model's answers, expanded where most is left open about the numbers that they state.

The mass of a node is the probability of its tokens. It is resolved when the text ends, or can be no number any more.
Until then it is one of these:
  plain     digits, perhaps a point: if only digits follow (no point either, for a discrete target), it becomes a valid
            number in a known interval
  doomed    the same, but the number would be invalid: outside the support, or no integer
  loose     anything else, such as "-", "3e", "3 " or "<think>": it may become any number, or none
Mass is never lost: resolved and unresolved sum to one.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats

from cft.numbers import THINKING, Place, TokenGrammar, interval, read_number
from cft.prefix import Prefixes

PLAIN, DOOMED, LOOSE = range(3)
LEAF = np.dtype(
    [("node", "i4"), ("move", "i4"), ("kind", "i1"), ("mass", "f8"), ("low", "f8"), ("high", "f8"), ("weight", "f8")]
)


class Node(NamedTuple):
    """A beginning of an answer: its tokens, their bytes, where the grammar stands after them, its probability."""

    tokens: list[int]
    said: bytes
    place: Place
    mass: float


@dataclass
class AnswerTree:
    """The nodes expanded so far, the leaves that can be expanded, and what is resolved.

    frozen          the target, a SciPy distribution: its support says what is valid
    stray           the share of plain and doomed mass that may not go on as such, see bounds.py
    thinking        whether a text that is no number stays unresolved, as a closing thinking tag may follow
    negligible      tokens of less mass get no leaf of their own
    atoms           value and mass of every valid text
    sealed          loose mass that is never expanded: thinking, and tokens of negligible mass
    """

    grammar: TokenGrammar
    ends: list[int]
    frozen: Any
    stray: float
    max_new_tokens: int
    temperature: float
    thinking: bool
    negligible: float
    nodes: list[Node] = field(default_factory=list)
    leaves: np.ndarray = field(default_factory=lambda: np.empty(0, LEAF))
    atoms: list[tuple[float, float]] = field(default_factory=list)
    invalid: float = 0.0
    sealed: float = 0.0
    forward_tokens: int = 0

    def __post_init__(self) -> None:
        self.discrete = isinstance(self.frozen.dist, stats.rv_discrete)
        bottom, top = self.frozen.support()
        self.support = float(bottom), float(top)

    @property
    def gap(self) -> float:
        """The mass that is left open, 0 when all is known; see _weights."""
        return float(self.leaves["weight"].sum()) + self.sealed

    def plant(self, start: Prefixes) -> None:
        """Expand the empty answer; `start` is the prompt, one row."""
        self._expand([Node([], b"", ("", b""), 1.0)], start.logits)

    def grow(self, start: Prefixes, count: int) -> bool:
        """Expand up to `count` of the heaviest leaves; returns whether there was one.

        Their tokens are computed anew from the prompt's cache, so that no other cache is kept.
        """
        nodes = [self.node(leaf) for leaf in self._take(count)]
        if not nodes:
            return False
        lengths = torch.tensor([len(node.tokens) for node in nodes])
        tokens = torch.zeros((len(nodes), int(lengths.max())), dtype=torch.long)
        for row, node in enumerate(nodes):
            tokens[row, : len(node.tokens)] = torch.tensor(node.tokens)
        mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long()
        device = start.mask.device
        prefixes = start.select(torch.zeros(len(nodes), dtype=torch.long, device=device))
        logits = prefixes.extend(tokens.to(device), mask.to(device))
        self._expand(nodes, logits[lengths.cumsum(0).to(device) - 1])
        self.forward_tokens += int(lengths.sum())
        return True

    def _take(self, count: int) -> np.ndarray:
        """Remove the heaviest leaves, up to nine tenths of all weight."""
        order = np.argsort(-self.leaves["weight"], kind="stable")
        weight = self.leaves["weight"][order]
        before = weight.cumsum() - weight
        order = order[(before <= 0.9 * weight.sum()) & (weight > 0)][:count]
        chosen, self.leaves = self.leaves[order], np.delete(self.leaves, order)
        return chosen

    def node(self, leaf: Any) -> Node:
        return self.child(self.nodes[leaf["node"]], int(leaf["move"]), float(leaf["mass"]))

    def child(self, above: Node, move: int, mass: float) -> Node:
        """The node after one more token, `move` of the grammar."""
        alive, places = self.grammar.moves(above.place)
        index = alive[move]
        said = above.said + (self.grammar.pieces[index] or b"")
        return Node([*above.tokens, int(self.grammar.tokens[index])], said, places[move], mass)

    def law(self, logits: torch.Tensor) -> np.ndarray:
        """[rows, tokens + 1] the probabilities of the grammar's tokens, and last that the text ends."""
        law = (logits.double() / self.temperature).softmax(-1)
        ends = torch.tensor(self.ends, device=law.device)
        tokens = torch.from_numpy(self.grammar.tokens).to(law.device)
        further = law[:, tokens].masked_fill(torch.isin(tokens, ends), 0)
        return torch.cat([further, law[:, ends].sum(-1, keepdim=True)], dim=1).cpu().numpy()

    def _expand(self, nodes: list[Node], logits: torch.Tensor) -> None:
        """Resolve what one more token resolves, and add leaves for the rest; `logits` [nodes, vocabulary]."""
        leaves = [self._branch(*row) for row in zip(nodes, self.law(logits), strict=True)]
        self.leaves = np.concatenate([self.leaves, *leaves])

    def _branch(self, node: Node, law: np.ndarray) -> np.ndarray:
        self.nodes.append(node)
        alive, places = self.grammar.moves(node.place)
        mass, ending = node.mass * law[alive], float(law[-1])
        spoiled = max(0.0, node.mass * (1 - ending) - float(mass.sum()))
        self._judge(node.said, node.mass * ending)
        self.invalid += 0.0 if self.thinking else spoiled
        self.sealed += spoiled if self.thinking else 0.0
        said = [node.said + (self.grammar.pieces[index] or b"") for index in alive]
        if len(node.tokens) + 1 == self.max_new_tokens:
            for text, index, each in zip(said, alive, mass.tolist(), strict=True):
                if self.grammar.pieces[index] is None:  # it may say anything
                    self.sealed += each
                else:
                    self._judge(text, each)
            return np.empty(0, LEAF)
        kept = np.flatnonzero((mass > self.negligible) & np.array([state != THINKING for state, _ in places], bool))
        self.sealed += float(np.delete(mass, kept).sum())
        leaves = np.empty(len(kept), LEAF)
        leaves["node"], leaves["move"], leaves["mass"] = len(self.nodes) - 1, kept, mass[kept]
        for row, move in enumerate(kept):
            leaves["kind"][row], leaves["low"][row], leaves["high"][row] = self._classify(said[move], places[move])
        leaves["weight"] = self._weights(leaves)
        return leaves

    def _judge(self, said: bytes, mass: float) -> None:
        """Resolve a whole text; a character that is not finished is shown as a replacement, so it is no number."""
        value, code = read_number(said.decode(errors="replace"), self.support, self.discrete)
        if code is not None:
            self.invalid += mass
        elif mass > 0:
            self.atoms.append((float(round(value)) if self.discrete else value, mass))

    def _classify(self, said: bytes, place: Place) -> tuple[int, float, float]:
        """The kind of a leaf, and the interval of the numbers that it plainly becomes."""
        state, pending = place
        if pending or state not in ("0", "0."):
            return LOOSE, np.nan, np.nan
        low, high = interval(said.decode())
        if self.discrete:
            low, high = np.ceil(low - 1e-9), np.floor(high + 1e-9)  # what the parser takes for an integer
        bottom, top = (end + sign * 2e-12 * max(1.0, abs(end)) for end, sign in zip(self.support, (-1, 1), strict=True))
        if low > high or high < bottom or low > top:
            return DOOMED, np.nan, np.nan
        inside = bottom <= low and high <= top and not (self.discrete and state == "0.")
        return (PLAIN, low, high) if inside else (LOOSE, np.nan, np.nan)

    def _weights(self, leaves: np.ndarray) -> np.ndarray:
        """How much each leaf leaves open: of plain mass, what may go astray, and the rest by its interval's width."""
        share = np.array([0.0, self.stray, 1.0])[leaves["kind"]]
        plain = leaves["kind"] == PLAIN
        if plain.any():
            width = levels(self.frozen, leaves["high"][plain]) - levels(self.frozen, leaves["low"][plain])
            share[plain] = self.stray + (1 - self.stray) * width
        return leaves["mass"] * share


def levels(frozen: Any, values: np.ndarray) -> np.ndarray:
    """[n] where `values` [n] lie on the target's own scale from 0 to 1; a discrete value in the middle of its jump."""
    if not isinstance(frozen.dist, stats.rv_discrete):
        return frozen.cdf(values)
    return (frozen.cdf(values) + frozen.cdf(values - 1)) / 2
