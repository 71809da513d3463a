"""One self-contained page of a fit: the target, the laws before and after, what the numbers mean, how it was made."""

import shlex
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.style
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cft.custom import OwnTarget
from cft.figures import STYLE, method_styles
from cft.ran import origin, text_of
from cft.summary import in_order, where
from cft.tables import number

TEMPLATES = Path(__file__).with_name("page")
MOST_SHOWN = 24  # outcomes in the figure and the table; laws.csv has them all
LAWS = ["target", "base", "tuned"]
GREY = "#bdbdbd"


def page(
    own: OwnTarget,
    asked: Sequence[Any],
    laws: pd.DataFrame,
    measures: pd.DataFrame,
    out: Path,
    facts: Mapping[str, Any],
    run: Mapping[str, Any],
) -> str:
    """The page as text.

    asked           the phrasings (name, split, text);  laws, measures: what `custom_fit.measure` found
    facts           method, seed, training, source, model, model_folder, file and its sha256
    run             what `provenance.run_facts` says of code, packages and machine
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    means = mean_laws(laws)
    sample = ["cft", "sample", "--model", facts["model_folder"], "--adapter", str(out / "adapter"), "--n", "20",
              "--prompt", own.prompts[0]]  # fmt: skip
    return environment.get_template("fit.html.j2").render(
        name=own.name,
        model=facts["model"],
        sentences=[sentence(where(measures, split=split), split, own) for split in in_order(measures["split"])],
        figure=Markup(figure(own, means, str(facts["method"]["labels"]))),
        alternative=f"The target beside the laws of the base and the tuned model, {', '.join(means)} phrasings.",
        table=table(own, means),
        splits=list(means),
        numeric=own.frozen is not None,
        most=MOST_SHOWN,
        outcomes=len(own.target.values),
        phrasings=[(phrasing, _both(measures, phrasing.name)) for phrasing in asked],
        bounded=own.frozen is not None,
        settings=_settings(facts),
        origin=origin([run]),
        command=shlex.join(sample),
    )


def mean_laws(laws: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For each split, trained first, the laws averaged over its phrasings: outcome, target, base, tuned."""
    found = {}
    for split in in_order(laws["split"]):
        means: Any = where(laws, split=split).groupby("outcome", sort=False)[LAWS].mean()
        found[split] = means.reset_index()
    return found


def sentence(measures: pd.DataFrame, split: str, own: OwnTarget) -> str:
    """What training did to the phrasings of one split, means over them."""
    of: Any = measures.groupby("model").mean(numeric_only=True)
    before, after = of.loc["base"], of.loc["tuned"]
    count = len(in_order(measures["phrasing"]))
    kind = "phrasing that it was trained on" if split == "trained" else "phrasing that it was not trained on"
    many = f"the {count} {kind.replace('phrasing', 'phrasings')}" if count > 1 else f"the {kind}"
    return (
        f"Asked with {many}, the model answers with one of the {len(own.target.values):,} outcomes with probability "
        f"{number(after['outcome_probability'])} (before: {number(before['outcome_probability'])}), and its total "
        f"variation distance from the target is {number(after['total_variation'])} "
        f"(before: {number(before['total_variation'])})."
    )


