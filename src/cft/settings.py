"""Settings from YAML files and command lines: every key is known, every value is checked, each mistake is named."""

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cft import CftError


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_yaml(path: Path | str) -> Any:
    """The content of a YAML file; raises CftError when it is missing or malformed."""
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CftError(f"{path}: no such file")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CftError(f"{path}: not valid YAML: {' '.join(str(error).split())}")


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
