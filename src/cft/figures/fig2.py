"""Fidelity per model and method on both held-out splits: normalised W1, PIT-scale W1 and trie KL."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cft.fidelity import structured
from cft.figures import Sources, decimal_ticks, method_styles, styled
from cft.summary import SPLITS, in_order, where
from cft.tables.table1 import law_bounds

READS = {"scores": ["structured"]}
ROWS = {
    "w1_over_scale": "normalised W1\n(target's scale)",
    "pit_w1": "W1 on the\nprobability scale",
    "trie_kl_nats": "trie KL\n(nats per token)",
}

CUT = 30  # an interval that ends so many times above the highest point is cut


@styled
def draw(sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """A row of panels per distance, a column per split; the numbers are the points, intervals and floors."""
    scores = sources.need("scores")
    found = structured(scores)
    found = pd.concat([where(found, measure=name) for name in ROWS], ignore_index=True)
    by_law = law_bounds(scores).reset_index().assign(measure="pit_w1")
    found = found.merge(by_law, "left", ["model", "method", "split", "measure"])
    models, methods = in_order(found["model"]), in_order(found["method"])
    styles = method_styles(methods)
    splits = [split for split in SPLITS if split in set(found["split"])]

    figure = Figure(figsize=(max(5.6, 2 + 0.075 * len(models) * (len(methods) + 1) * len(splits)), 6.2))
    grid = figure.subplots(len(ROWS), len(splits), sharex=True, sharey="row", squeeze=False)
    for panels, measure in zip(grid, ROWS, strict=True):
        for axes, split in zip(panels, splits, strict=True):
            _panel(axes, where(found, measure=measure, split=split), models, methods, styles)
        panels[0].set_ylabel(ROWS[measure])
        _keep_readable(panels, where(found, measure=measure))
        decimal_ticks(panels[0].yaxis)
    for axes, split in zip(grid[0], splits, strict=True):
        axes.set_title(SPLITS[split])
    for axes in grid[-1]:
        slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if len(models) > 2 else {}
        axes.set_xticks(range(len(models)), models, **slanted)
    columns = min(len(methods) + 1, int(figure.get_figwidth() / 1.3))
    figure.legend(handles=_legend(found, methods, styles), loc="outside upper center", ncols=columns)
    notes = _notes(found)
    if notes:
        figure.supxlabel("\n".join(notes), fontsize=7, x=0.02, ha="left")
    return figure, found


def _panel(axes: Axes, rows: pd.DataFrame, models: list, methods: list, styles: dict) -> None:
    axes.set_yscale("log")
    step = 1 / (len(methods) + 1)
    places = rows["model"].map(models.index) + (rows["method"].map(methods.index) - (len(methods) - 1) / 2) * step
    for place, (_, row) in zip(places, rows.iterrows(), strict=True):
        style = styles[row["method"]]
        sides = [place - 0.45 * step, place + 0.45 * step]
        if np.isfinite([row["floor"], row["floor_high"]]).all():
            axes.fill_between(sides, row["floor"], row["floor_high"], color="0.85", linewidth=0, gid="floor", zorder=0)
        if np.isfinite(row["floor"]):
            axes.plot(sides, [row["floor"]] * 2, color="0.6", linewidth=2.2, zorder=1)
        if not np.isfinite(row["value"]):
            axes.plot(place, 0.03, "x", color=style["color"], transform=axes.get_xaxis_transform(), gid="no-value")
            continue
        axes.plot([place] * 2, [row["low"], row["high"]], color=style["color"], linewidth=0.9, zorder=2)
        known = np.isfinite(row["law_pit_w1"])
        if known:
            ends = [row["law_pit_w1_low"], row["law_pit_w1_high"]]
            axes.plot([place + 0.3 * step] * 2, ends, color=style["color"], linewidth=3, alpha=0.6, gid="law", zorder=2)
        face = "white" if _incomplete(row) or known else style["color"]
        axes.plot(place, row["value"], marker=style["marker"], color=style["color"], markerfacecolor=face, zorder=3)
    axes.set_xlim(-0.6, len(models) - 0.4)


def _keep_readable(panels: np.ndarray, rows: pd.DataFrame) -> None:
    """Cut the axis above the points: a few wild valid draws stretch an interval by orders of magnitude."""
    highest, end = (np.nanmax(rows[name].to_numpy(float), initial=0) for name in ("value", "high"))
    if highest > 0 and end > CUT * highest:
        panels[0].set_ylim(top=CUT * highest)


def _incomplete(row: Any) -> bool:
    """Whether some prompt had no valid draw, so that this distance between valid draws leaves it out."""
    return row["measure"] == "w1_over_scale" and row["prompts_without_valid_draw"] > 0


def _legend(found: pd.DataFrame, methods: list, styles: dict) -> list[Line2D]:
    handles = [Line2D([], [], **(styles[name] | {"linestyle": ""}), label=name) for name in methods]
    if np.isfinite(found["floor"]).any():
        handles.append(Line2D([], [], color="0.6", linewidth=2.2, label="perfect sampler (floor)"))
    return handles


def _notes(found: pd.DataFrame) -> list[str]:
    notes = []
    if np.isfinite(found["law_pit_w1"].to_numpy(float)).any():
        notes.append("thick bar, middle row: what the law itself allows, without draws (hollow: by draws)")
    if any(_incomplete(row) and np.isfinite(row["value"]) for _, row in found.iterrows()):
        notes.append("hollow: prompts without a valid draw are left out of this distance")
    if np.isnan(found["value"].to_numpy(float)).any():
        notes.append("×: no value, as there was no valid draw at all or no law")
    return notes
