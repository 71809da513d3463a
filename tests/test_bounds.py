"""Bounds on a model's law against the enumeration of all its answers."""

import re
import zlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as laws
from test_numbers import byte_fallback, byte_level
from transformers import AutoConfig, AutoModelForCausalLM

from cft import CftError, chat, stats
from cft.answer_tree import LOOSE, AnswerTree
from cft.answer_tree import PLAIN as PLAINLY
from cft.astray import stray_share
from cft.bounds import Bounds, bound_law
from cft.model_settings import ChatSettings
from cft.models import load_model, load_tokenizer
from cft.numbers import read_number, token_grammar
from cft.prefix import Prefixes
from cft.target import Target
from cft.tiny import RECIPES, SIZE

TOKENIZERS = {"byte_level": byte_level(), "byte_fallback": byte_fallback()}
END = {name: tokenizer.convert_tokens_to_ids("<end>") for name, tokenizer in TOKENIZERS.items()}
GAUSSIAN, EXPONENTIAL, POISSON = laws.norm(1, 2), laws.expon(scale=2), laws.poisson(1.5)
UNIFORM = laws.uniform(0.5, 12)  # its ends are within what a beginning may become
TARGETS = {"gaussian": GAUSSIAN, "exponential": EXPONENTIAL, "uniform": UNIFORM, "poisson": POISSON}


class Toy:
    """Stands in for Prefixes: a law of the next token by the tokens before it, known from their text."""

    mask = torch.zeros(1)

    def __init__(self, law, rows):
        self.law, self.rows = law, rows

    @property
    def logits(self):
        return torch.from_numpy(np.stack([self.law(tuple(row)) for row in self.rows])).log()

    def select(self, rows):
        return Toy(self.law, [self.rows[row] for row in rows])

    def extend(self, tokens, mask=None):
        keep = torch.ones_like(tokens) if mask is None else mask
        steps = [row[kept.bool()].tolist() for row, kept in zip(tokens, keep, strict=True)]
        paths = [[*row, *step[: i + 1]] for row, step in zip(self.rows, steps, strict=True) for i in range(len(step))]
        self.rows = [[*row, *step] for row, step in zip(self.rows, steps, strict=True)]
        return Toy(self.law, paths).logits


def toy(name, weights, seed=0):
    """Random next-token laws, a token's expected share by its text; one that begins a number stays one if `weights` has
    the key "plain": no second point, no sign but the first."""
    tokenizer = TOKENIZERS[name]
    anchor = tokenizer.convert_tokens_to_ids("x")  # some tokenizers drop the blank of a text's first token
    pieces = [tokenizer.decode([anchor, token])[1:] for token in range(len(tokenizer))]

    def law(path):
        text = tokenizer.decode(list(path))
        generator = np.random.default_rng([seed, zlib.crc32(repr(path).encode())])
        share = np.array([weights.get(piece, weights.get("other", 1e-300)) for piece in pieces])
        if "plain" in weights:
            share[[not re.fullmatch(r"-?\d*\.?\d*", text + piece) for piece in pieces]] = 1e-300
        share[END[name]] = weights["<end>"] if re.search(r"\d", text) else 1e-300
        share = share * generator.gamma(0.7, size=len(share))
        return share / share.sum()

    return Toy(law, [[]])


def enumerate_law(law, tokenizer, end, length):
    """The probability of every text of at most `length` tokens, path by path."""
    texts = Counter()

    def walk(path, mass):
        if len(path) == length:
            texts[tokenizer.decode(list(path))] += mass
            return
        step = law(path)
        texts[tokenizer.decode(list(path))] += mass * step[end]
        for token in np.flatnonzero(step):
            if token != end and mass * step[token] > 1e-18:
                walk((*path, int(token)), mass * step[token])

    walk((), 1.0)
    return texts


