"""The method, drawn from the trie of one real target: its law, soft labels along a value, hard labels of several."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cft.figures import Sources, styled
from cft.target import Target, make_target
from cft.trie import Trie, build_trie

READS = {"tokenizer": []}
FAMILY, PARAMETERS, DECIMALS = "gaussian", {"mu": 1.0, "sigma": 2.0}, 1
HARD_DRAWS = 7
PLAIN, CHOSEN = "#9ecae1", "#08519c"
READABLE_LABELS = 16  # more token labels than this would touch each other


@styled
def draw(sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """Three panels; the numbers are every bar and every drawn token."""
    target = make_target(sources.registry, FAMILY, PARAMETERS, DECIMALS)
    terminator = sources.need("terminator")
    trie = build_trie(sources.need("tokenizer")(target.values), target.probabilities, terminator)
    decode = sources.need("decode")

    def name(token: int) -> str:
        return "end" if token == terminator else decode([token]).replace(" ", "␣")

    drawn = np.random.default_rng(3).choice(len(target.values), HARD_DRAWS, p=target.probabilities)
    paths = [trie.tokens[row, : trie.lengths[row]].tolist() for row in trie.row[drawn]]
    shown = max(range(HARD_DRAWS), key=lambda i: len(paths[i]))  # the longest path shows the most prefixes

    figure = Figure(figsize=(7.2, 1.0 + 0.68 * len(paths[shown])))
    left, middle, right = figure.subfigures(1, 3, squeeze=False, width_ratios=(1.1, 1.35, 0.95))[0]
    law = _law(left.subplots(), target, int(drawn[shown]))
    soft = _soft(middle.subplots(len(paths[shown]), 1, squeeze=False)[:, 0], trie, paths[shown], name)
    hard = _hard(right.subplots(), [target.values[i] for i in drawn], paths, name)
    return figure, pd.concat([law, soft, hard], ignore_index=True)


def _law(axes: Axes, target: Target, chosen: int) -> pd.DataFrame:
    points = np.array(target.values, float)
    axes.bar(points, target.probabilities, width=10.0**-DECIMALS, color=PLAIN)
    axes.bar(points[chosen], target.probabilities[chosen], width=10.0**-DECIMALS, color=CHOSEN)
    axes.annotate(
        f"drawn: {target.values[chosen]}", (float(points[chosen]), float(target.probabilities[chosen])),
        xytext=(0.02, 0.97), textcoords="axes fraction", va="top", color=CHOSEN,
        arrowprops={"arrowstyle": "-", "color": CHOSEN, "linewidth": 0.6},
    )  # fmt: skip
    axes.set_ylim(0, 1.2 * target.probabilities.max())
    axes.set(xlabel=f"value (steps of {10.0**-DECIMALS:g})", ylabel="probability of the value")
    stated = ", ".join(f"{key}={value:g}" for key, value in PARAMETERS.items())
    axes.set_title(f"a  The target's law\n    {FAMILY}, {stated}")
    return pd.DataFrame({"panel": "law", "value": target.values, "probability": target.probabilities})


def _soft(panels: np.ndarray, trie: Trie, path: list[int], name: Callable[[int], str]) -> pd.DataFrame:
    rows = []
    for position, axes in enumerate(panels):
        tokens, probabilities = trie.law(path[:position])
        texts = [name(token) for token in tokens.tolist()]
        places = np.arange(len(texts))
        colors = [CHOSEN if token == path[position] else PLAIN for token in tokens.tolist()]
        axes.bar(places, probabilities, width=min(0.8, 0.08 * len(texts)), color=colors)
        shown = places if len(texts) <= READABLE_LABELS else places[tokens == path[position]]
        axes.set_xticks(shown, [texts[i] for i in shown])
        axes.set_xlim(-0.6 if len(texts) > 1 else -1.5, max(len(texts) - 0.4, 1.5))
        axes.set(ylim=(0, 1), yticks=(0, 1))
        prefix = "".join(name(token) for token in path[:position])
        axes.set_ylabel(f"“{prefix}”" if prefix else "start", rotation=0, ha="right", va="center")
        rows += [
            {"panel": "soft", "prefix": prefix, "position": position, "token": text, "probability": probability}
            for text, probability in zip(texts, probabilities, strict=True)
        ]
    panels[0].set_title("b  Soft labels: probability of each\n    next token after each prefix")
    panels[-1].set_xlabel("next token (dark: the drawn one)")
    return pd.DataFrame(rows)


def _hard(axes: Axes, values: list[str], paths: list[list[int]], name: Callable[[int], str]) -> pd.DataFrame:
    rows = []
    for line, (value, path) in enumerate(zip(values, paths, strict=True)):
        for position, token in enumerate(path):
            axes.text(
                position, line, name(token), ha="center", va="center", color="white", fontsize=7,
                bbox={"boxstyle": "round,pad=0.3", "facecolor": CHOSEN, "edgecolor": "none"},
            )  # fmt: skip
            rows.append(
                {"panel": "hard", "value": value, "position": position, "token": name(token), "probability": 1.0}
            )
    longest = max(map(len, paths))
    axes.set(xlim=(-0.6, longest - 0.4), ylim=(len(paths) - 0.4, -0.6), xlabel="token of the drawn value")
    axes.set_xticks(range(longest), [str(i + 1) for i in range(longest)])
    axes.set_yticks(range(len(values)), values)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    axes.set_title("c  Hard labels: the drawn\n    tokens, probability 1 each")
    return pd.DataFrame(rows)
