"""What an adapter costs against what it gives: change of the tinyBenchmarks mean, fidelity on unseen families."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cft import CftError
from cft.figures import Sources, decimal_ticks, method_styles, styled
from cft.paired import BASE, five_tasks, scores_of
from cft.resampling import interval
from cft.summary import cell, columns, drawn, estimate, in_order

READS = {"scores": ["tinybenchmarks"]}
SPLIT = "unseen_families"
NEEDS_BASE = True  # cft.foresee: without it there is nothing to show
FEW = 3
POINT = 2.8  # half a marker's width, in points
LABEL = (5.0, 7.5)  # width of a digit and height of a label, in points
FAR = 0.1  # square points of overlap that a point of distance outweighs
# Where a number may stand around its point, nearest first, in points.
PLACES = [
    (radius * np.cos(angle), radius * np.sin(angle))
    for radius in (8, 11, 15, 20, 26, 33, 41)
    for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False) + np.pi / 4
]
Box = tuple[float, ...]  # left, bottom, right, top


@styled
def draw(sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """One panel, for more than FEW models one per tuned method; the numbers are the points, intervals and floors."""
    found = points(sources.need("scores"))
    models, methods = in_order(found["model"]), in_order(found["method"])
    styles: Any = method_styles(methods)
    tuned = [name for name in methods if name != BASE]
    kept = [[BASE, name] for name in tuned] if len(models) > FEW and tuned else [methods]
    parts: list[Any] = [found[found["method"].isin(names)] for names in kept]

    figure = Figure(figsize=(5.0, 3.8) if len(models) == 1 else (7.2, 1.0 + 2.9 * len(parts)))
    panels = figure.subplots(len(parts), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, part in zip(panels, parts, strict=True):
        _panel(axes, part, styles)
        axes.set_ylabel("mean of five tasks, change to base\n(percentage points)")
    decimal_ticks(panels[0].xaxis)
    panels[-1].set_xlabel("W1 on the probability scale, unseen families (lower: more faithful)")
    handles = [Line2D([], [], **(styles[name] | {"linestyle": ""}), label=name) for name in methods]
    handles.append(Line2D([], [], color="0.6", linewidth=2.2, label="perfect sampler (floor)"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    if len(models) == 1:
        panels[0].set_title(str(models[0]))
        return figure, found
    names = [f"{number:\N{FIGURE SPACE}>2}  {name}" for number, name in enumerate(models, 1)]
    numbered = [Line2D([], [], linestyle="", label=name) for name in names]
    figure.legend(handles=numbered, loc="outside right center", handlelength=0, handletextpad=0)
    figure.draw_without_rendering()  # before that, nothing has its place
    for axes, part in zip(panels, parts, strict=True):
        _number(figure, axes, part, models, styles)
    return figure, found


def _panel(axes: Axes, found: pd.DataFrame, styles: dict[str, Any]) -> None:
    axes.set_xscale("log")
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=1)
    axes.axvline(float(np.nanmean(found["floor"])), color="0.6", linewidth=2.2, zorder=1)
    for row in found.to_dict("records"):
        style = styles[row["method"]]
        thin = {"color": style["color"], "linewidth": 0.6, "alpha": 0.5, "zorder": 2}
        axes.plot([row["pit_w1_low"], row["pit_w1_high"]], [row["change"]] * 2, **thin)
        axes.plot([row["pit_w1"]] * 2, [row["change_low"], row["change_high"]], **thin)
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.5}  # tells points apart that overlap
        axes.plot(row["pit_w1"], row["change"], markersize=2 * POINT, zorder=3, **style, **edge)


def points(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per model and method that was run on both benchmarks: pit_w1 and change, each with its interval, and floor.

    `change` is in percentage points, 0 for base. Raises CftError when no method was run on both.
    """
    structured, correct = scores_of(scores, "structured"), scores_of(scores, "tinybenchmarks", ["correct"])
    rows = []
    for model, method in itertools.product(in_order(scores["model"]), in_order(scores["method"])):
        distance = drawn(structured, "pit_w1", model, method, SPLIT)
        change = five_tasks(correct, model, method, BASE)
        if distance.empty or np.isnan(change.found):
            continue
        across = {"model": model, "method": method} | columns("pit_w1", estimate(distance))
        found = interval(change)._asdict().values()
        upward = dict(zip(("change", "change_low", "change_high"), (100 * value for value in found), strict=True))
        floor = estimate(cell(structured, "pit_w1_floor", model, method, SPLIT)).estimate
        rows.append(across | upward | {"floor": floor})
    if not rows:
        raise CftError(
            "no method has scores of structured and, with base's, of the five tasks of tinybenchmarks; run both"
        )
    return pd.DataFrame(rows)


def _number(figure: Figure, axes: Axes, found: pd.DataFrame, models: list[str], styles: dict[str, Any]) -> None:
    """Put each model's number beside its points: the nearest place that touches no point and no other number."""
    scale = figure.dpi / 72
    rows = found.to_dict("records")
    centres = axes.transData.transform(found[["pit_w1", "change"]].to_numpy(float)) / scale
    page = tuple(np.array(axes.bbox.extents) / scale)
    taken = [(x - POINT, y - POINT, x + POINT, y + POINT) for x, y in centres] + _lines(axes, found, scale)
    # The most crowded points first, as the others have more places left.
    near = [(np.hypot(*(centres - centre).T) < 30).sum() for centre in centres]
    for i in np.argsort(near, kind="stable")[::-1]:
        row = rows[i]
        text = str(models.index(row["model"]) + 1)
        boxes = [_box(centres[i], offset, text) for offset in PLACES]
        costs = [
            sum(_overlap(box, other) for other in taken) + _outside(box, page) + FAR * np.hypot(*offset)
            for box, offset in zip(boxes, PLACES, strict=True)
        ]
        best = int(np.argmin(costs))
        taken.append(boxes[best])
        color = styles[row["method"]]["color"]
        axes.annotate(
            text, (row["pit_w1"], row["change"]), PLACES[best], textcoords="offset points", ha="center", va="center",
            fontsize=6.5, color=color, zorder=4, in_layout=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.4, "shrinkA": 3, "shrinkB": POINT},
        )  # fmt: skip


def _lines(axes: Axes, found: pd.DataFrame, scale: float) -> list[Box]:
    """Boxes of the intervals and of the line at 0, in points."""
    ends = [(axes.get_xlim()[0], 0.0, axes.get_xlim()[1], 0.0)]
    for row in found.to_dict("records"):
        ends.append((row["pit_w1_low"], row["change"], row["pit_w1_high"], row["change"]))
        ends.append((row["pit_w1"], row["change_low"], row["pit_w1"], row["change_high"]))
    corners = axes.transData.transform(np.array(ends, float).reshape(-1, 2)).reshape(-1, 4) / scale
    thick = 0.3 * np.array([-1, -1, 1, 1])
    return [tuple(box) for box in corners[np.isfinite(corners).all(axis=1)] + thick]


def _box(centre: np.ndarray, offset: tuple[float, float], text: str) -> Box:
    (x, y), width, height = centre + np.array(offset), LABEL[0] * len(text), LABEL[1]
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _overlap(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)


def _outside(box: Box, page: Box) -> float:
    return 1e3 * ((box[0] < page[0]) + (box[1] < page[1]) + (box[2] > page[2]) + (box[3] > page[3]))
