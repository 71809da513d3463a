"""Fidelity family by family: PIT-scale W1 of each method, beside a perfect sampler."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cft import CftError
from cft.benchmarks.structured import family_of
from cft.figures import Sources, decimal_ticks, method_styles, styled
from cft.fit import ALPHA, benjamini_hochberg
from cft.summary import SPLITS, in_order, where

READS = {"scores": ["structured"]}
KEYS = ["model", "method", "seed", "split", "item"]
METRICS = ["pit_w1", "pit_w1_floor", "pit_w1_floor_high", "p_fit"]


@styled
def draw(sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """A panel per split, a row per family, in it a point per method; the numbers are those of `families`."""
    found = families(sources.need("scores"))
    methods = in_order(found["method"])
    styles = method_styles(methods)
    splits = [split for split in SPLITS if split in set(found["split"])]
    listed = {split: _sorted_families(where(found, split=split), methods[-1]) for split in splits}

    longest = max(map(len, listed.values()))
    figure = Figure(figsize=(3.4 * len(splits) + 0.6, 1.1 + longest * (0.1 + 0.055 * len(methods))))
    for axes, split in zip(figure.subplots(1, len(splits), sharex=True, squeeze=False)[0], splits, strict=True):
        # As far apart on the page in every panel.
        step = 0.8 / len(methods) * len(listed[split]) / longest
        _panel(axes, where(found, split=split), listed[split], styles, step)
        axes.set_title(SPLITS[split])
    figure.supxlabel("W1 on the probability scale", fontsize=8)
    figure.legend(handles=_legend(found, methods, styles), loc="outside upper center", ncols=min(6, len(methods) + 2))
    return figure, found


def families(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per split, family and method.

    Columns: split, family, method, runs (models, training seeds and prompts together), value (their mean of pit_w1),
    low, high (the least and greatest of them), floor and floor_high (mean over runs of what a perfect sampler scores:
    its expectation, its 95 % quantile), rejected (the share of runs that the test of fit rejects, false ones being 5 %
    of the rejections within model, method and split). NaN where the scores lack a metric.
    Raises CftError when the scores hold no pit_w1 of the two splits.
    """
    kept: Any = where(scores, benchmark="structured")
    kept = kept[kept["metric"].isin(METRICS) & kept["split"].isin(SPLITS)]
    if where(kept, metric="pit_w1").empty:
        raise CftError(f"the structured scores hold no draws of the splits {', '.join(SPLITS)}; add the benchmark")
    runs: Any = kept.pivot(index=KEYS, columns="metric", values="value").reindex(columns=METRICS).reset_index()
    p_values = runs.groupby(["model", "method", "split"])["p_fit"].transform(benjamini_hochberg)
    runs = runs.assign(family=runs["item"].map(family_of), rejected=(p_values <= ALPHA).where(p_values.notna()))
    named = {
        "runs": ("pit_w1", "size"),
        "value": ("pit_w1", "mean"),
        "low": ("pit_w1", "min"),
        "high": ("pit_w1", "max"),
        "floor": ("pit_w1_floor", "mean"),
        "floor_high": ("pit_w1_floor_high", "mean"),
        "rejected": ("rejected", "mean"),
    }
    found = runs.astype({"rejected": float}).groupby(["split", "family", "method"]).agg(**named).reset_index()
    order = [in_order(scores[column]).index for column in ("split", "method")]
    place = found.assign(split=found["split"].map(order[0]), method=found["method"].map(order[1]))
    return found.loc[place.sort_values(["split", "family", "method"]).index].reset_index(drop=True)


def _sorted_families(found: pd.DataFrame, method: str) -> list[str]:
    """The families of a split by the distance of one method, the least first; those it lacks come last."""
    distance = where(found, method=method).set_index("family")["value"]
    return sorted(in_order(found["family"]), key=lambda family: (distance.get(family, np.inf), family))


def _panel(axes: Axes, found: pd.DataFrame, names: list[str], styles: dict[str, Any], step: float) -> None:
    axes.set_xscale("log")
    axes.grid(True, axis="both")
    methods = list(styles)
    floor, high = found[["floor", "floor_high"]].mean().to_numpy(float)
    if np.isfinite([floor, high]).all():
        axes.axvspan(floor, high, color="0.85", linewidth=0, zorder=0, gid="floor")
    if np.isfinite(floor):
        axes.axvline(floor, color="0.6", linewidth=1.2, zorder=1)
    for row in found.to_dict("records"):
        style = styles[row["method"]]
        height = names.index(row["family"]) + (methods.index(row["method"]) - (len(methods) - 1) / 2) * step
        if row["runs"] > 1:
            axes.plot([row["low"], row["high"]], [height] * 2, color=style["color"], linewidth=0.8, zorder=2)
        face = "white" if row["rejected"] == 0 else style["color"]
        marker = {"marker": style["marker"], "color": style["color"], "markerfacecolor": face, "markersize": 3.5}
        axes.plot(row["value"], height, zorder=3, **marker)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    decimal_ticks(axes.xaxis)


def _legend(found: pd.DataFrame, methods: list[str], styles: dict[str, Any]) -> list[Any]:
    handles: list[Any] = [Line2D([], [], **(styles[name] | {"linestyle": ""}), label=name) for name in methods]
    if np.isfinite(found["floor_high"]).any():
        handles.append(Patch(color="0.85", label="perfect sampler"))
    if 0 in set(found["rejected"]):
        handles.append(
            Line2D([], [], color="0.3", marker="o", markerfacecolor="white", linestyle="", label="not rejected")
        )
    return handles