class Exact:
    """The distances of a known law, each by another way than bounds.py's."""

    def __init__(self, values, masses, frozen):
        self.values, self.masses, self.frozen = values, masses, frozen
        self.discrete = isinstance(frozen.dist, laws.rv_discrete)
        self.valid = masses.sum()

    @classmethod
    def of(cls, texts, frozen):
        valid = Counter()
        for text, mass in texts.items():
            value, code = read_number(text, frozen.support(), isinstance(frozen.dist, laws.rv_discrete))
            if code is None:
                valid[value] += mass
        return cls(*(np.array(list(part), float) for part in (valid.keys(), valid.values())), frozen)

    def cdf(self, points):
        return np.array([self.masses[self.values <= point].sum() for point in points]) / max(self.valid, 1e-300)

    def ks(self):
        places = np.concatenate([[0.0], self.values])
        places = np.arange(-50, 200) if self.discrete else np.concatenate([places, np.nextafter(places, -np.inf)])
        return self.valid * np.abs(self.cdf(places) - self.frozen.cdf(places)).max() + 1 - self.valid

    def pit_w1(self, draws=100_000):
        """As the scores have it, of many draws without noise; within 1e-3."""
        counts = np.round(self.masses * draws).astype(int)
        generator = np.random.default_rng(0) if self.discrete else None
        return stats.pit_w1(np.repeat(self.values, counts), self.frozen, draws - counts.sum(), generator)

    def w1(self, between):
        levels = stats.midpoints(100_000)
        target = np.clip(self.frozen.ppf(levels), *between)
        return laws.wasserstein_distance(np.clip(self.values, *between), target, self.masses)

    def total_variation(self, target):
        values = np.array(target.values, float)
        nearest = np.abs(np.clip(self.values, values[0], values[-1])[:, None] - values).argmin(axis=1)
        found = np.bincount(nearest, self.masses, len(values))
        return (np.abs(found - target.probabilities).sum() + 1 - self.valid) / 2


def finite(frozen):
    """A finite target whose values have edges that no short number lies on."""
    values = np.arange(0, 12) if isinstance(frozen.dist, laws.rv_discrete) else np.arange(-5.0317171, 14, 0.7)
    mass = np.diff(frozen.cdf((values[1:] + values[:-1]) / 2), prepend=0, append=1)
    return Target([f"{value:.7f}" for value in values], mass, values[0], values[-1])


BETWEEN = (-4.0, 9.0)


def ranges(bounds, frozen):
    return {
        "valid": bounds.valid, "ks": bounds.ks(frozen), "pit_w1": bounds.pit_w1(frozen),
        "w1": bounds.w1(frozen, BETWEEN), "total_variation": bounds.total_variation(finite(frozen)),
    }  # fmt: skip


def wanted(exact):
    whole = {
        "valid": exact.valid, "ks": exact.ks(), "pit_w1": exact.pit_w1(),
        "total_variation": exact.total_variation(finite(exact.frozen)),
    }  # fmt: skip
    return whole | ({"w1": exact.w1(BETWEEN)} if exact.valid > 0 else {})


CLOSE = {"valid": 1e-6, "ks": 1e-6, "pit_w1": 2e-3, "w1": 5e-3, "total_variation": 1e-6}


def check_inside(bounds, frozen, exact, points=(-3, 0, 0.999, 1, 2.05, 12.3)):
    for name, value in wanted(exact).items():
        low, high = ranges(bounds, frozen)[name]
        assert low - CLOSE[name] <= value <= high + CLOSE[name], name
    if exact.valid:
        lower, upper = bounds.cdf(np.array(points))
        assert ((lower - 1e-6 <= exact.cdf(points)) & (exact.cdf(points) <= upper + 1e-6)).all()


def check_masses(bounds):
    known = bounds.masses.sum() + bounds.mass.sum() + bounds.doomed + bounds.loose + bounds.invalid
    assert known == pytest.approx(1, abs=1e-9)
    assert min(bounds.doomed, bounds.loose, bounds.invalid, *bounds.masses, *bounds.mass) >= 0


def check_nested(narrow, wide, frozen):
    """No bound of `narrow` is wider."""
    for name, (low, high) in ranges(narrow, frozen).items():
        before = ranges(wide, frozen)[name]
        slack = 1e-3 if name == "w1" else 1e-9  # of its grid
        assert low >= before.low - slack and high <= before.high + slack, name


