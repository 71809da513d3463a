"""The share of unresolved mass that ends otherwise than its digits say, against the enumeration of all that follows."""

import numpy as np
import pytest
from enumerated import END, GAUSSIAN, PLAIN, TARGETS, TOKENIZERS, Exact, Toy, check_inside, enumerate_law, toy
from scipy import stats
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from cft.answer_tree import LOOSE, AnswerTree
from cft.answer_tree import PLAIN as PLAINLY
from cft.astray import stray_share
from cft.bounds import bound_law
from cft.numbers import read_number, token_grammar

STRAYS = {**{piece: share for piece, share in PLAIN.items() if piece != "plain"}, "x": 0.3, "e": 0.2, " ": 0.2}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_share_that_goes_astray_is_measured(name, target):
    """Probes against the enumeration of all that follows the leaves; then the bounds hold with that share."""
    start, tokenizer, frozen = toy(name, STRAYS), TOKENIZERS[name], TARGETS[target]
    grammar = token_grammar(tokenizer, len(tokenizer))
    tree = AnswerTree(grammar, [END[name]], frozen, 0.0, 4, 1.0, False, 0.0)
    tree.plant(start)
    tree.grow(start, 1)
    mass = strayed = 0.0
    for leaf in tree.leaves[tree.leaves["kind"] != LOOSE]:
        node, fate = tree.node(leaf), leaf["kind"] == PLAINLY
        rest = enumerate_law(lambda path: start.law((*node.tokens, *path)), tokenizer, END[name], 4 - len(node.tokens))  # noqa: B023
        mass += leaf["mass"]
        for text, share in rest.items():
            whole = tokenizer.decode(node.tokens) + text
            value, code = read_number(whole, frozen.support(), target == "poisson")
            low, high = (leaf["low"], leaf["high"]) if fate else (-np.inf, np.inf)
            strayed += leaf["mass"] * share * ((code is None) != fate or (fate and not low <= value <= high))
    found, error = stray_share(tree, start, 2000, 7, np.random.default_rng(1))
    if target == "uniform":  # all are doomed, and an exponent counts whatever becomes of it
        assert strayed / mass <= found < 0.1
    else:
        assert 0.02 < strayed / mass < 0.9
        assert abs(found - strayed / mass) < 4 * error < 0.1
    exact = Exact.of(enumerate_law(start.law, tokenizer, END[name], 4), frozen)
    for nodes in (3, 30):
        bounds = bound_law(start, tokenizer, [END[name]], frozen, 5, 0, nodes, 4, stray=0, probes=200)
        check_inside(bounds, frozen, exact)
        assert nodes == 30 or bounds.stray > strayed / mass / 2


@pytest.mark.parametrize("piece", ["e", "e-"])
def test_a_doomed_number_that_an_exponent_saves_goes_astray(piece):
    """Also by a token of several characters: 99 is no draw from 0 to 1, 99e-2 is."""
    pieces = ["0", "2", "9", "-", "e", "e-", "x"]
    model = models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[("e", "-")])
    inner = Tokenizer(model)
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens(["<end>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    end = len(pieces)

    def law(path):
        text, found = tokenizer.decode(list(path)), np.full(end + 1, 1e-300)
        if text in ("", "9"):
            found[pieces.index("9")] = 1
        elif text == "99":
            found[[end, pieces.index(piece)]] = 0.6, 0.4
        else:
            found[{"-": pieces.index("2"), "e": pieces.index("-")}.get(text[-1], end)] = 1
        return found / found.sum()

    exact = Exact.of(enumerate_law(law, tokenizer, end, 5), stats.uniform())
    assert exact.valid == pytest.approx(0.4)
    bounds = bound_law(Toy(law, [[]]), tokenizer, [end], stats.uniform(), 4, max_new_tokens=5, stray=0, probes=100)
    assert bounds.doomed == pytest.approx(1) and bounds.stray == pytest.approx(0.4 + 3 / 100)
    check_inside(bounds, stats.uniform(), exact)


def test_a_number_that_never_ends_does_not_go_astray():
    """It is cut, and judged as it stands; one that may end any time and then does not is known as well."""
    start = toy("byte_level", {**PLAIN, "<end>": 1e-300})
    bounds = bound_law(start, TOKENIZERS["byte_level"], [END["byte_level"]], GAUSSIAN, 5, 0.3, probes=20, stray=0)
    assert bounds.stray == pytest.approx(3 / 20) and bounds.valid.low > 0.7
