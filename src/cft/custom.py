"""A distribution of one's own, from a file: named outcomes with probabilities or a SciPy distribution, and prompts.

Every mistake (what is missing, unknown, twice there, no probability) is a CftError with the number of its line.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from cft import CftError
from cft.family_settings import unusable
from cft.target import Target, discretise

KEYS = ("prompt", "prompts", "held_out", "outcomes", "distribution", "decimals")
HEADER = ["outcome", "probability"]
PLACE = "{outcomes}"
ELSE = "something else"  # what laws call everything that is no outcome
TOLERANCE = 1e-6  # of the sum of the probabilities
# Of a SciPy distribution: where its support is cut, as in config/distributions.yaml, and most values.
QUANTILES, MAX_BINS = (0.001, 0.999), 1001
MOST_LISTED, MOST_DECIMALS = 100, 12  # outcomes in a prompt; of a number

Row = tuple[str, str, int]  # an outcome, its probability as it is written, and the line


@dataclass(frozen=True)
class OwnTarget:
    """A target and the prompts that ask for it.

    name      the file's, without its ending
    prompts   what is trained on;  held_out  further phrasings that are only evaluated
    frozen    the SciPy distribution behind the target; None for named outcomes
    decimals  of the target's numbers, where that distribution is continuous
    """

    name: str
    prompts: list[str]
    held_out: list[str]
    target: Target
    frozen: Any = None
    decimals: int | None = None


def read(path: Path, prompts: Sequence[str] = ()) -> OwnTarget:
    """Read a .yaml file, or a .csv with outcomes only, whose `prompts` come from the caller; see the module's head."""
    if not path.is_file():
        raise CftError(f"{path}: no such file")
    if path.suffix == ".csv":
        return _from_csv(path, prompts)
    if path.suffix not in (".yaml", ".yml"):
        raise CftError(f"{path}: a target is a .yaml or a .csv file")
    if prompts:
        raise CftError(f"{path}: --prompt goes with a .csv file; write `prompt:` into this one")
    return _from_yaml(path)


