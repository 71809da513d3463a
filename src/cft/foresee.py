"""What would fail only after hours: an experiment's table of families, the modules of all that it runs and shows."""

from pathlib import Path
from typing import Any

from cft import CftError, benchmarks, figures, tables
from cft.assets import REMEDY, Assets, Repository
from cft.config import Experiment, FigureSettings, TableSettings
from cft.distributions import registry
from cft.settings import read_yaml


def notes(experiment: Experiment) -> list[str]:
    """What a valid experiment goes without, a line each; raises CftError for what cannot be run or shown."""
    registry(Path(experiment.distributions))
    for name in experiment.benchmarks.chosen():
        benchmarks.load(name)
    for name, shown in experiment.tables.items():
        _check_given(f"tables.{name}", tables.load(name), shown)
    has_base = "base" in experiment.methods
    for name, shown in experiment.figures.items():
        _check_given(f"figures.{name}", figures.load(name), shown)
        if getattr(figures.load(name), "NEEDS_BASE", False) and not has_base:
            raise CftError(f"figures: {name} shows changes from the method base, which is not among methods")
    if experiment.figures:
        figures.method_styles(list(experiment.methods))
    return [*_unpinned(experiment), *_without_base(experiment)]


def _check_given(name: str, module: Any, shown: TableSettings | FigureSettings) -> None:
    """Raise CftError when a table or figure is given nothing of what its module shows: READS, key → benchmarks."""
    for key, known in getattr(module, "READS", {}).items():
        given = getattr(shown, key)
        if not given:
            raise CftError(f"{name} needs {key}: {', '.join(known) or 'true'}")
        if known and not set(known) & set(given):
            raise CftError(f"{name} shows the {key} of {' or '.join(known)}, not of {', '.join(given)}")


def _without_base(experiment: Experiment) -> list[str]:
    has_base = "base" in experiment.methods
    alone = [model for model in experiment.models if not (has_base and experiment.runs(model, "base"))]
    if not alone:
        return []
    whose = "" if len(alone) == len(experiment.models) else f" for {', '.join(alone)}"
    return [f"Without the method base{whose}: no differences from it and no verdicts on claims that compare with it."]


def _unpinned(experiment: Experiment) -> list[str]:
    """Data of the hub that cannot be fetched, as the table of upstream files names no commit."""
    assets = Assets(read_yaml(experiment.assets) or {}, experiment.assets_mirror, Path("results/assets"))
    needed = {name for chosen in experiment.benchmarks.chosen().values() for name in chosen.upstream()}
    if assets.mirror:
        return []
    return [
        f"{experiment.assets}: {name} has no revision yet, so that what reads it fails; fill it in, {REMEDY}."
        for name, row in assets.table.items()
        if name in needed and isinstance(row, Repository) and row.revision is None
    ]
