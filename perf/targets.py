"""What a target costs: its support, its trie and the labels of 32 drawn values, against loops and dictionaries.

    python perf/targets.py

A Gaussian with five decimals, SmolLM2's tokenizer. The straightforward way takes value after value: a call of the
tokenizer for its tokens, a path of nested dictionaries that add up the mass of what begins alike; the law after a
prefix is what hangs below it. The masses are one call of the distribution function. Two more rows say how much depends
on the other way: masses value by value too, and all tokens by one call. Same strings, same laws.
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from record import ROUNDS, compared, in_turns, keep

from cft import chat
from cft.distributions import registry
from cft.models import load_tokenizer
from cft.target import discretise
from cft.trie import build_trie

NAME, PARAMETERS, DECIMALS, DRAWN = "gaussian", {"mu": 3.5, "sigma": 3.0}, 5, 32
BINS, WANTED = (100, 1000, 10_000, 16_384, 100_000), {16_384: 20}
TERMINATOR = 2

Laws = list[list[dict[int, float]]]


def ours(tokenizer: Any, frozen: Any, bins: int) -> tuple[list[str], Laws]:
    """The values, and the laws along each of DRAWN values."""
    target = discretise(NAME, frozen, registry().quantiles, DECIMALS, bins)
    trie = build_trie(chat.tokenize_values(tokenizer, target.values), target.probabilities, TERMINATOR)
    rows = trie.row[drawn(len(target.values))]
    along = [trie.laws_along(int(row)) for row in rows]
    return target.values, [[dict(zip(ids.tolist(), law, strict=True)) for ids, law in laws] for laws in along]


def drawn(count: int) -> np.ndarray:
    return np.linspace(0, count - 1, DRAWN).astype(int)


def naive(
    tokenizer: Any, frozen: Any, bins: int, slow_masses: bool = False, fast_tokens: bool = False
) -> tuple[list[str], Laws]:
    """The same in loops."""
    mass = naive_support(frozen, bins, slow_masses)
    total = sum(mass.values())
    root: dict[int, Any] = {}
    if fast_tokens:
        paths = tokenizer(list(mass), add_special_tokens=False).input_ids
    else:
        paths = [tokenizer(value, add_special_tokens=False).input_ids for value in mass]
    for path, probability in zip(paths, mass.values(), strict=True):
        path.append(TERMINATOR)
        below = root
        for token in path:
            node = below.setdefault(token, [0.0, {}])
            node[0] += probability / total
            below = node[1]
    return list(mass), [naive_laws(root, paths[index]) for index in drawn(len(paths))]


def naive_support(frozen: Any, bins: int, slow: bool) -> dict[str, float]:
    """Strings and masses: the difference of the distribution function between the middles to a value's neighbours."""
    low, high = (frozen.ppf(q) for q in registry().quantiles)
    step = 10**-DECIMALS
    first, last = int(np.ceil(low / step)), int(np.floor(high / step))
    points = [(first + int(place)) / 10**DECIMALS for place in np.linspace(0, last - first, bins)]
    middles = [(points[i] + points[i + 1]) / 2 for i in range(len(points) - 1)]
    inner = [float(frozen.cdf(middle)) for middle in middles] if slow else frozen.cdf(middles).tolist()
    edges = [0.0, *inner, 1.0]
    mass: dict[str, float] = {}
    for index, point in enumerate(points):
        text = f"{point:.{DECIMALS}f}"
        mass[text] = mass.get(text, 0.0) + edges[index + 1] - edges[index]
    return mass


def naive_laws(root: dict[int, Any], path: list[int]) -> list[dict[int, float]]:
    """The law at each token of a path."""
    laws, below = [], root
    for token in path:
        total = sum(mass for mass, _ in below.values())
        laws.append({child: mass / total for child, (mass, _) in below.items()})
        below = below[token][1]
    return laws


def check(one: tuple[list[str], Laws], other: tuple[list[str], Laws]) -> None:
    """Fail unless strings are equal, and laws up to rounding."""
    assert one[0] == other[0], "the values differ"
    for ours_along, theirs_along in zip(one[1], other[1], strict=True):
        for law, wanted in zip(ours_along, theirs_along, strict=True):
            assert law.keys() == wanted.keys(), "the laws' tokens differ"
            assert all(abs(law[token] - wanted[token]) < 1e-9 for token in law), "the laws differ"


def main(
    model: Annotated[Path, typer.Option()] = Path("results/models/smollm2"),
    rounds: Annotated[int, typer.Option(min=1)] = ROUNDS,
) -> None:
    """Keep the section `targets`."""
    tokenizer, frozen = load_tokenizer(model), registry()[NAME].frozen(PARAMETERS)
    ours(tokenizer, frozen, BINS[0]), naive(tokenizer, frozen, BINS[0])
    other: dict[str, tuple[int, dict[str, bool]]] = {f"{bins:,} values": (bins, {}) for bins in BINS}
    other["16,384 values, against masses value by value too"] = 16_384, {"slow_masses": True}
    other["16,384 values, against all tokens by one call"] = 16_384, {"fast_tokens": True}
    rows = []
    for work, (bins, how) in other.items():
        ways = {"ours": partial(ours, tokenizer, frozen, bins), "naive": partial(naive, tokenizer, frozen, bins, **how)}
        times, found = in_turns(ways, rounds, warm_up=bins < 10_000)
        check(found["ours"], found["naive"])
        rows.append(compared(work, "s", times["ours"], times["naive"], None if how else WANTED.get(bins)))
        print(rows[-1], flush=True)
    keep("targets", "Support and trie of a target, labels of 32 drawn values, against loops over values", rows)


if __name__ == "__main__":
    typer.run(main)