WEIGHTS = {
    "anything": {"<end>": 6, "other": 1, "</think>": 0},
    "numbers": {"<end>": 8, "other": 0.02, "</think>": 0, **dict.fromkeys([*"0123.-", "12", "-1"], 1)},
    "never ends": {"<end>": 1e-300, "1": 1, ".": 0.5, "2": 1},
    "no number": {"<end>": 1, "x": 1, " ": 0.01},
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_bounds_close_on_the_enumerated_law(name, kind, target):
    tokenizer, frozen, start = TOKENIZERS[name], TARGETS[target], toy(name, WEIGHTS[kind])
    exact = Exact.of(enumerate_law(start.law, tokenizer, END[name], 3), frozen)
    before = None
    for nodes in (1, 2, 5, 20, 100, 10_000):
        bounds = bound_law(start, tokenizer, [END[name]], frozen, 7, gap=0, nodes=nodes, max_new_tokens=3)
        assert bounds.nodes <= nodes
        check_masses(bounds)
        check_inside(bounds, frozen, exact)
        if before:
            check_nested(bounds, before, frozen)
        before = bounds
    assert bounds.unresolved < 1e-9
    for result, (low, high) in ranges(bounds, frozen).items():
        if result != "w1":
            assert high - low < 1e-9, result
        elif exact.valid > 1e-9:
            assert high - low < 5e-3, result


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
def test_a_model_by_brute_force(architecture):
    """A model of its own forward passes: beginnings of several lengths are computed in one."""
    tokenizer, end = TOKENIZERS["byte_level"], END["byte_level"]
    config = AutoConfig.for_model(
        **RECIPES[architecture], **SIZE, vocab_size=len(tokenizer), initializer_range=0.3, pad_token_id=0
    )  # fmt: skip
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    prompt = [token % len(tokenizer) for token in range(3, 40, 2)]  # longer than Gemma's window
    known = {}

    def law(path):
        if path not in known:
            known[path] = model(torch.tensor([[*prompt, *path]])).logits[0, -1].double().softmax(-1).numpy()
        return known[path]

    with torch.inference_mode():
        exact = Exact.of(enumerate_law(law, tokenizer, end, 3), GAUSSIAN)
        start = Prefixes.of(model, [prompt])
        before = None
        for nodes in (1, 4, 30, 200, 5000):
            bounds = bound_law(start, tokenizer, [end], GAUSSIAN, 16, gap=0, nodes=nodes, max_new_tokens=3)
            check_masses(bounds)
            check_inside(bounds, GAUSSIAN, exact)
            if before:
                check_nested(bounds, before, GAUSSIAN)
            before = bounds
    thinking = sum(law(path)[tokenizer.convert_tokens_to_ids("</think>")] for path in known) / len(known)
    assert bounds.unresolved < 10 * thinking


def test_every_byte_a_token(tiny):
    """The tokenizer of the smoke test, two tokens long, with either of two tokens at the end."""
    model, tokenizer = load_model(tiny("llama")), load_tokenizer(tiny("llama"))
    prompt = chat.prompt_tokens(tokenizer, "give a number", ChatSettings())
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    with torch.inference_mode():
        first = model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1)
        rows = torch.tensor([[*prompt, token] for token in range(len(tokenizer))])
        second = model(rows).logits[:, -1].double().softmax(-1)
        start = Prefixes.of(model, [prompt])
        bounds = bound_law(start, tokenizer, ends, GAUSSIAN, 64, gap=0, nodes=5000, max_new_tokens=2)
    texts = Counter({"": float(first[ends].sum())})
    for token in set(range(len(tokenizer))) - set(ends):
        texts[tokenizer.decode([token])] += float(first[token] * second[token, ends].sum())
        for further in set(range(len(tokenizer))) - set(ends):
            texts[tokenizer.decode([token, further])] += float(first[token] * second[token, further])
    assert sum(texts.values()) == pytest.approx(1)
    check_masses(bounds)
    check_inside(bounds, GAUSSIAN, Exact.of(texts, GAUSSIAN))
    assert bounds.unresolved < 1e-9
    numbers = {float(number) for number in [*range(-9, 100), *(f".{digit}" for digit in range(10))]}
    assert {value for value, mass in zip(bounds.values, bounds.masses, strict=True) if mass > 0} == numbers


