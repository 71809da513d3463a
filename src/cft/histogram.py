"""Draws of one prompt as a histogram for a terminal, beside the target where the prompt names one."""

import math
import textwrap
import unicodedata
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from cft.distributions import Family
from cft.numbers import read_number
from cft.stats import quantiles_of
from cft.target import LARGEST_TICK
from cft.text import strip_thinking

BINS = 12
MOST_VALUES = 20  # so many integers have a row each
MOST_TEXTS = 20
WIDEST_BAR = 40
LEAST_BAR = 3
PERCENT = 7  # columns of "100.0 %"
LARGEST_LISTED = 1e5  # standard deviation, in units of the target
QUANTILES = (0.001, 0.25, 0.75, 0.999)
ANYTHING = (-math.inf, math.inf)


@dataclass(frozen=True)
class Row:
    """One row: which draws, how many, and the shares of draws and (where there is one) target, between 0 and 1."""

    label: str
    count: int
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Bins:
    """Bins of numbers with an open one at each end.

    edges    [bins - 1] increasing; an inner bin holds its lower edge, the last one both edges
    labels   one per bin
    """

    edges: np.ndarray
    labels: list[str]


def histogram(
    texts: list[str], target: tuple[Family, dict[str, float]] | None, width: int, ascii_only: bool = False
) -> str:
    """The histogram of `texts`, no line wider than `width` columns.

    With a target (a family and its parameters): the shares of draws and target in the same bins; an invalid draw has a
    row of its own, so each side adds up to 100 %. Without: bins where most texts are numbers, else the commonest texts.
    """
    draws = f"{len(texts)} draw{'' if len(texts) == 1 else 's'}"
    if target is not None:
        rows, foot = target_rows(texts, *target), _invalid(texts, *target, ascii_only)
        head = f"{target[0].identifier(target[1])}, {draws}"
    else:
        rows, foot = number_rows(texts) or text_rows(texts, ascii_only), ""
        head = f"{draws}; the prompt names no known distribution with its parameters"
    lines = [*textwrap.wrap(head, width, break_on_hyphens=False), "", *_table(rows, width, ascii_only)]
    if foot:
        lines += ["", *textwrap.wrap(foot, width, break_on_hyphens=False)]
    return "\n".join(shorten(line, width, ascii_only) for line in lines)


def target_rows(texts: list[str], family: Family, parameters: dict[str, float]) -> list[Row]:
    """Bins with the shares of draws and target, and a row of invalid draws if any.

    The bins lie between the target's 0.1 % and 99.9 % quantiles, of a heavy tail only as far as three interquartile
    ranges beyond the quartiles: otherwise one bin would hold nearly everything.
    """
    frozen = family.frozen(parameters)
    low, high = frozen.support()
    read = [read_number(text, (low, high), family.discrete) for text in texts]
    # A draw on the support's bound may lie beside it by a rounding error.
    values = np.array([min(max(value, low), high) for value, code in read if code is None])
    bins = _bins(*_shown(_quantiles(frozen), family.discrete), family.discrete)
    # Between integers some of SciPy's functions are NaN.
    edges = np.floor(bins.edges) if family.discrete else bins.edges
    cumulative = frozen.cdf(edges)
    law = np.array([cumulative[0], *np.diff(cumulative), frozen.sf(edges[-1])])
    rows = _rows(bins, values, len(texts), law, bins.edges[0] <= low, bins.edges[-1] >= high)
    invalid = len(texts) - len(values)
    return [*rows, Row("invalid", invalid, (invalid / len(texts), 0.0))] if invalid else rows


def number_rows(texts: list[str]) -> list[Row]:
    """Bins of the numbers among `texts` and a row of the rest; empty unless most are numbers, and not all the same."""
    read = [read_number(text, ANYTHING, False) for text in texts]
    values = np.array([value for value, code in read if code is None])
    if 2 * len(values) <= len(texts) or values.min() == values.max():
        return []
    whole = bool((values == np.round(values)).all())
    shown = _shown(np.quantile(values, (0, *QUANTILES[1:3], 1), method="inverted_cdf"), whole)
    bins = _bins(*shown, whole)
    rows = _rows(bins, values, len(texts), None, bins.edges[0] <= values.min(), bins.edges[-1] >= values.max())
    other = len(texts) - len(values)
    return [*rows, Row("not a number", other, (other / len(texts),))] if other else rows


def text_rows(texts: list[str], ascii_only: bool = False) -> list[Row]:
    """The commonest answers, and a row of all others."""
    counts = Counter(printable(strip_thinking(text), ascii_only) or "(empty)" for text in texts)
    common = counts.most_common(MOST_TEXTS)
    rows = [Row(text, count, (count / len(texts),)) for text, count in common]
    other = len(texts) - sum(count for _, count in common)
    label = f"({len(counts) - len(common)} other texts)"
    return [*rows, Row(label, other, (other / len(texts),))] if other else rows


def printable(text: str, ascii_only: bool = False) -> str:
    """`text` on one line: control characters as Python escapes, and all beyond ASCII too if asked."""
    if ascii_only:
        text = text.encode("ascii", "backslashreplace").decode()
    return "".join(
        repr(character)[1:-1] if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") else character
        for character in text
    )


