"""Fixtures that several test files share."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(name: str) -> Path:
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"{path} is absent")
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of input → output pairs computed with the authors' code."""
    return _folder("golden")


@pytest.fixture(scope="session")
def shared_assets() -> Path:
    """The folder that mirrors upstream benchmark data."""
    return _folder("assets")
