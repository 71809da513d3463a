"""Made-up laws of the next token with all their answers, and distances of these by another way than bounds.py's."""

import re
import zlib
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats as laws
from test_numbers import byte_fallback, byte_level

from cft import stats
from cft.numbers import read_number
from cft.target import Target

TOKENIZERS = {"byte_level": byte_level(), "byte_fallback": byte_fallback()}
END = {name: tokenizer.convert_tokens_to_ids("<end>") for name, tokenizer in TOKENIZERS.items()}
GAUSSIAN, EXPONENTIAL, POISSON = laws.norm(1, 2), laws.expon(scale=2), laws.poisson(1.5)
UNIFORM = laws.uniform(0.5, 12)  # its ends are within what a beginning may become
TARGETS = {"gaussian": GAUSSIAN, "exponential": EXPONENTIAL, "uniform": UNIFORM, "poisson": POISSON}

WEIGHTS = {
    "anything": {"<end>": 6, "other": 1, "</think>": 0},
    "numbers": {"<end>": 8, "other": 0.02, "</think>": 0, **dict.fromkeys([*"0123.-", "12", "-1"], 1)},
    "never ends": {"<end>": 1e-300, "1": 1, ".": 0.5, "2": 1},
    "no number": {"<end>": 1, "x": 1, " ": 0.01},
}
PLAIN = {
    "<end>": 4,
    "plain": 1,
    "other": 1e-300,
    "-": 0.3,
    ".": 2,
    **dict.fromkeys(["0", "1", "2", "3", "12", "-1"], 1),
}


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