def columns(text: str) -> int:
    """Columns of a terminal that `text` takes: two for a wide character, none for an accent of its own."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.category(character) in ("Mn", "Me", "Cf") for character in text)


def shorten(text: str, width: int, ascii_only: bool = False) -> str:
    """`text`, or its start and a mark that fit into `width` columns."""
    if columns(text) <= width:
        return text
    text = text[: 2 * width]
    while text and columns(text) >= width:
        text = text[:-1]
    return text + ("~" if ascii_only else "…")


def _invalid(texts: list[str], family: Family, parameters: dict[str, float], ascii_only: bool) -> str:
    support = family.frozen(parameters).support()
    wrong = Counter(text for text in texts if read_number(text, support, family.discrete)[1] is not None)
    total = f"invalid (not a number of this distribution): {wrong.total()}"
    if not wrong:
        return total
    return f"{total}, such as '{shorten(printable(wrong.most_common(1)[0][0], ascii_only), 30, ascii_only)}'"


def _quantiles(frozen: Any) -> np.ndarray:
    # SciPy's own search fails for some Skellam laws; the other way lists all integers of the law.
    return quantiles_of(frozen, np.array(QUANTILES)) if frozen.std() < LARGEST_LISTED else frozen.ppf(QUANTILES)


def _shown(quantiles: Any, discrete: bool) -> tuple[float, float]:
    """The range to show, from the lowest number, the quartiles and the highest number."""
    low, first, third, high = np.nan_to_num(quantiles).tolist()
    reach = 3 * (third - first)
    if reach <= 0 or (discrete and high - low < MOST_VALUES):
        return low, high
    return max(low, first - reach), min(high, third + reach)


def _bins(low: float, high: float, discrete: bool) -> Bins:
    if discrete and max(abs(low), abs(high)) < LARGEST_TICK:
        return _integer_bins(math.floor(low), math.ceil(high))
    span = Decimal(high) - Decimal(low)
    # Decimal: an edge such as 0.3 is then the number that a draw "0.3" reads as.
    step = _step(span or Decimal(abs(low) or 1))
    first = math.floor(Decimal(low) / step)
    last = max(first + 1, math.ceil(Decimal(high) / step))
    edges = [_plain(step * tick) for tick in range(first, last + 1)]
    inner = _pairs(edges[:-1], edges[1:])
    return Bins(np.array([float(edge) for edge in edges]), [f"< {edges[0]}", *inner, f"> {edges[-1]}"])


def _integer_bins(low: int, high: int) -> Bins:
    step = 1 if high - low < MOST_VALUES else int(_step(Decimal(high - low + 1)))
    starts = range(low // step * step, high + 1, step)
    edges = np.array([*starts, starts[-1] + step]) - 0.5
    first, last = [str(start) for start in starts], [str(start + step - 1) for start in starts]
    return Bins(edges, [f"< {first[0]}", *(first if step == 1 else _pairs(first, last)), f"> {last[-1]}"])


def _step(span: Decimal) -> Decimal:
    """1, 2 or 5 times a power of ten: the one that cuts `span` into about BINS parts."""
    steps = [Decimal(digit).scaleb(span.adjusted() - power) for power in (2, 1, 0) for digit in (1, 2, 5)]
    return min(steps, key=lambda step: abs(math.log(span / step / BINS)))


def _plain(number: Decimal) -> str:
    # An exponent only where it saves room: edges of common size line up at the decimal point.
    return min(f"{number:f}", f"{number.normalize():e}", key=lambda text: max(len(text), 10))


def _pairs(first: list[str], last: list[str]) -> list[str]:
    left, right = max(map(len, first)), max(map(len, last))
    return [f"{a:>{left}} to {b:>{right}}" for a, b in zip(first, last, strict=True)]


def _rows(
    bins: Bins, values: np.ndarray, n: int, law: np.ndarray | None, nothing_below: bool, nothing_above: bool
) -> list[Row]:
    places = np.searchsorted(bins.edges, values, side="right")
    places[values == bins.edges[-1]] -= 1
    counts = np.bincount(places, minlength=len(bins.labels)).tolist()
    sides = [[count / n for count in counts], *([] if law is None else [law.tolist()])]
    rows = [Row(*row) for row in zip(bins.labels, counts, zip(*sides, strict=True), strict=True)]
    return rows[int(nothing_below) : len(rows) - int(nothing_above)]


def _table(rows: list[Row], width: int, ascii_only: bool) -> list[str]:
    sides = len(rows[0].shares)
    # Counts only where the target does not need the room.
    counts = [f"  {row.count}" if sides == 1 else "" for row in rows]
    room = width - max(map(len, counts))
    label = min(max(columns(row.label) for row in rows), max(1, room - sides * (LEAST_BAR + PERCENT + 3)))
    bar = min(WIDEST_BAR, max(1, (room - label) // sides - PERCENT - 3))
    heads = "".join(f"  {head:{bar + PERCENT + 1}}" for head in ("draws", "target")[:sides])
    top = max(max(row.shares) for row in rows) or 1
    lines = [" " * label + heads]
    for row, count in zip(rows, counts, strict=True):
        text = shorten(row.label, label, ascii_only)
        pad = " " * (label - columns(text))
        cells = "".join(
            f"  {_bar(share / top, bar, ascii_only):{bar}} {100 * share:{PERCENT - 2}.1f} %" for share in row.shares
        )
        lines.append(pad + text + cells + count)
    return [line.rstrip() for line in lines]


def _bar(part: float, width: int, ascii_only: bool) -> str:
    """A bar of `part` (0 to 1) of the width; what is not zero is seen."""
    if not part > 0:
        return ""
    if ascii_only:
        return "#" * max(1, round(part * width))
    full, eighths = divmod(max(1, round(part * width * 8)), 8)
    return "█" * full + ("", *"▏▎▍▌▋▊▉")[eighths]
