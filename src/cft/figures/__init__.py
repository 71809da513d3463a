"""Figures: one module per figure. Scores and draws in; a figure and the numbers it shows out.

A module has `draw(sources) -> (Figure, DataFrame)`; the frame holds every number that the figure shows. Which sources
it is given, and of which benchmarks, is said in the configuration.
Its caption is workflow/report/NAME.rst.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib.style
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from cft import CftError, parts
from cft.distributions import Registry, registry
from cft.provenance import replacing
from cft.summary import in_order, named, where
from cft.trie import Ragged

STYLE = Path(__file__).parent / "style.mplstyle"

# Okabe and Ito's colours, which people with any kind of colour blindness can tell apart; a marker each, for print.
# Methods of config/matched.yaml are darker than those that they are like; others have colours of Paul Tol's.
KNOWN_METHODS = {
    "base": ("#000000", "o"), "soft": ("#0072B2", "s"), "hard": ("#D55E00", "^"), "ssot": ("#009E73", "D"),
    "verbalised": ("#CC79A7", "v"), "temperature": ("#56B4E9", "P"),
    "soft-matched": ("#003B5C", "<"), "hard-matched": ("#7A3600", ">"), "hybrid": ("#E69F00", "X"),
}  # fmt: skip
OTHER_COLOURS, OTHER_MARKERS = ("#7F7F7F", "#882255", "#44AA99", "#999933"), ("*", "p", "d", "h")
OTHER_LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
LINES = {"o": (0, (1, 1)), "s": "-", "^": (0, (5, 1.5)), "D": (0, (5, 1, 1, 1)), "v": (0, (3, 1))}


@dataclass(frozen=True)
class Sources:
    """What a figure may read; None where the caller did not supply it.

    scores      model, method, seed, benchmark, split, item, metric, value
    draws       model, method, seed, benchmark, prompt_id, draw, text, tokens, finished
    tokenizer   texts -> (the token ids of all of them in one row, the number of each), without special tokens
    decode      token ids -> text
    terminator  token id that ends an answer
    """

    scores: pd.DataFrame | None = None
    draws: pd.DataFrame | None = None
    tokenizer: Callable[[list[str]], Ragged] | None = None
    decode: Callable[[list[int]], str] | None = None
    terminator: int | None = None
    registry: Registry = field(default_factory=registry)

    def need(self, name: str) -> Any:
        """One source; raises CftError when it was not supplied."""
        source = getattr(self, name)
        if source is None:
            option = f"--{name}" if name in ("scores", "draws") else "--model"
            raise CftError(f"this figure needs the source {name!r}, which was not given ({option} of `cft figure`)")
        return source


def load(name: str) -> ModuleType:
    """The module of one figure; raises CftError for an unknown name."""
    return parts.load(__name__, name, ["draw"])


def styled(draw: Callable[[Sources], tuple[Figure, pd.DataFrame]]) -> Callable[[Sources], tuple[Figure, pd.DataFrame]]:
    """Draw with style.mplstyle on top of matplotlib's defaults, so that no user's setting changes a figure."""

    @wraps(draw)
    def wrapped(sources: Sources) -> tuple[Figure, pd.DataFrame]:
        with matplotlib.style.context(STYLE, after_reset=True):
            return draw(sources)

    return wrapped


def method_styles(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line style of each method: the known ones always the same, others by their sorted names.

    A colour comes back with another marker and line style. Raises CftError where no pair of them is left.
    """
    others = sorted(set(methods) - set(KNOWN_METHODS))
    colours = len(OTHER_COLOURS)
    if len(others) > colours**2:
        raise CftError(f"no colours for {len(others)} methods of one's own ({', '.join(others)}); add to cft/figures")
    styles = {name: (*look, LINES.get(look[1], "-")) for name, look in KNOWN_METHODS.items()}
    for place, name in enumerate(others):
        turn = place // colours
        marker = OTHER_MARKERS[(place + turn) % colours]
        styles[name] = OTHER_COLOURS[place % colours], marker, OTHER_LINES[turn]
    return {name: dict(zip(("color", "marker", "linestyle"), styles[name], strict=True)) for name in methods}


def line(style: dict[str, Any]) -> dict[str, Any]:
    """A method's style for a line without markers."""
    return style | {"marker": ""}


def decimal_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis that read 0.1, 0.2, 0.5; only powers of ten where more would touch each other."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def first_run(draws: pd.DataFrame, benchmark: str, part: str = "") -> pd.DataFrame:
    """A benchmark's draws of one model and its first seed; raises CftError when there are none.

    The first model whose name contains `part`, in any case, or else the first of all. One seed only: adapters of
    different seeds are different models, and intervals of pooled draws would not say so.
    """
    rows = where(draws, benchmark=benchmark)
    if rows.empty:
        raise CftError(f"the draws hold nothing of the benchmark {benchmark!r}")
    models = in_order(rows["model"])
    rows = where(rows, model=named(models, part) or models[0])
    return where(rows, seed=rows["seed"].iloc[0])


def save(figure: Figure, numbers: pd.DataFrame, pdf_path: Path | str) -> None:
    """Write `pdf_path`, an .svg, a .png and a .csv of the numbers beside it; the same figure gives the same bytes."""
    path = Path(pdf_path)
    with matplotlib.style.context(STYLE, after_reset=True):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once: each further pass would move things by a hair
        for suffix, undated in ((".pdf", "CreationDate"), (".svg", "Date"), (".png", "Software")):
            with replacing(path.with_suffix(suffix)) as temporary:
                figure.savefig(temporary, format=suffix[1:], metadata={undated: None})
    with replacing(path.with_suffix(".csv")) as temporary:
        numbers.to_csv(temporary, index=False, float_format="%.6g")
