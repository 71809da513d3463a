"""Settings of distribution families: a row of config/distributions.yaml, its formulas and its grids.

Formulas are arithmetic on a family's parameters, read through `ast` and limited to names, numbers, arithmetic,
comparisons and the functions of `FUNCTIONS`. All that a row says is checked when it is read: each formula is evaluated
at every row of every grid.
"""

import ast
import itertools
import math
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, FiniteFloat, PositiveInt, field_validator, model_validator
from scipy import stats

from cft import CftError
from cft.settings import Settings

SPLITS = ("train", "unseen_params", "unseen_families")
GRIDS = (*SPLITS, "selected")
FUNCTIONS = {"exp": math.exp, "round": round, "min": min, "max": max}
_NODES = (ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare,
          ast.operator, ast.unaryop, ast.cmpop)  # fmt: skip

Name = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]


@cache
def _compile(formula: str) -> Any:
    try:
        tree = ast.parse(formula, mode="eval")
    except (SyntaxError, ValueError) as error:
        raise CftError(f"formula {formula!r} is not arithmetic: {getattr(error, 'msg', error)}")
    for node in ast.walk(tree):
        if not isinstance(node, _NODES) or (isinstance(node, ast.Call) and not isinstance(node.func, ast.Name)):
            raise CftError(f"formula {formula!r}: {type(node).__name__} is not allowed, only arithmetic")
    return compile(tree, formula, "eval")


def evaluate(formula: str, names: dict[str, Any]) -> Any:
    """The value of an arithmetic formula; raises CftError when it has none, such as for a name that is not given."""
    # `lambda` is a parameter's name in four families and a Python keyword.
    renamed = {"lambda_" if name == "lambda" else name: value for name, value in names.items()}
    try:
        return eval(_compile(formula), {"__builtins__": {}}, {**FUNCTIONS, **renamed})
    except (NameError, TypeError, ValueError, ArithmeticError) as error:
        raise CftError(f"formula {formula!r}: {error}")


class Axis(Settings):
    """The values of one axis of a grid: listed, or so many points of a range."""

    values: list[FiniteFloat] | None = Field(default=None, min_length=1)
    range: tuple[FiniteFloat, FiniteFloat] | None = Field(default=None, description="first and last")
    points: PositiveInt | None = None
    spacing: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _is_a_list_or_a_range(self) -> "Axis":
        if self.model_fields_set not in ({"values"}, {"range", "points"}, {"range", "points", "spacing"}):
            raise ValueError("an axis is {values: […]}, or {range: [first, last], points: n} and perhaps a spacing")
        if self.spacing == "log" and self.range and min(self.range) <= 0:
            raise ValueError("a range with spacing log must be above 0")
        return self

    def numbers(self) -> list[float]:
        if self.values is not None:
            return list(self.values)
        assert self.range is not None and self.points is not None
        first, last = self.range
        if self.spacing == "linear":
            return np.linspace(first, last, self.points).tolist()
        # NumPy's powers differ in the last digit between processors, and prompts show every digit.
        ends = [float(Decimal(end).log10()) for end in (first, last)]
        logarithms = np.linspace(ends[0], ends[1], self.points)
        return [first, *(float(10 ** Decimal(value)) for value in logarithms.tolist()[1:-1]), last][: self.points]


