"""Finds the data folders that ship with the package: in a wheel inside it, in a checkout beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

__all__ = ["resource_folder"]

_IN_CHECKOUT = {"recipes": "build/recipes", "triton_repo": "triton_repo", "calibration": "calibration"}


def resource_folder(name: Literal["recipes", "triton_repo", "calibration"]) -> Path:
    package = Path(__file__).parent
    installed = package / "_data" / name
    return installed if installed.is_dir() else package.parent / _IN_CHECKOUT[name]
