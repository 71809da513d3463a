"""How much of the begun numbers goes astray: a sample of the leaves of an answer tree, followed to their ends."""

from typing import Any

import numpy as np
import torch

from cft.answer_tree import DOOMED, LOOSE, PLAIN, AnswerTree, Node
from cft.numbers import read_number
from cft.prefix import Prefixes

ON = frozenset({"0", "0.", "0 "})


def stray_share(
    tree: AnswerTree, start: Prefixes, probes: int, rows: int, generator: np.random.Generator
) -> tuple[float, float]:
    """The share of the tree's plain and doomed mass that goes astray, and its standard error.

    Leaves are drawn by their mass, and followed by the model's law among the tokens that do not lead astray. The share
    that does on such a path is 1 - the product of what its steps leave; its mean over paths is the share of all.
    Both are 0 when the tree has no such leaf.
    """
    leaves = tree.leaves[tree.leaves["kind"] != LOOSE]
    if not len(leaves):
        return 0.0, 0.0
    chosen = leaves[generator.choice(len(leaves), probes, p=leaves["mass"] / leaves["mass"].sum())]
    nodes = [(tree.node(leaf), int(leaf["kind"])) for leaf in chosen]
    found = []
    # Beginnings of one length at a time: without padding, sliding windows hold.
    for length in sorted({len(node.tokens) for node, _ in nodes}):
        same = [pair for pair in nodes if len(pair[0].tokens) == length]
        for low in range(0, len(same), rows):
            found += _follow(tree, start, same[low : low + rows], generator)
    strayed = 1 - np.array(found)
    return float(strayed.mean()), float(strayed.std(ddof=1) / np.sqrt(probes)) if probes > 1 else 1.0


def _follow(tree: AnswerTree, start: Prefixes, paths: list[tuple[Node, int]], generator: Any) -> list[float]:
    """[paths] the probability that each does not go astray; all have as many tokens."""
    device = start.mask.device
    prefixes = start.select(torch.zeros(len(paths), dtype=torch.long, device=device))
    tokens = torch.tensor([node.tokens for node, _ in paths], device=device)
    logits = prefixes.extend(tokens).reshape(*tokens.shape, -1)[:, -1]
    tree.forward_tokens += tokens.numel()
    kept, going = np.ones(len(paths)), list(range(len(paths)))
    while going:
        laws = tree.law(logits)
        further = []
        for row, path in enumerate(going):
            share, token = _step(tree, *paths[path], laws[row], generator)
            kept[path] *= share
            if token is not None and kept[path] > 0:
                paths[path] = _longer(tree, paths[path], token)
                if len(paths[path][0].tokens) == tree.max_new_tokens:
                    kept[path] *= _as_begun(tree, *paths[path])
                else:
                    further.append(row)
        going = [going[row] for row in further]
        if going:
            prefixes = prefixes.select(torch.tensor(further, device=device))
            logits = prefixes.extend(torch.tensor([paths[path][0].tokens[-1:] for path in going], device=device))
            tree.forward_tokens += len(going)
    return kept.tolist()


def _step(tree: AnswerTree, node: Node, kind: int, law: np.ndarray, generator: Any) -> tuple[float, int | None]:
    """What does not go astray at the next token, and a move of the grammar drawn from it; None where the text ends."""
    alive, places = tree.grammar.moves(node.place)
    on = np.array([state in ON and not pending for state, pending in places], bool)
    masses = law[alive]
    going = float(masses[on].sum())
    ended = law[-1]
    if kind == DOOMED:  # what spoils it leaves it as invalid as it was; what the grammar keeps alive may save it
        ended = max(0.0, 1 - going - float(masses[~on].sum()))
    share = min(1.0, going + ended)
    if generator.random() * share >= going:
        return share * (kind == DOOMED or _as_begun(tree, node, kind)), None
    moves = np.flatnonzero(on)
    return share, int(generator.choice(moves, p=masses[moves] / going))


def _longer(tree: AnswerTree, path: tuple[Node, int], move: int) -> tuple[Node, int]:
    return tree.child(path[0], move, path[0].mass), path[1]


def _as_begun(tree: AnswerTree, node: Node, kind: int) -> bool:
    """Whether the whole text is what its beginning promised: plain a valid number, doomed none."""
    code = read_number(node.said.decode(errors="replace"), tree.support, tree.discrete)[1]
    return (code is None) == (kind == PLAIN)
