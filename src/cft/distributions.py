"""The distribution families: grids -> splits -> prompts, and each family's SciPy distribution (arXiv 2605.11845).

config/distributions.yaml holds one row per family, which family_settings.py checks.
"""

import math
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from cft import CftError
from cft.family_settings import SPLITS, FamilySettings, FamilyTable
from cft.settings import check, read_yaml

TEMPLATE = (
    "Generate exactly ONE random number from a {name} distribution with parameters {parameters}. "
    "Output ONLY the number."
)
DEFAULT_TABLE = Path(__file__).resolve().parents[2] / "config" / "distributions.yaml"

# A number that no sign of arithmetic, percent or thousands follows: those would make it another number.
_VALUE = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?!\w|%|[.,]\d|\s*[-+*/^]\s*\d)"


@dataclass(frozen=True)
class Family:
    """One family of distributions, as its row in distributions.yaml says."""

    name: str
    row: FamilySettings

    @property
    def display_name(self) -> str:
        return self.row.display_name

    @property
    def discrete(self) -> bool:
        return self.row.kind == "discrete"

    @property
    def parameter_names(self) -> list[str]:
        """The parameters that a prompt states, in its order."""
        return self.row.prompt

    def frozen(self, parameters: dict[str, float]) -> Any:
        """The frozen SciPy distribution. Raises CftError naming what is wrong with the parameters."""
        self.check(parameters)
        law, shape = self.row.shape(parameters)
        frozen = law(**shape)
        try:
            median = float(frozen.ppf(0.5))
        except RuntimeError:  # SciPy's search for it did not end
            median = math.nan
        if not math.isfinite(median):
            raise CftError(f"{self.identifier(parameters)}: not a distribution; check the parameters' ranges")
        return frozen

    def check(self, parameters: dict[str, float]) -> None:
        """Raise CftError unless `parameters` are exactly this family's, finite and in range."""
        given, wanted = set(parameters), set(self.parameter_names)
        if given != wanted:
            faults = [f"{word} {', '.join(sorted(names))}" for word, names in
                      (("missing", wanted - given), ("unknown", given - wanted)) if names]  # fmt: skip
            raise CftError(f"{self.name}: parameters are {', '.join(self.parameter_names)}; {'; '.join(faults)}")
        for name, value in parameters.items():
            if not math.isfinite(value):
                raise CftError(f"{self.name}: {name}={value} is not a finite number")
        broken = self.row.broken_rule(parameters)
        if broken is not None:
            raise CftError(f"{self.identifier(parameters)}: out of range, must have {broken}")

    def prompt(self, parameters: dict[str, float]) -> str:
        """The prompt's exact text; values print as Python floats, unrounded."""
        stated = ", ".join(f"{name}={parameters[name]}" for name in self.parameter_names)
        return TEMPLATE.format(name=self.display_name, parameters=stated)

    def identifier(self, parameters: dict[str, float]) -> str:
        """A stable, readable prompt_id such as gaussian(mu=3.5,sigma=3.0)."""
        return f"{self.name}({','.join(f'{name}={parameters[name]}' for name in self.parameter_names)})"

    def named_in(self, text: str) -> bool:
        """Whether the family's name stands in `text` as whole words: any case, its words joined by spaces, - or not."""
        words = re.split(r"[\s-]+|(?<=[a-z])(?=[A-Z])", self.display_name)
        name = r"[\s-]*".join(re.escape(word).replace("'", "['’]") for word in words)
        # half-Cauchy is another family; beta=2 is a parameter.
        return re.search(rf"(?<![\w-]){name}(?!\w|\s*=)", text, re.IGNORECASE) is not None

    def stated_in(self, text: str) -> dict[str, float] | None:
        """The parameters that `text` states as name=value; None when one is missing or has two values."""
        found = {
            name: {float(value) for value in re.findall(rf"(?<![\w-]){re.escape(name)}\s*=\s*({_VALUE})", text)}
            for name in self.parameter_names
        }
        if any(len(values) != 1 for values in found.values()):
            return None
        return {name: values.pop() for name, values in found.items()}

    def grid(self, key: str) -> list[dict[str, float]]:
        """The parameter settings of one grid (train, unseen_params, unseen_families, selected), in order."""
        return self.row.rows(key)


@dataclass(frozen=True)
class Prompt:
    """One prompt that asks for a number from a stated distribution."""

    prompt_id: str
    split: str
    family: str
    parameters: dict[str, float]
    text: str
    on_grid: bool
    selected: bool


class Registry:
    """All families of a distributions.yaml."""

    def __init__(self, table: FamilyTable):
        self.families = {name: Family(name, row) for name, row in table.families.items()}
        self.quantiles = table.quantiles

    def __getitem__(self, name: str) -> Family:
        if name not in self.families:
            raise CftError(f"unknown family {name!r}; known: {', '.join(self.families)}")
        return self.families[name]

    def parse(self, prompt_id: str) -> tuple[Family, dict[str, float]]:
        """The family and parameters of a prompt_id; raises CftError when it is not of that form."""
        name, _, rest = prompt_id.partition("(")
        try:
            pairs = [pair.split("=") for pair in rest.removesuffix(")").split(",")]
            return self[name], {key.strip(): float(value) for key, value in pairs}
        except ValueError:
            raise CftError(f"prompt_id {prompt_id!r} is not of the form family(name=value,…)")

    def recognise(self, text: str) -> tuple[Family, dict[str, float]] | None:
        """The family and parameters that free text asks for, such as "a number from a Gaussian with mu=1, sigma=2".

        The longest family name in the text counts. None when there is none, or its parameters are not all stated or
        not in range.
        """
        named = [family for family in self.families.values() if family.named_in(text)]
        family = max(named, key=lambda family: len(family.display_name), default=None)
        parameters = family.stated_in(text) if family else None
        if family is None or parameters is None:
            return None
        try:
            family.frozen(parameters)
        except (CftError, ArithmeticError, ValueError, RuntimeError):  # out of range, or more than SciPy can compute
            return None
        return family, parameters

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Every prompt: the grids of every split, then the selected settings that lie off their family's grid."""
        found: dict[str, Prompt] = {}
        for split in SPLITS:
            for family in self.families.values():
                if getattr(family.row, split) is None:
                    continue
                grid = {family.identifier(row): row for row in family.grid(split)}
                selected = {} if split == "train" else {family.identifier(row): row for row in family.grid("selected")}
                for key, row in {**grid, **selected}.items():
                    found[key] = Prompt(key, split, family.name, row, family.prompt(row), key in grid, key in selected)
        return list(found.values())

    def select(self, split: str | None = None, selected: bool = False) -> list[Prompt]:
        """The grid of one split (of all when None), or the paper's evaluation prompts of that split."""
        if split is not None and split not in SPLITS:
            raise CftError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
        return [p for p in self.prompts if split in (None, p.split) and (p.selected if selected else p.on_grid)]


@lru_cache(maxsize=4)
def registry(path: Path = DEFAULT_TABLE) -> Registry:
    """The families of a YAML file; raises CftError naming the family and key of each mistake."""
    return Registry(check(FamilyTable, read_yaml(path), str(path)))
