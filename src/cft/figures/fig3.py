"""Empirical distribution functions of the first model's valid draws against six targets, a line per method."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cft import CftError
from cft.benchmarks import structured
from cft.distributions import Registry
from cft.figures import Sources, first_run, line, method_styles, styled
from cft.numbers import valid_values
from cft.summary import in_order, where

READS = {"draws": ["structured"]}
PANELS = 6
# (split, discrete) of each panel, and familiar prompts that fill it when they were drawn.
SLOTS = [
    ("unseen_params", False), ("unseen_params", False), ("unseen_params", True),
    ("unseen_families", False), ("unseen_families", False), ("unseen_families", True),
]  # fmt: skip
FAMILIAR = ("gaussian", "gamma", "binomial", "weibull", "truncnorm", "poisson")
RANGE = (0.001, 0.999)
MARGIN = 0.15  # of the range, so that draws outside it show


@styled
def draw(sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """Six panels; the numbers are each method's valid draws and the target's distribution function there."""
    draws = first_run(sources.need("draws"), "structured")
    prompts = choose(sources.registry, in_order(draws["prompt_id"]))
    methods = in_order(draws["method"])
    styles = method_styles(methods)

    figure = Figure(figsize=(7.2, 2.5 * -(-len(prompts) // 3) + 0.6))
    grid = figure.subplots(-(-len(prompts) // 3), min(3, len(prompts)), sharey=True, squeeze=False)
    numbers = []
    for axes, prompt_id in zip(grid.flat, prompts, strict=False):
        rows = where(draws, prompt_id=prompt_id)
        numbers.append(_panel(axes, sources.registry, prompt_id, rows, methods, styles))
    for axes in grid.flat[len(prompts) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("share of draws ≤ value")
    lines = [Line2D([], [], color="0.65", linewidth=3, label="target")]
    lines += [Line2D([], [], **line(styles[name]), label=name) for name in methods]
    figure.legend(
        handles=lines, loc="outside upper center", ncols=len(lines), handlelength=3, title=draws["model"].iloc[0]
    )
    return figure, pd.concat(numbers, ignore_index=True)


def choose(registry: Registry, drawn: list[str]) -> list[str]:
    """At most six prompt_ids of different families where possible: SLOTS by split and kind, familiar families first.

    The choice looks at names only, never at the draws. Raises CftError when nothing was drawn.
    """
    if not drawn:
        raise CftError("there are no structured draws to show")
    splits = {prompt.prompt_id: prompt.split for prompt in registry.prompts}
    familiar = sorted(drawn, key=lambda prompt_id: structured.family_of(prompt_id) not in FAMILIAR)
    chosen: list[str] = []
    for split, discrete in SLOTS:
        fits = [p for p in familiar if splits.get(p) == split and registry.parse(p)[0].discrete == discrete]
        chosen += [p for p in fits if structured.family_of(p) not in map(structured.family_of, chosen)][:1]
    chosen += [p for p in familiar if p not in chosen]
    return sorted(chosen[:PANELS], key=lambda p: list(splits).index(p) if p in splits else len(splits))


def _panel(
    axes: Axes, registry: Registry, prompt_id: str, rows: pd.DataFrame, methods: list, styles: dict
) -> pd.DataFrame:
    family, parameters = registry.parse(prompt_id)
    frozen = family.frozen(parameters)
    low, high = (float(frozen.ppf(level)) for level in RANGE)
    margin = MARGIN * (high - low)
    points = np.linspace(low - margin, high + margin, 400)
    if family.discrete:
        points = np.arange(np.floor(low - margin), np.ceil(high + margin) + 1)
    shape = "steps-post" if family.discrete else "default"
    axes.plot(points, frozen.cdf(points), color="0.65", linewidth=3, drawstyle=shape)

    shares, found = [], [pd.DataFrame({"method": "target", "value": points})]
    for method in methods:
        texts = where(rows, method=method)["text"]
        values = valid_values(texts, frozen, family.discrete)
        if len(values):
            ends = [min(points[0], values[0]), *values, max(points[-1], values[-1])]
            heights = [0, *np.arange(1, len(values) + 1) / len(values), 1]
            axes.plot(ends, heights, drawstyle="steps-post", **line(styles[method]))
        shares.append(f"{method} {len(values) / len(texts):.0%} valid" if len(texts) else f"{method} not drawn")
        counts = {"draws": len(texts), "valid": len(values)}
        found.append(pd.DataFrame({"method": method, **counts, "value": values if len(values) else [np.nan]}))

    # The lower right corner is free under a curve that has risen by then; otherwise the upper left one is.
    middle = points[0] + 0.55 * (points[-1] - points[0])
    right = frozen.cdf(np.floor(middle) if family.discrete else middle) > 0.4
    corner = {"x": 0.98, "y": 0.03, "ha": "right", "va": "bottom"} if right else {"x": 0.02, "y": 0.97, "va": "top"}
    axes.text(s="\n".join(shares), **corner, transform=axes.transAxes, fontsize=6.5)
    axes.set(xlim=(points[0], points[-1]), ylim=(-0.02, 1.02), xlabel="value")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=family.discrete))
    axes.set_title(family.display_name + "\n" + ", ".join(f"{key}={value:g}" for key, value in parameters.items()))
    numbers = pd.concat(found, ignore_index=True)
    numbers.insert(0, "prompt_id", prompt_id)
    return numbers.assign(target_cdf=lambda frame: frozen.cdf(frame["value"].to_numpy(float)))
