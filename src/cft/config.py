"""The YAML files as typed settings: every key is known, every value checked before a job starts."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cft import CftError, parts
from cft.benchmark_settings import Benchmarks
from cft.method_settings import Method
from cft.model_settings import Judges, ModelSettings
from cft.settings import Once, Seeds, Settings, check, read_yaml

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Shown = Annotated[list[str], Once]
COMMIT = re.compile(r"[0-9a-f]{40}")

RULES = Literal[
    "default", "model", "finetune", "temperature", "sample", "law", "judge", "retention", "perplexity", "score"
]  # fmt: skip


class Needs(Settings):
    """What a job asks a cluster for; time and memory grow with every attempt."""

    mem_mb: int = Field(default=4000, ge=1, description="memory in MB")
    runtime: int = Field(default=15, ge=1, description="minutes")


class Ceiling(Settings):
    """What a cluster gives a job at most; no limit where nothing is said."""

    mem_mb: int | None = Field(default=None, ge=1, description="memory in MB")
    runtime: int | None = Field(default=None, ge=1, description="minutes")


class TableSettings(Settings):
    """What a table reads; tables/NAME.py makes it."""

    scores: Shown = Field(description="benchmarks")


class FigureSettings(Settings):
    """What a figure reads; figures/NAME.py draws it."""

    scores: Shown = Field(default=[], description="benchmarks whose scores it shows")
    draws: Shown = Field(default=[], description="benchmarks whose draws it shows")
    tokenizer: bool = Field(default=False, description="whether it needs the first model's tokenizer")


class HubSettings(Settings):
    """Where finished adapters are published; only an experiment that asks for it pushes anything."""

    namespace: Name = Field(description="user or organisation; repositories are NAMESPACE/MODEL-METHOD-seedN")
    private: bool = Field(default=True, description="whether new repositories are private")


class Experiment(Settings):
    """One configuration file: everything that is run."""

    title: str
    models: dict[Name, ModelSettings] = Field(min_length=1)
    methods: dict[Name, Method] = Field(min_length=1)
    seeds: Seeds
    benchmarks: Benchmarks
    tables: dict[Name, TableSettings] = Field(default={})
    figures: dict[Name, FigureSettings] = Field(default={})
    judges: Judges | None = Field(default=None, description="the judges of NoveltyBench")
    pinned: bool = Field(default=False, description="whether every model of the hub must name its commit")
    needs: dict[RULES, Needs] = Field(
        default={}, description="rule: memory and time of its jobs; default: those of rules that are not listed"
    )
    largest_job: Ceiling = Field(default=Ceiling(), description="what no attempt of a job asks for more than")
    images: str = Field(default="containers/images.yaml", description="images of jobs under --sdm apptainer")
    cache: str | None = Field(
        default=None, description="folder of downloads and compiled kernels; $VARIABLES are those of a job's machine"
    )
    hub: HubSettings | None = Field(
        default=None, description="push every adapter with its card to the hub; off without"
    )
    threads: int = Field(default=2, ge=1, description="processor threads of a job that runs a model")
    distributions: str = "config/distributions.yaml"
    assets: str = "config/assets.yaml"
    assets_mirror: str | None = Field(default=None, description="a local folder that holds the upstream files")

    @model_validator(mode="after")
    def _shows_what_is_run(self) -> "Experiment":
        run = set(self.benchmarks.chosen())
        for name, shown in {**self.tables, **self.figures}.items():
            missing = {*shown.scores, *getattr(shown, "draws", ())} - run
            if missing:
                raise ValueError(f"{name} shows {', '.join(sorted(missing))}, which benchmarks does not run")
        return self

    @model_validator(mode="after")
    def _what_is_shown_has_a_module(self) -> "Experiment":
        for key in ("tables", "figures"):
            known = parts.names(f"cft.{key}")
            unknown = [name for name in getattr(self, key) if name not in known]
            if unknown:
                raise ValueError(f"{key}: there is no src/cft/{key}/{unknown[0]}.py; known: {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _base_is_the_untouched_model(self) -> "Experiment":
        for name, method in self.methods.items():
            if (name == "base") != (method.kind == "base"):
                raise ValueError(
                    f"methods.{name}: `base: {{kind: base}}` is the untouched model, under no other name: differences "
                    "and claims look for it"
                )
        return self

    @model_validator(mode="after")
    def _values_are_trained_as_they_are_measured(self) -> "Experiment":
        measured = self.benchmarks.structured
        for name, method in self.methods.items():
            decimals = getattr(method, "decimals", None)
            if measured is None or decimals in (None, measured.decimals):
                continue
            if any(self.runs(model, name, "structured") for model in self.models):
                raise ValueError(
                    f"methods.{name}.decimals is {decimals} and benchmarks.structured.decimals is {measured.decimals}: "
                    "the values of the two would not meet; give them the same"
                )
        return self

    @model_validator(mode="after")
    def _judges_are_named(self) -> "Experiment":
        if self.benchmarks.novelty and not self.judges:
            raise ValueError("benchmark novelty needs the key 'judges'")
        taken = sorted({"similarity", "reward"} & set(self.models))
        if taken:
            raise ValueError(f"models: {', '.join(taken)} is the name of a judge; choose another")
        return self

    @model_validator(mode="after")
    def _models_are_in_order(self) -> "Experiment":
        known = {"methods": set(self.methods), "benchmarks": set(self.benchmarks.chosen())}
        for name, model in self.models.items():
            for key, names in known.items():
                unknown = sorted(set(getattr(model, key) or ()) - names)
                if unknown:
                    raise ValueError(f"models.{name}.{key}: {', '.join(unknown)} is not run")
            if self.pinned and model.source == "hub" and not COMMIT.fullmatch(model.revision or ""):
                raise ValueError(
                    f"models.{name}.revision: give the 40-digit commit of {model.repo}, or set pinned: false"
                )
        return self

    def seeds_of(self, model: str) -> list[int]:
        """Training seeds of a model: its own, or those of all."""
        return self.models[model].seeds or self.seeds

    def runs(self, model: str, method: str, benchmark: str | None = None) -> bool:
        """Whether a model is run with a method, and then measured on a benchmark."""
        chosen, limits = self.models[model], getattr(self.methods[method], "benchmarks", None)
        return (
            method in (self.methods if chosen.methods is None else chosen.methods)
            and (benchmark is None or chosen.benchmarks is None or benchmark in chosen.benchmarks)
            and (benchmark is None or limits is None or benchmark in limits)
        )


def load(*paths: Path | str) -> Experiment:
    """An experiment from its configuration file, or several of which the later change the earlier, as in Snakemake."""
    values: Any = {}
    for path in paths:
        values = _changed(values, read_yaml(path))
    return check(Experiment, values, " ".join(map(str, paths)))


def _changed(values: Any, changes: Any) -> Any:
    if not isinstance(values, dict) or not isinstance(changes, dict):
        return changes
    return values | {key: _changed(values.get(key), change) for key, change in changes.items()}


def check_files(files: Sequence[Path | str], values: dict[str, Any]) -> None:
    """Look at the configuration files that Snakemake was given, which it has read itself as `values`.

    Raises CftError for equal keys, of which Snakemake keeps the last without a word, and when they have no models: the
    demo's would be taken.
    """
    for file in files:
        read_yaml(file)
    if files and "models" not in values:
        raise CftError(f"{' '.join(map(str, files))}: no models; name first the configuration that it adds to")


def schema() -> dict[str, Any]:
    """The JSON schema of a configuration file, for editors."""
    return Experiment.model_json_schema()