PLAIN = {
    "<end>": 4,
    "plain": 1,
    "other": 1e-300,
    "-": 0.3,
    ".": 2,
    **dict.fromkeys(["0", "1", "2", "3", "12", "-1"], 1),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_plain_numbers_are_known_long_before_they_end(name):
    """Without a stray number the bounds are narrow while most texts have not been followed to their end."""
    start, tokenizer = toy(name, PLAIN), TOKENIZERS[name]
    exact = Exact.of(enumerate_law(start.law, tokenizer, END[name], 5), GAUSSIAN)
    before = None
    for gap in (0.3, 0.1, 0.01):
        bounds = bound_law(start, tokenizer, [END[name]], GAUSSIAN, 5, gap=gap, max_new_tokens=5, stray=0)
        check_masses(bounds)
        check_inside(bounds, GAUSSIAN, exact)
        if before:
            check_nested(bounds, before, GAUSSIAN)
        low, high = bounds.pit_w1(GAUSSIAN)
        assert bounds.gap <= gap and high - low <= bounds.gap + 1e-9
        before = bounds
    certain = replace(bounds, stray=1.0)
    check_inside(certain, GAUSSIAN, exact)
    assert bounds.unresolved > 0.02 > 2 * bounds.gap
    assert certain.pit_w1(GAUSSIAN).high - certain.pit_w1(GAUSSIAN).low > 2 * bounds.gap


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


def test_a_number_that_never_ends_does_not_go_astray():
    """It is cut, and judged as it stands; one that may end any time and then does not is known as well."""
    start = toy("byte_level", {**PLAIN, "<end>": 1e-300})
    bounds = bound_law(start, TOKENIZERS["byte_level"], [END["byte_level"]], GAUSSIAN, 5, 0.3, probes=20, stray=0)
    assert bounds.stray < 1e-9 and bounds.valid.low > 0.85


def test_a_closing_tag_may_save_what_is_no_number():
    weights = {"<end>": 3, "x": 1, "</think>": 1, "1": 1, "other": 1e-300}
    start, tokenizer, end = toy("byte_level", weights), TOKENIZERS["byte_level"], END["byte_level"]
    exact = Exact.of(enumerate_law(start.law, tokenizer, end, 4), GAUSSIAN)
    open_ended = bound_law(start, tokenizer, [end], GAUSSIAN, 5, gap=0, max_new_tokens=4, thinking=True)
    check_masses(open_ended)
    check_inside(open_ended, GAUSSIAN, exact)
    assumed = bound_law(start, tokenizer, [end], GAUSSIAN, 5, gap=0, max_new_tokens=4)
    assert open_ended.invalid < 1 - exact.valid < assumed.invalid + 0.5
    assert open_ended.unresolved > assumed.unresolved


@given(st.integers(0, 2**32), st.sampled_from(list(TARGETS)), st.sampled_from([0.0, 0.1, 1.0]))
@settings(max_examples=60, deadline=None)
def test_any_law_that_the_assumptions_allow_is_inside(seed, target, stray):
    """Random masses and intervals, and then a random law that they allow."""
    generator, frozen = np.random.default_rng(seed), TARGETS[target]
    n, k = generator.integers(0, 6, 2)
    shares = generator.dirichlet(generator.choice([0.2, 1.0], n + k + 3))
    masses, mass, (doomed, loose, invalid) = shares[:n], shares[n : n + k], shares[-3:]
    bottom, top = np.clip(frozen.support(), -6, 20)
    draw = (lambda size: generator.integers(bottom, top, size).astype(float)) if target == "poisson" else (
        lambda size: np.round(generator.uniform(bottom, top, size), 1)
    )  # fmt: skip
    values, ends = draw(n), np.sort(draw((k, 2)), axis=1)
    beyond = np.where(generator.random(k) < 0.3, np.inf, ends[:, 1])
    bounds = Bounds(values, masses, ends[:, 0], beyond, mass, doomed, loose, invalid, stray, 0.0, 0, 0)
    check_masses(bounds)
    astray = mass * stray * generator.choice([0, 0.5, 1], k)
    where = np.where(generator.random(k) < 0.5, ends[:, 0], np.minimum(beyond, top - 1 + (beyond < top) * 99))
    where = np.clip(where, ends[:, 0], np.maximum(ends[:, 1], np.minimum(beyond, top)))
    free = np.array([*astray * (generator.random(k) < 0.5), doomed * stray, loose * generator.random()])
    exact = Exact(
        np.concatenate([values, where, draw(len(free))]), np.concatenate([masses, mass - astray, free]), frozen
    )
    check_inside(bounds, frozen, exact)


def test_a_temperature_divides_the_logits():
    start, tokenizer, end = toy("byte_level", WEIGHTS["numbers"]), TOKENIZERS["byte_level"], END["byte_level"]

    def hot(path):
        law = start.law(path) ** 0.5
        return law / law.sum()

    known = [
        bound_law(toy_start, tokenizer, [end], GAUSSIAN, 5, gap=0, max_new_tokens=3, temperature=temperature)
        for toy_start, temperature in ((start, 2.0), (Toy(hot, [[]]), 1.0))
    ]
    np.testing.assert_allclose(known[0].pit_w1(GAUSSIAN), known[1].pit_w1(GAUSSIAN), rtol=1e-9)
    assert known[0].valid == pytest.approx(known[1].valid)


@pytest.mark.parametrize("wrong", [{"stray": 1.5}, {"gap": -1}, {"nodes": 0}, {"max_new_tokens": 0}])
def test_settings_out_of_range_are_named(wrong):
    start = toy("byte_level", WEIGHTS["numbers"])
    with pytest.raises(CftError, match="stray share from 0 to 1"):
        bound_law(start, TOKENIZERS["byte_level"], [0], GAUSSIAN, 5, **wrong)
