"""The model card of an adapter: what it is, what it was trained on, what it does and costs, how to load it.

Every number comes from a file: the run.json of the adapter and of its training data, the tidy scores. What they do not
hold is said to be not measured or not recorded. The text is card.md.j2.
"""

import shlex
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from huggingface_hub import ModelCardData

from cft import CftError
from cft.benchmark_settings import Benchmarks
from cft.benchmarks.structured import family_of
from cft.fidelity import structured
from cft.paired import BASE
from cft.ran import LABELS
from cft.summary import SPLITS, in_order, where
from cft.tables import NOTHING, heading, load, number, readable, with_interval
from cft.trained import Adapter, base_in_words, read_adapter, snippet

TEMPLATE = Path(__file__).with_name("card.md.j2")
# The hub's names of licences, by ours; it calls any other one "other".
LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "Gemma": "gemma", "Llama 3.2 Community": "llama3.2"}
FIDELITY = "how well stated distributions are followed (structured)"
# benchmark -> (what it measures, the table that compares it with base)
EFFECTS = {
    "tinybenchmarks": ("knowledge and reasoning (tinyBenchmarks)", "table3"),
    "paloma": ("perplexity of ordinary text (PALOMA)", "table4"),
    "open_ended": ("open-ended choices (open_ended)", "table2"),
    "mcq": ("where the right answers of its multiple-choice questions stand (mcq)", "table2"),
    "novelty": ("how different and how good answers are (NoveltyBench)", "table2"),
}


def card(folder: Path, scores: pd.DataFrame | None, licence: str | None = None) -> str:
    """The card as Markdown, with the YAML head that the Hugging Face hub reads.

    scores        tidy scores, in which the adapter's model, method and seed are looked up; None: nothing is measured
    licence       of the base model, where it is known
    Raises CftError when `folder` is no adapter of ours, and when the scores hold nothing of it.
    """
    adapter = read_adapter(folder)
    found = None if scores is None else _scores_of(adapter, scores)
    effects = {} if found is None else _effects(adapter, found)
    fidelity = [] if found is None else _fidelity(adapter, found)
    # A benchmark without a table of its own here goes by its name.
    names = {name: name for name in Benchmarks.model_fields} | {"structured": FIDELITY}
    names |= {name: words for name, (words, _) in EFFECTS.items()}
    mine = None if found is None else where(found, method=adapter.method, seed=adapter.seed)
    measured = set() if mine is None else set(mine["benchmark"])
    prompts = adapter.prompts
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        head=head(adapter, licence),
        adapter=adapter,
        run=adapter.run,
        source=adapter.run["source"],
        base=base_in_words(adapter),
        chat=", ".join(f"{key} {value!r}" for key, value in adapter.run["source"]["chat"].items() if value),
        snippet=snippet(adapter),
        prompts=None if prompts is None else len(prompts),
        families=[] if prompts is None else sorted({family_of(name) for name in prompts["prompt_id"]}),
        labels=LABELS[adapter.run["method"]["labels"]],
        settings=_settings(adapter),
        fidelity=fidelity,
        effects={names[name]: table for name, table in effects.items()},
        unmeasured=[names[name] for name in Benchmarks.model_fields if name not in measured],
        seeds=0 if found is None else len(in_order(where(found, method=adapter.method)["seed"])),
        licence=licence,
        command=shlex.join(adapter.run["command"]),
        made=_made(adapter.run),
        number=number,
    )


def head(adapter: Adapter, licence: str | None) -> str:
    """The YAML head, without the dashes around it; what is not known is left out."""
    repo, known = adapter.run["source"]["repo"], LICENCES.get(licence or "")
    return ModelCardData(
        base_model=repo,  # only a name on the hub: there, any other would be a stranger's
        base_model_relation="adapter" if repo else None,
        library_name="peft",
        pipeline_tag="text-generation",
        license=(known or "other") if licence else None,
        license_name=licence.lower().replace(" ", "-") if licence and not known else None,
        tags=["lora", "calibration", "random-numbers"],
    ).to_yaml()


def _scores_of(adapter: Adapter, scores: pd.DataFrame) -> pd.DataFrame:
    """The scores of this adapter, of the other seeds of its method, and of the base model."""
    if where(scores, model=adapter.model, method=adapter.method, seed=adapter.seed).empty:
        known = scores[["model", "method", "seed"]].drop_duplicates().head(5).itertuples(index=False)
        listed = "; ".join(f"{model}, {method}, seed {seed}" for model, method, seed in known)
        raise CftError(f"the scores hold nothing of {adapter.title}; they begin with {listed or 'nothing at all'}")
    of_model = where(scores, model=adapter.model)
    return of_model.loc[of_model["method"].isin([BASE, adapter.method])]


