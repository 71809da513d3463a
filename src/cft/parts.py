"""One file, one part: find a benchmark, table or figure by the name of its module."""

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable
from types import ModuleType

from cft import CftError


def names(package: str) -> list[str]:
    """The parts of a package such as cft.tables, sorted; it is not imported, which for figures takes a second."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    return sorted(found.name for found in pkgutil.iter_modules(spec.submodule_search_locations))


def load(package: str, name: str, functions: Iterable[str]) -> ModuleType:
    """Import one part; raises CftError when there is none, with the known names, or it lacks one of the functions."""
    known = names(package)
    if name not in known:
        raise CftError(f"unknown {package.rpartition('.')[2].removesuffix('s')} {name!r}; known: {', '.join(known)}")
    module = importlib.import_module(f"{package}.{name}")
    missing = [function for function in functions if not callable(getattr(module, function, None))]
    if missing:
        raise CftError(f"{module.__file__} has no {', '.join(missing)}; CONTRIBUTING.md says what it must have")
    return module
