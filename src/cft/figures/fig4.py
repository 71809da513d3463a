"""The most frequent answers of the first model to "a random weekday" and "a random city", by method."""

from collections import Counter

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cft import CftError
from cft.benchmarks import open_ended
from cft.figures import Sources, first_run, method_styles, styled
from cft.stats import wilson
from cft.summary import in_order, where

NOUNS = ("weekday", "city")
TOP = 8
LONGEST_LABEL = 16


@styled
def draw(sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """A row of panels per noun, a column per method; the numbers are the bars: answer, count, share, interval."""
    draws = first_run(sources.need("draws"), "open_ended")
    nouns = [noun for noun in NOUNS if noun in set(draws["prompt_id"])]
    if not nouns:
        raise CftError(
            f"the open-ended draws hold neither of the nouns {', '.join(NOUNS)}; raise the benchmark's limit"
        )
    methods = in_order(draws["method"])
    styles = method_styles(methods)

    figure = Figure(figsize=(max(4.8, 2.4 * len(methods)), 2.5 * len(nouns) + 0.4))
    grid = figure.subplots(len(nouns), len(methods), sharex="row", squeeze=False)
    numbers = []
    for panels, noun in zip(grid, nouns, strict=True):
        for axes, method in zip(panels, methods, strict=True):
            texts = where(draws, prompt_id=noun, method=method)["text"].tolist()
            found = top_answers(texts).assign(noun=noun, method=method)
            _panel(axes, found, styles[method]["color"])
            axes.set_title(
                f"{method}: a random {noun}\n{_summary(found)}", loc="right"
            )  # to the right, as there is room on the left, over the answers
            numbers.append(found)
        widest = max((found["high"].max() for found in numbers[-len(methods) :] if len(found)), default=1)
        panels[0].set_xlim(0, 103 * widest)  # percent, and a little room; the row shares the axis
    for axes in grid[-1]:
        axes.set_xlabel("share of draws (%)")
    figure.suptitle(str(draws["model"].iloc[0]), fontsize=9)
    return figure, pd.concat(numbers, ignore_index=True)


def top_answers(texts: list[str]) -> pd.DataFrame:
    """The most frequent normalised answers: answer, count, share, low, high (95% Wilson), different (answers in all).

    Ties are in alphabetical order. Empty answers count among the draws and are shown as such.
    """
    counts = Counter(open_ended.normalise(text) or "(empty)" for text in texts)
    top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:TOP]
    rows = [(answer, count, *wilson(count, len(texts))) for answer, count in top]
    found = pd.DataFrame(rows, columns=["answer", "count", "share", "low", "high"])
    return found.assign(draws=len(texts), different=len(counts))


def _summary(found: pd.DataFrame) -> str:
    if found.empty:
        return "not drawn"
    return f"{found['different'][0]} different in {found['draws'][0]}, top four {found['share'][:4].sum():.0%}"


def _panel(axes: Axes, found: pd.DataFrame, color: str) -> None:
    places = np.arange(len(found))
    share, low, high = (100 * found[name].to_numpy() for name in ("share", "low", "high"))
    axes.barh(places, share, height=0.7, color=color, alpha=0.55)
    axes.hlines(places, low, high, color="black", linewidth=0.9)
    axes.set_yticks(places, [_short(answer) for answer in found["answer"]])
    axes.set_ylim(TOP - 0.4, -0.6)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _short(answer: str) -> str:
    # A dollar sign would start a formula; other control characters have no glyph.
    text = "".join(character if character.isprintable() else "�" for character in answer).replace("$", r"\$")
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"