def _fidelity(adapter: Adapter, found: pd.DataFrame) -> list[dict[str, Any]]:
    """For each split the table of the structured benchmark, and what it counts."""
    found = where(found, benchmark="structured")
    mine = where(found, method=adapter.method, seed=adapter.seed)
    if mine.empty:
        return []
    columns = {"base model": where(found, method=BASE), "this adapter": mine}
    seeds = len(in_order(where(found, method=adapter.method)["seed"]))
    if seeds > 1:
        columns[f"all {seeds} seeds"] = where(found, method=adapter.method)
    rows = {name: structured(part).set_index(["split", "measure"]) for name, part in columns.items() if len(part)}
    shown = []
    for split in [split for split in SPLITS if split in in_order(mine["split"])]:
        table = {}
        for measure in rows["this adapter"].loc[split].index:
            cells = {name: _cell(rows.get(name), split, measure) for name in columns}
            table[heading(str(measure))] = cells | {"perfect sampler": _floor(rows, split, measure)}
        first = rows["this adapter"].loc[split].iloc[0].to_dict()
        draws = float(where(mine, split=split, metric="n")["value"].to_numpy().mean())
        shown.append(
            {"split": SPLITS[split], "prompts": number(first["prompts"]), "families": first["families"]}
            | {"draws": number(draws), "silent": number(first["prompts_without_valid_draw"])}
            | {"table": markdown(pd.DataFrame(table).T, "measure")}
        )
    return shown


def _cell(rows: pd.DataFrame | None, split: str, measure: Any) -> str:
    if rows is None or (split, measure) not in rows.index:
        return "not measured"
    row = rows.loc[(split, measure)]
    shown = with_interval(row["value"], row["low"], row["high"])
    return "not measured" if shown == NOTHING else shown


def _floor(rows: dict[str, pd.DataFrame], split: str, measure: Any) -> str:
    """With as many draws as count: of valid draws alone the base model may have fewer than the adapter."""
    at = (split, measure)
    found = {name: number(of.at[at, "floor"]) for name, of in rows.items() if at in of.index}
    mine, before = found["this adapter"], found.get("base model", NOTHING)
    return mine if before in (mine, NOTHING) else f"{mine} (base model: {before})"


def _effects(adapter: Adapter, found: pd.DataFrame) -> dict[str, str]:
    """benchmark -> its table: base beside this adapter, paired differences and ratios included."""
    of_adapter = found.loc[(found["method"] == BASE) | (found["seed"] == adapter.seed)]
    tables = {}
    for benchmark, (_, table) in EFFECTS.items():
        rows = where(of_adapter, benchmark=benchmark)
        if adapter.method in in_order(rows["method"]):
            made = readable(load(table).make(rows)).drop(columns=["model", "seeds"]).set_index("method").T
            made = made.rename(columns={BASE: "base model", adapter.method: "this adapter"})
            tables[benchmark] = markdown(made, "measure")
    return tables


def markdown(table: pd.DataFrame, corner: str) -> str:
    """A table of texts, its index as the first column."""
    rows = [[corner, *table.columns], ["---"] * (table.shape[1] + 1)]
    rows += [[name, *cells] for name, *cells in table.itertuples()]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def _settings(adapter: Adapter) -> str:
    method = {heading(key): value for key, value in adapter.run["method"].items() if key not in ("kind", "lora")}
    lora = {f"LoRA {heading(key)}": value for key, value in adapter.run["method"]["lora"].items()}
    values = {name: _text(value) for name, value in (method | lora).items()}
    return markdown(pd.DataFrame({"value": values}), "setting")


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else "none" if value is None else str(value)


def _made(run: dict[str, Any]) -> dict[str, str]:
    """How an adapter was made: label -> text."""
    code, machine, image = run["code"], run["machine"], run["container"]
    gpus = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "none"
    packages = ", ".join(f"{name} {version}" for name, version in run["packages"].items())
    changed = {True: ", with uncommitted changes", False: "", None: ""}[code["modified"]]
    resumed = f", counted from its last start, at {run['resumed_from']}" if run.get("resumed_from") else ""
    return {
        "code": f"commit `{code['commit']}`{changed}",
        "packages": f"Python {run['python']}, {packages}",
        "machine": f"{machine['processor']}, {machine['cores']} cores; GPUs: {gpus}",
        "image": f"{image['name']}, `{image['image']}`" if image else "none",
        "time": f"begun {run['started']}, {number(run['seconds'])} seconds{resumed}",
    }