class Grid(Settings):
    """The grid of a split: the product of its axes, evenly thinned to `max_specs` rows."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Axis] = Field(init=False)

    max_specs: PositiveInt

    @property
    def axes(self) -> dict[str, Axis]:
        return self.__pydantic_extra__


class FamilySettings(Settings):
    """One family of distributions; the head of config/distributions.yaml says what the keys mean."""

    display_name: str = Field(min_length=1)
    kind: Literal["continuous", "discrete"]
    tier: Literal["I", "II", "III"] | None = None
    prompt: list[Name] = Field(min_length=1)
    scipy: str
    requires: list[str]
    grid: list[Name] = Field(min_length=1)
    derived: dict[Name, str] = Field(default={})
    train: Grid | None = None
    unseen_params: Grid | None = None
    unseen_families: Grid | None = None
    selected: list[dict[str, FiniteFloat]] = Field(default=[])

    @field_validator("scipy")
    @classmethod
    def _is_a_call(cls, text: str) -> str:
        try:
            tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError):
            tree = None
        if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name) or tree.args:
            raise ValueError(f"{text!r} is not of the form name(argument=formula, …)")
        return text

    @model_validator(mode="after")
    def _is_consistent(self) -> "FamilySettings":
        unknown = sorted({*self.prompt} - {*self.grid, *self.derived})
        if unknown:
            raise ValueError(f"prompt: {', '.join(unknown)} is neither in grid nor in derived")
        used = [key for key in SPLITS if getattr(self, key)]
        if not used:
            raise ValueError(f"it needs a grid: {', '.join(SPLITS)}")
        if self.selected and used == ["train"]:
            raise ValueError("selected: these prompts are held out, which needs unseen_params or unseen_families")
        axes = {key: [getattr(self, key).axes] for key in used} | {"selected": self.selected}
        for key, each in axes.items():
            if any(set(row) != set(self.grid) for row in each):
                raise ValueError(f"{key}: its axes are not those of grid, {', '.join(self.grid)}")
        wanted = {"discrete": stats.rv_discrete, "continuous": stats.rv_continuous}
        found = [kind for kind, base in wanted.items() if isinstance(self._law(), base)]
        if found != [self.kind]:
            name = self.scipy.partition("(")[0].strip()
            raise ValueError(f"kind: scipy.stats.{name} is " + (found[0] if found else "no distribution"))
        try:
            for key in (*used, "selected"):
                self._check(key)
        except CftError as error:
            raise ValueError(str(error))
        return self

    def _law(self) -> Any:
        return getattr(stats, self.scipy.partition("(")[0].strip(), None)

    def shape(self, parameters: dict[str, float]) -> tuple[Any, dict[str, float]]:
        """The distribution in scipy.stats, and its arguments at some parameters."""
        return self._law(), evaluate("dict(" + self.scipy.partition("(")[2], {**parameters, "dict": dict})

    def _check(self, key: str) -> None:
        """Raise CftError unless every row of a grid is in range and a distribution."""
        rows = self.rows(key)
        for row in rows:
            broken = self.broken_rule(row)
            if broken is not None:
                raise CftError(f"{key}: {_shown(row)} is out of range, must have {broken}")
        if not rows:
            return
        law, arguments = self._law(), [self.shape(row)[1] for row in rows]
        try:
            # All rows at once, and the support only: medians would take seconds.
            low, _ = law.support(**{name: np.array([one[name] for one in arguments], float) for name in arguments[0]})
        except (TypeError, ValueError) as error:
            raise CftError(f"scipy: {self.scipy!r}: {error}")
        refused = np.flatnonzero(np.isnan(np.broadcast_to(low, len(rows))))
        if refused.size:
            raise CftError(f"{key}: {_shown(rows[refused[0]])} is not a distribution of scipy.stats.{law.name}")
        for row, one in zip(rows, arguments, strict=True):
            why = unusable(law, one)
            if why is not None:
                raise CftError(f"{key}: {_shown(row)}: {why}")

    def broken_rule(self, parameters: dict[str, float]) -> str | None:
        """The first of `requires` that does not hold, as a person writes it."""
        broken = next((rule for rule in self.requires if not evaluate(rule, parameters)), None)
        return None if broken is None else broken.replace("lambda_", "lambda")

    def rows(self, key: str) -> list[dict[str, float]]:
        """The parameter settings of one of GRIDS, in order; none where the family has no such grid."""
        if key == "selected":
            return [self._derive(row) for row in self.selected]
        grid: Grid | None = getattr(self, key)
        if grid is None:
            return []
        product = itertools.product(*(grid.axes[name].numbers() for name in self.grid))
        rows = [dict(zip(self.grid, values, strict=True)) for values in product]
        if len(rows) > grid.max_specs:
            rows = [rows[i] for i in np.linspace(0, len(rows) - 1, grid.max_specs).astype(int)]
        return [self._derive(row) for row in rows]

    def _derive(self, axes: dict[str, float]) -> dict[str, float]:
        values = dict(axes)
        for name, formula in self.derived.items():
            try:
                values[name] = float(evaluate(formula, values))
            except (TypeError, OverflowError):
                raise CftError(f"derived.{name}: {formula!r} is not a number at {_shown(values)}")
        return {name: values[name] for name in self.prompt}


def unusable(law: Any, arguments: dict[str, float]) -> str | None:
    """Why a distribution of scipy.stats, which there is at these arguments, is no target; None where it is one."""
    if not isinstance(law, stats.rv_discrete):
        return None
    if arguments.get("loc", 0) % 1:
        return f"loc of {law.name} must be a whole number, as its values are"
    if math.isfinite(law.support(**arguments)[1]):
        return None
    if type(law)._cdf is stats.rv_discrete._cdf:
        return f"SciPy sums the distribution function of {law.name} term by term, without an end far out in its tail"
    # Its values are listed up to a probability of 1e-12.
    with np.errstate(all="ignore"):
        infinite = np.isinf([law.mean(**arguments), law.std(**arguments)]).any()
    return f"the mean or the variance of {law.name} is infinite" if infinite else None


def _shown(parameters: dict[str, float]) -> str:
    return ", ".join(f"{name}={value}" for name, value in parameters.items())


class FamilyTable(Settings):
    """A whole distributions.yaml."""

    quantiles: tuple[float, float] = Field(description="where the support of a target is cut")
    families: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")], FamilySettings] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_consistent(self) -> "FamilyTable":
        if not 0 < self.quantiles[0] < self.quantiles[1] < 1:
            raise ValueError("quantiles: give two numbers between 0 and 1, the lower first")
        asked: dict[Any, str] = {}
        for name, family in self.families.items():
            twin = asked.setdefault((family.display_name, *family.prompt), name)
            if twin != name:
                raise ValueError(f"families {twin} and {name} ask in the same words: change a display_name")
        return self
