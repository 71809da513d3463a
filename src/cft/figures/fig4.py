"""The most frequent answers to "a random weekday" and "a random city" by method, of the models that the paper shows."""

from collections import Counter

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cft import CftError
from cft.benchmarks import open_ended
from cft.evidence import NOUN_MODELS
from cft.figures import Sources, first_run, method_styles, styled
from cft.stats import wilson
from cft.summary import in_order, where

READS = {"draws": ["open_ended"]}
TOP = 8
EMPTY = "(empty)"
OUTCOMES = {"weekday": 7}  # the answers to a noun, where there is no doubt how many
LONGEST_LABEL = 16


@styled
def draw(sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """A row of panels per noun, a column per method; the numbers are the bars: answer, count, share, interval."""
    chosen = {noun: first_run(sources.need("draws"), "open_ended", part) for noun, part in NOUN_MODELS.items()}
    answers = {noun: found for noun, rows in chosen.items() if len(found := where(rows, prompt_id=noun))}
    if not answers:
        raise CftError(
            f"the open-ended draws hold neither of the nouns {', '.join(NOUN_MODELS)}; raise the benchmark's limit"
        )
    methods = in_order(method for rows in answers.values() for method in rows["method"])
    styles = method_styles(methods)

    figure = Figure(figsize=(max(4.8, 2.4 * len(methods)), 2.5 * len(answers) + 0.4))
    grid = figure.subplots(len(answers), len(methods), sharex="row", squeeze=False)
    numbers = []
    for panels, (noun, rows) in zip(grid, answers.items(), strict=True):
        model = rows["model"].iloc[0]
        for axes, method in zip(panels, methods, strict=True):
            texts = where(rows, method=method)["text"].tolist()
            found = top_answers(texts).assign(noun=noun, model=model, method=method, **_perfect(noun, len(texts)))
            _panel(axes, found, styles[method]["color"])
            axes.set_title(
                f"{method}: a random {noun}\n{_summary(found)}", loc="right"
            )  # to the right, as there is room on the left, over the answers
            numbers.append(found)
        widest = max((found["high"].max() for found in numbers[-len(methods) :] if len(found)), default=1)
        panels[0].set_xlim(0, 103 * widest)  # percent, and a little room; the row shares the axis
        panels[0].set_ylabel(model)
    for axes in grid[-1]:
        axes.set_xlabel("share of draws (%)")
    figure.align_ylabels(grid[:, 0])
    return figure, pd.concat(numbers, ignore_index=True)


def top_answers(texts: list[str]) -> pd.DataFrame:
    """The most frequent normalised answers: answer, count, share, low, high (95% Wilson), and draws, different, top4.

    Ties are in alphabetical order. Empty answers count among the draws and are shown, but are none of those that differ
    or of the top four, as in the scores.
    """
    counts = Counter(open_ended.normalise(text) or EMPTY for text in texts)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [(answer, count, *wilson(count, len(texts))) for answer, count in ordered[:TOP]]
    found = pd.DataFrame(rows, columns=["answer", "count", "share", "low", "high"])
    answers = [count for answer, count in ordered if answer != EMPTY]
    return found.assign(draws=len(texts), different=len(answers), top4=sum(answers[:4]) / max(len(texts), 1))


def _perfect(noun: str, draws: int) -> dict[str, float]:
    """The shares of the first and the first four answers of a sampler whose answers are equally likely, where there is
    one number of them."""
    known = noun in OUTCOMES and draws
    return {
        name: open_ended.expected_share(OUTCOMES[noun], draws, most) if known else np.nan
        for name, most in (("top_perfect", 1), ("top4_perfect", 4))
    }


def _summary(found: pd.DataFrame) -> str:
    if found.empty:
        return "not drawn"
    perfect = found["top4_perfect"][0]
    beside = "" if np.isnan(perfect) else f" (perfect: {perfect:.0%})"
    return f"{found['different'][0]} different in {found['draws'][0]}\ntop four {found['top4'][0]:.0%}{beside}"


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
