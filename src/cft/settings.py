"""Settings from YAML files and command lines: every key is known, every value is checked, each mistake is named."""

import json
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cft import CftError


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, and so are infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _once(items: list[Any]) -> list[Any]:
    repeated = sorted({item for item in items if items.count(item) > 1})
    if repeated:
        raise ValueError(f"{', '.join(map(str, repeated))} is there more than once")
    return items


Once = AfterValidator(_once)  # of a list: what is there twice would be counted twice
# Strict, as True and 1.0 would be seed 1.
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**63, strict=True)]], Field(min_length=1), Once]


class _UniqueKeys(yaml.SafeLoader):
    """YAML whose mappings have every key once; of two equal ones PyYAML keeps the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        found = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in found:
                    raise CftError(f"{self.name}: line {key.start_mark.line + 1}: the key {key.value} is there already")
                found.add(key.value)
        return node


def read_yaml(path: Path | str) -> Any:
    """The content of a YAML file; raises CftError when it is missing or malformed, or has a key twice in a mapping."""
    try:
        loader = _UniqueKeys(Path(path).read_text(encoding="utf-8"))
        loader.name = str(path)
        return loader.get_single_data()
    except OSError as error:
        raise CftError(f"{path}: {'no such file' if isinstance(error, FileNotFoundError) else error.strerror}")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CftError(f"{path}: not valid YAML: {' '.join(str(error).split())}")


def read_json(path: Path | str) -> Any:
    """The content of a JSON file that a command wrote; raises CftError when it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CftError(f"{path}: no such file")
    except ValueError:
        raise CftError(f"{path}: damaged, it is no JSON; delete it and make it again")


def check(kind: Any, values: Any, where: str) -> Any:
    """`values` as an instance of the settings `kind`; raises CftError naming each culprit key."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise CftError(f"{where}: " + "; ".join(_explain(item) for item in error.errors()))


def _explain(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown key {key}; config/README.md lists the keys"
    return f"{key}: {item['msg'].removeprefix('Value error, ')}" if key else item["msg"].removeprefix("Value error, ")


def setting(kind: Any, text: str) -> Any:
    """Settings from a command line: JSON if it starts with a brace, else the path of a YAML file."""
    if not text.lstrip().startswith("{"):
        return check(kind, read_yaml(text), text)
    try:
        return check(kind, json.loads(text), "settings")
    except json.JSONDecodeError as error:
        raise CftError(f"settings are not valid JSON: {error}")
