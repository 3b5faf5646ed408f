"""The results in a folder. Every other file is listed with the reason why it was not read.

A folder with a ``manifest.json`` is a deployment, which is listed and not searched. Links are not followed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nvlm_trt.errors import NvlmError, UsageError
from nvlm_trt.evaluate.score_file import ScoreFile, load_score
from nvlm_trt.load.result import Measurement, load_measurement
from nvlm_trt.pipeline.manifest import MANIFEST
from nvlm_trt.precision.result import PrecisionStudy, load_study

__all__ = ["Findings", "PassedOver", "find_results"]

# Results have some hundred kB: the requests of a measurement lie in a file of their own.
_LARGEST_BYTES = 64 << 20
_NO_RESULT = "it holds no result of this program"


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A file that was not read. ``broken`` ones should have been results."""

    file: str
    reason: str
    broken: bool


@dataclass(frozen=True, slots=True)
class Findings:
    """Results by their path below ``folder``, sorted."""

    folder: str
    measurements: dict[str, Measurement] = field(default_factory=dict)
    studies: dict[str, PrecisionStudy] = field(default_factory=dict)
    scores: dict[str, ScoreFile] = field(default_factory=dict)
    passed_over: list[PassedOver] = field(default_factory=list)

    @property
    def broken(self) -> list[PassedOver]:
        return [one for one in self.passed_over if one.broken]

    def __len__(self) -> int:
        return len(self.measurements) + len(self.studies) + len(self.scores)


@dataclass(frozen=True, slots=True)
class _Kind:
    """``place`` is the field of ``Findings``."""

    place: str
    is_one: Callable[[Mapping[str, Any]], bool]
    load: Callable[[Path], Any]


_KINDS = (
    _Kind("measurements", lambda data: data.get("format") == "nvlm-trt latency", load_measurement),
    _Kind("studies", lambda data: data.get("format") == "nvlm-trt precision", load_study),
    _Kind("scores", lambda data: {"task", "value", "interval", "groups"} <= data.keys(), load_score),
)


def find_results(folder: Path) -> Findings:
    """Raises ``UsageError`` E-REPORT-FOLDER where there is no such folder, or no result in it."""
    if not folder.is_dir():
        raise UsageError("E-REPORT-FOLDER", f"There is no folder {folder.name!r}.", "Name one with result files.")
    found = Findings(folder.resolve().name)
    for file in _files(folder, found, ""):
        _read(file, file.relative_to(folder).as_posix(), found)
    if not len(found):
        reasons = "".join(f" {one.file}: {one.reason}." for one in found.broken[:3])
        raise UsageError(
            "E-REPORT-FOLDER",
            f"{folder.name or 'The folder'} holds no result that can be read.{reasons}",
            "Results are files *.json of calibration/latency.py, eval precisions, and what eval score --json prints.",
        )
    return found


def _files(folder: Path, found: Findings, below: str) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        found.passed_over.append(PassedOver(f"{below}/", "the folder cannot be opened", broken=True))
        return
    if below and any(entry.name == MANIFEST for entry in entries):
        found.passed_over.append(PassedOver(f"{below}/", "it is a deployment", broken=False))
        return
    for entry in entries:
        name = f"{below}/{entry.name}" if below else entry.name
        if entry.is_symlink() and (entry.is_dir() or entry.name.endswith(".json")):
            found.passed_over.append(PassedOver(name, "it is a link", broken=False))
        elif entry.is_dir():
            yield from _files(Path(entry.path), found, name)
        elif entry.name.endswith(".json") and entry.is_file():
            yield Path(entry.path)


def _read(file: Path, name: str, found: Findings) -> None:
    try:
        size = file.stat().st_size
        if size > _LARGEST_BYTES:
            raise ValueError(f"it has {size / 1e6:.0f} MB, and results are smaller than {_LARGEST_BYTES / 1e6:.0f}")
        data = json.loads(file.read_bytes())
    except OSError:
        found.passed_over.append(PassedOver(name, "it cannot be opened", broken=True))
    except (ValueError, RecursionError) as error:
        own = type(error) is ValueError
        found.passed_over.append(PassedOver(name, str(error) if own else "it is not JSON", broken=True))
    else:
        kind = next((kind for kind in _KINDS if isinstance(data, dict) and kind.is_one(data)), None)
        if kind is None:
            found.passed_over.append(PassedOver(name, _NO_RESULT, broken=False))
            return
        try:
            getattr(found, kind.place)[name] = kind.load(file)
        except NvlmError as error:
            found.passed_over.append(PassedOver(name, error.what.rstrip("."), broken=True))