def _from_csv(path: Path, prompts: Sequence[str]) -> OwnTarget:
    if not prompts:
        raise CftError(f'{path}: a .csv file has no prompt; give one with --prompt "…"')
    rows: list[Row] = []
    reader = csv.reader(io.StringIO(_content(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        if [word.strip() for word in header] != HEADER:
            raise CftError(f"{path}:1: the first line must be {','.join(HEADER)}, not {','.join(header)!r}")
        for row in reader:
            if row and len(row) != 2:
                raise CftError(f"{path}:{reader.line_num}: expected an outcome and a probability, not {len(row)} cells")
            rows += [(row[0], row[1], reader.line_num)] if row else []
    except csv.Error as error:
        raise CftError(f"{path}:{reader.line_num}: not CSV: {error}")
    target = _named(path, rows, 1)
    texts = [_filled(prompt, "--prompt", target) for prompt in prompts]
    if len(set(texts)) < len(texts):
        raise CftError("--prompt: the same prompt is given twice")
    return OwnTarget(path.stem, texts, [], target)


def _content(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")  # spreadsheets begin their files with a mark
    except UnicodeDecodeError as error:
        raise CftError(f"{path}:{data[: error.start].count(10) + 1}: not UTF-8 text; save the file as UTF-8")


def _from_yaml(path: Path) -> OwnTarget:
    text = _content(path)
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise CftError(f"{path}:{line}: not YAML: {error.problem}")
    except yaml.reader.ReaderError as error:
        line = text[: int(error.position)].count("\n") + 1
        raise CftError(f"{path}:{line}: not YAML: {error.reason}")
    if not isinstance(root, yaml.MappingNode):
        raise CftError(f"{path}:1: a target is a mapping with the keys prompt and outcomes, or prompt and distribution")
    nodes = _mapping(path, root, KEYS)
    if ("outcomes" in nodes) == ("distribution" in nodes):
        raise CftError(f"{path}:1: it needs one of the keys outcomes and distribution")
    if ("prompt" in nodes) == ("prompts" in nodes):
        raise CftError(f"{path}:1: it needs one of the keys prompt (a text) and prompts (a list of texts)")
    frozen = decimals = None
    if "distribution" in nodes:
        frozen, decimals = _distribution(path, nodes)
        where = f"{path}:{_line(nodes['distribution'])}"
        target = discretise(where, frozen, QUANTILES, decimals or 0, MAX_BINS)
        if decimals is not None and len(target.values) == 1:
            raise CftError(f"{where}: with {decimals} decimals it is {target.values[0]} always; give more decimals")
    elif "decimals" in nodes:
        raise CftError(f"{path}:{_line(nodes['decimals'])}: decimals go with a distribution, not with outcomes")
    else:
        target = _named(path, _rows(path, nodes["outcomes"]), _line(nodes["outcomes"]))
    asked = _items(path, nodes["prompt"] if "prompt" in nodes else nodes["prompts"])
    other = _items(path, nodes["held_out"]) if "held_out" in nodes else []
    texts: list[str] = []
    for node in [*asked, *other]:
        filled = _filled(_text(path, node), f"{path}:{_line(node)}", target)
        if filled in texts:
            raise CftError(f"{path}:{_line(node)}: this prompt is there already")
        texts.append(filled)
    return OwnTarget(path.stem, texts[: len(asked)], texts[len(asked) :], target, frozen, decimals)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _mapping(path: Path, node: yaml.Node, known: Iterable[str] | None = None) -> dict[str, yaml.Node]:
    """Keys as they are written. YAML itself would keep the last of two equal keys without a word."""
    if not isinstance(node, yaml.MappingNode):
        raise CftError(f"{path}:{_line(node)}: expected `name: value` lines")
    found: dict[str, yaml.Node] = {}
    for key, value in node.value:
        name = _text(path, key)
        if name in found:
            raise CftError(f"{path}:{_line(key)}: {name!r} is there already")
        if known is not None and name not in known:
            raise CftError(f"{path}:{_line(key)}: unknown key {name!r}; known: {', '.join(known)}")
        found[name] = value
    return found


def _rows(path: Path, node: yaml.Node) -> list[Row]:
    return [(name, _text(path, value), _line(value)) for name, value in _mapping(path, node).items()]


def _items(path: Path, node: yaml.Node) -> list[yaml.Node]:
    if node.value == [] and isinstance(node, yaml.SequenceNode):
        raise CftError(f"{path}:{_line(node)}: the list is empty")
    return node.value if isinstance(node, yaml.SequenceNode) else [node]


def _text(path: Path, node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
        raise CftError(f"{path}:{_line(node)}: expected a text or a number here, not a list, a mapping or nothing")
    return node.value


def _named(path: Path, rows: list[Row], line: int) -> Target:
    """The target of named outcomes, in their order; `line` is where they begin."""
    if not rows:
        raise CftError(f"{path}:{line}: there are no outcomes")
    seen: dict[str, int] = {}
    for outcome, _, at in rows:
        if not outcome or outcome != outcome.strip():
            raise CftError(f"{path}:{at}: outcome {outcome!r} is empty, or begins or ends with a blank")
        if outcome == ELSE:
            raise CftError(f"{path}:{at}: {ELSE!r} is the name of all that is no outcome; choose another")
        if outcome in seen:
            raise CftError(f"{path}:{at}: outcome {outcome!r} stands in line {seen[outcome]} already")
        seen[outcome] = at
    parts = [_number(path, text, at) for _, text, at in rows]
    for outcome, text, at in (row for row, part in zip(rows, parts, strict=True) if not 0 <= part <= 1):
        raise CftError(f"{path}:{at}: the probability of {outcome!r} is {text}, not between 0 and 1")
    if abs((total := sum(parts)) - 1) > TOLERANCE:
        hint = "write fractions such as 1/3 where decimals do not end" if abs(total - 1) < 0.02 else "check them"
        raise CftError(f"{path}:{line}: the probabilities sum to {float(total):.6g}, not to 1; {hint}")
    mass = np.array([float(part / total) for part in parts])
    return Target([outcome for outcome, _, _ in rows], mass, math.nan, math.nan)


def _number(path: Path, text: str, line: int) -> Fraction:
    """A decimal number, or a fraction such as 1/6."""
    try:
        return Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        raise CftError(f"{path}:{line}: {text!r} is not a number, nor a fraction such as 1/6")


def _distribution(path: Path, nodes: dict[str, yaml.Node]) -> tuple[Any, int | None]:
    """The SciPy distribution, and the decimals of its numbers where it is continuous."""
    node = nodes["distribution"]
    keys = _mapping(path, node, ("name", "parameters"))
    if "name" not in keys:
        raise CftError(f"{path}:{_line(node)}: a distribution needs its name in scipy.stats, such as name: gamma")
    name = _text(path, keys["name"])
    kind = getattr(stats, name, None)
    if not isinstance(kind, stats.rv_continuous | stats.rv_discrete):
        raise CftError(f"{path}:{_line(keys['name'])}: scipy.stats has no distribution {name!r}")
    shapes = kind.shapes.split(", ") if kind.shapes else []
    known = [*shapes, "loc", *([] if isinstance(kind, stats.rv_discrete) else ["scale"])]
    given = _mapping(path, keys["parameters"], known) if "parameters" in keys else {}
    if not set(shapes) <= given.keys():
        raise CftError(f"{path}:{_line(node)}: {name} needs the parameters {', '.join(shapes)}")
    parameters = {key: float(_number(path, _text(path, value), _line(value))) for key, value in given.items()}
    frozen, why = kind(**parameters), unusable(kind, parameters)
    beyond = f"{name} with these parameters is not a distribution that SciPy can compute; check their ranges"
    try:
        why = why or (None if math.isfinite(float(frozen.ppf(0.5))) else beyond)
    except (ArithmeticError, ValueError, RuntimeError):
        why = beyond
    if why is not None:
        raise CftError(f"{path}:{_line(node)}: {why}")
    if isinstance(kind, stats.rv_continuous):
        return frozen, _decimals(path, nodes["decimals"]) if "decimals" in nodes else 2
    if "decimals" in nodes:
        raise CftError(f"{path}:{_line(nodes['decimals'])}: {name} has whole numbers; leave out decimals")
    return frozen, None


def _decimals(path: Path, node: yaml.Node) -> int:
    text = _text(path, node)
    if not (text.isdecimal() and int(text) <= MOST_DECIMALS):
        raise CftError(f"{path}:{_line(node)}: decimals are a whole number from 0 to {MOST_DECIMALS}, not {text}")
    return int(text)


def _filled(prompt: str, where: str, target: Target) -> str:
    """The prompt with {outcomes} replaced by their list; other braces than those around a name stay as they are."""
    if not prompt.strip():
        raise CftError(f"{where}: the prompt is empty")
    for place in re.findall(r"\{\s*[A-Za-z_]\w*\s*\}", prompt):
        if place != PLACE:
            raise CftError(f"{where}: unknown placeholder {place}; the only one is {PLACE}")
    if PLACE in prompt and len(target.values) > MOST_LISTED:
        raise CftError(f"{where}: {len(target.values)} outcomes are too many to list in a prompt; leave out {PLACE}")
    return prompt.replace(PLACE, ", ".join(target.values))