def table(own: OwnTarget, means: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Rows for readers: the label, the target's probability, then base and tuned for each split.

    For numbers probabilities of being at most a value, at so many values of the support; else of each outcome.
    """
    frames = [_cumulative(frame) if own.frozen is not None else _shortened(frame) for frame in means.values()]
    rows = []
    for parts in zip(*(frame.itertuples(index=False) for frame in frames), strict=True):
        cells = [parts[0].target, *(value for part in parts for value in (part.base, part.tuned))]
        rows.append({"label": parts[0].outcome, "cells": [f"{cell:.3f}" for cell in cells]})
    return rows


def _shortened(frame: pd.DataFrame) -> pd.DataFrame:
    """The likeliest outcomes in their order, the others together, then something else."""
    outcomes, rest = frame.iloc[:-1], frame.iloc[-1:]
    if len(outcomes) <= MOST_SHOWN:
        return frame
    kept = outcomes["target"].nlargest(MOST_SHOWN - 1).index.sort_values()
    others = outcomes.drop(index=list(kept))
    row = pd.DataFrame([{"outcome": f"{len(others):,} further outcomes", **others[LAWS].sum()}])
    return pd.concat([outcomes.loc[kept], row, rest], ignore_index=True)


def _cumulative(frame: pd.DataFrame) -> pd.DataFrame:
    """Distribution functions at no more than so many values, evenly apart; the last row is something else."""
    outcomes, rest = frame.iloc[:-1], frame.iloc[-1:]
    picked = np.unique(np.linspace(0, len(outcomes) - 1, min(MOST_SHOWN, len(outcomes))).astype(int))
    sums = outcomes[LAWS].cumsum().assign(outcome="at most " + outcomes["outcome"]).iloc[picked]
    return pd.concat([sums, rest], ignore_index=True)


def figure(own: OwnTarget, means: Mapping[str, pd.DataFrame], labels: str) -> str:
    """The laws as an SVG element, a panel for each split; texts stay texts."""
    colors = method_styles(["base", "soft" if labels == "law" else "hard"])
    styles = dict(zip(LAWS, [{"color": GREY}, *colors.values()], strict=True))
    with matplotlib.style.context(STYLE, after_reset=True):
        rows = 9 if own.frozen is not None else min(MOST_SHOWN, len(own.target.values)) + 1
        drawn = Figure(figsize=(5.4, len(means) * (0.7 + 0.3 * rows)))
        panels = drawn.subplots(len(means), squeeze=False)[:, 0]
        for panel, (split, frame) in zip(panels, means.items(), strict=True):
            draw = _curves if own.frozen is not None else _bars
            draw(panel, frame, styles)
            panel.set_title(f"{split} phrasings, mean over them")
        drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=len(LAWS))
        text = StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        drawn.savefig(text, format="svg", metadata=nothing)  # type: ignore[arg-type]
    return text.getvalue()[text.getvalue().index("<svg") :]


def _bars(panel: Axes, frame: pd.DataFrame, styles: Mapping[str, Any]) -> None:
    shown = _shortened(frame)
    places = np.arange(len(shown))
    for i, name in enumerate(LAWS):
        panel.barh(places + (i - 1) * 0.27, shown[name], 0.25, label=name, color=styles[name]["color"])
    panel.set_yticks(places, [_short(label) for label in shown["outcome"]])
    panel.invert_yaxis()
    panel.set_xlim(0, None)
    panel.set_xlabel("probability")
    panel.grid(True, axis="x")
    panel.grid(False, axis="y")


def _short(label: str) -> str:
    # Matplotlib would read dollar signs as mathematics.
    return (label if len(label) <= 28 else label[:27] + "…").replace("$", r"\$")


def _curves(panel: Axes, frame: pd.DataFrame, styles: Mapping[str, Any]) -> None:
    outcomes = frame.iloc[:-1]
    values = outcomes["outcome"].astype(float).to_numpy()
    for name in LAWS:
        line = {"linestyle": styles[name].get("linestyle", "-"), "linewidth": 4 if name == "target" else 1.3}
        panel.step(values, outcomes[name].cumsum(), where="post", label=name, color=styles[name]["color"], **line)
    panel.set_ylim(0, 1.02)
    panel.set_xlabel("value")
    panel.set_ylabel("probability of at most this")


def _both(measures: pd.DataFrame, phrasing: str) -> list[dict[str, str]]:
    """The measures of one phrasing as text, a mapping for the base and one for the tuned model."""
    rows = where(measures, phrasing=phrasing).to_dict("records")
    return [{str(key): text if isinstance(text, str) else number(text) for key, text in row.items()} for row in rows]


def _settings(facts: Mapping[str, Any]) -> dict[str, str]:
    method = {key: value for key, value in facts["method"].items() if key not in ("kind", "lora")}
    shown = {"model": facts["model"], "target file": f"{facts['file']} (sha256 {facts['sha256']})"}
    shown |= {"source of the model": text_of({k: v for k, v in facts["source"].items() if v}), "seed": facts["seed"]}
    shown |= {"training": text_of(method), "adapter": text_of(facts["method"]["lora"])}
    return {label: text_of(value) for label, value in shown.items()}
