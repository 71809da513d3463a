"""One file, one part: find a benchmark, table or figure by the name of its module."""

import importlib
import importlib.util
import pkgutil
from types import ModuleType

from cft import CftError


def names(package: str) -> list[str]:
    """The parts of a package such as cft.tables, sorted; it is not imported, which for figures takes a second."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    return sorted(found.name for found in pkgutil.iter_modules(spec.submodule_search_locations))


def load(package: str, name: str) -> ModuleType:
    """Import one part; raises CftError listing the known names when there is no such part."""
    known = names(package)
    if name not in known:
        raise CftError(f"unknown {package.rpartition('.')[2].removesuffix('s')} {name!r}; known: {', '.join(known)}")
    return importlib.import_module(f"{package}.{name}")
