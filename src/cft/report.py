"""One self-contained HTML page: claims, results, figures, tables, every family and prompt, what was run, its cost."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from cft.benchmarks.structured import family_of
from cft.curves import PARTS, Curves, by_prompt, numbers_of
from cft.distributions import Registry
from cft.figures import method_styles
from cft.findings import key_results, remarks
from cft.ran import origin, steps, temperatures, text_of
from cft.summary import in_order, reference, where
from cft.tables import readable

PAGE = Path(__file__).with_name("page")
FILTERS = ("model", "method", "family")
CLAIMS = "claims"


def build(
    title: str,
    settings: Mapping[str, Any],
    scores: pd.DataFrame,
    tables: Mapping[str, Path | str],
    figures: Mapping[str, Path | str],
    captions: Mapping[str, str],
    runs: Sequence[Mapping[str, Any]],
    curves: pd.DataFrame,
    registry: Registry,
) -> str:
    """The page as text.

    settings  label -> value, shown as they are (draws, decimals, training steps, …)
    scores    tidy scores of every benchmark; without structured ones the page has no key results
    tables    name -> CSV written by `cft.tables.save`; that of the claims is shown first, what was not run at its end
    figures   name -> SVG
    captions  name -> text of workflow/report/NAME.rst, paragraphs apart by an empty line
    runs      contents of the run.json files
    curves    what `cft.curves.measure` found of structured prompts; may be empty
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    read = {name: pd.read_csv(path, dtype={"model": str, "method": str}) for name, path in tables.items()}
    claims = read.pop(CLAIMS, None)
    known = {key: in_order(scores[key]) for key in ("model", "method", "seed")}
    prompts, numbers = by_prompt(curves, registry), numbers_of(scores)
    return environment.get_template("report.html.j2").render(
        title=title,
        settings={label: text_of(value) for label, value in settings.items()} | temperatures(runs),
        known=known,
        results=key_results(scores) if "structured" in set(scores["benchmark"]) else [],
        remarks=remarks(scores),
        verdicts={} if claims is None else claims["verdict"].value_counts().to_dict(),
        claims=None if claims is None else table_of(claims.sort_values("verdict", key=_not_run, kind="stable")),
        tables={name: table_of(frame) for name, frame in read.items()},
        figures={name: base64.b64encode(Path(path).read_bytes()).decode() for name, path in figures.items()},
        captions={name: text.strip().split("\n\n") for name, text in captions.items()},
        families=families_of(scores, prompts),
        index=_index(known, prompts),
        chunks=[prompt.packed(registry, numbers) for prompt in prompts],
        charts=bundle() if prompts else "",
        steps=steps(runs),
        origin=origin(runs),
    )


def _not_run(verdicts: pd.Series) -> pd.Series:
    return verdicts == "not run"


def table_of(frame: pd.DataFrame) -> dict[str, Any]:
    """A table for the template: head, and rows of cells with the keys by which they are filtered."""
    shown = readable(frame)
    keys = [name for name in FILTERS if name in frame]
    return {
        "head": list(shown.columns),
        "rows": [
            {"cells": cells, "keys": dict(zip(keys, values, strict=True))}
            for cells, values in zip(shown.to_numpy().tolist(), frame[keys].astype(str).to_numpy(), strict=True)
        ],
    }


def families_of(scores: pd.DataFrame, prompts: Sequence[Curves]) -> list[dict[str, Any]]:
    """A section per family that has curves: name, title, splits, and a table of means over its prompts and seeds."""
    means = _means(scores)
    found = []
    for name in in_order(prompt.family for prompt in prompts):
        members = [prompt for prompt in prompts if prompt.family == name]
        rows = where(means, family=name)
        table = table_of(rows.drop(columns="family").dropna(axis="columns", how="all"))
        splits = in_order(prompt.split for prompt in members)
        found.append({"name": name, "title": members[0].title, "splits": splits, "prompts": members, "table": table})
    return found


def _means(scores: pd.DataFrame) -> pd.DataFrame:
    rows = where(scores, benchmark="structured")
    rows = rows.assign(family=rows["item"].map(family_of))
    wide: Any = rows.pivot_table("value", ["family", "model", "method"], "metric", sort=False)
    columns = {
        "valid_rate": "valid rate",
        "law_pit_w1_low": "PIT W1 of the law, at least",
        "law_pit_w1_high": "at most",
        "pit_w1": "PIT W1 of draws",
        "pit_w1_floor": "floor",
    }
    return wide.reindex(columns=list(columns)).rename(columns=columns).reset_index()


def _index(known: Mapping[str, list[Any]], prompts: Sequence[Curves]) -> str:
    """What the page's script knows before it unpacks a prompt; safe inside a script element."""
    methods = known["method"]
    index = {
        "parts": PARTS,
        "models": known["model"],
        "seeds": known["seed"],
        "methods": methods,
        "reference": reference(methods),
        "colors": {name: style["color"] for name, style in method_styles(methods).items()},
        "prompts": [{"id": prompt.prompt_id, "family": prompt.family, "text": prompt.text} for prompt in prompts],
    }
    return json.dumps(index).replace("<", "\\u003c")


def bundle() -> str:
    """Vega, Vega-Lite and their embedding as one script, which vl-convert carries; takes seconds."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
