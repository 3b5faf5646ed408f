from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.pipeline.toys import write_recipe


@pytest.fixture(scope="session")
def built(deployment: Path) -> Path:
    """The small checkpoint, built with the recipe ``embedded``; to be read, not changed."""
    return deployment


@pytest.fixture
def out_of_built(built: Path, tmp_path: Path) -> Path:
    """A copy of ``built``, to be changed."""
    shutil.copytree(built, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    return write_recipe(tmp_path / "toy.toml")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "with a blank" / "out"
