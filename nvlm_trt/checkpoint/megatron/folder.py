"""The folders of a Megatron-Core checkpoint: which iteration counts, and which ranks of which stages it has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from nvlm_trt.checkpoint.untrusted import shown
from nvlm_trt.errors import CheckpointError

__all__ = ["RANK_FILE", "TRACKER_FILE", "Ranks", "find_ranks"]

TRACKER_FILE = "latest_checkpointed_iteration.txt"
RANK_FILE = "model_optim_rng.pt"
# What the decoder's eight key-value heads can be shared by.
_TENSOR_PARALLEL = (1, 2, 4, 8)
_RANK_FOLDER = re.compile(r"mp_rank_(\d{2})(?:_(\d{3}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Ranks:
    """``folders[stage][rank]`` for ``pp`` stages of ``tp`` ranks. ``number`` is None for a folder named release."""

    iteration: Path
    number: int | None
    folders: tuple[tuple[Path, ...], ...]

    @property
    def tp(self) -> int:
        return len(self.folders[0])

    @property
    def pp(self) -> int:
        return len(self.folders)


def find_ranks(root: Path) -> Ranks:
    """Raises ``CheckpointError``: E-CKPT-INDEX for a tracker file that cannot be followed, E-CKPT-RANK for ranks that
    are missing, too many or not 1, 2, 4 or 8."""
    name, number = _tracked(root)
    iteration = root / name
    if not iteration.is_dir():
        raise CheckpointError("E-CKPT-INDEX", f"{TRACKER_FILE} names {name}, which is missing.", "Fetch that folder.")
    return Ranks(iteration, number, _grid(_rank_folders(iteration), name))


def _tracked(root: Path) -> tuple[str, int | None]:
    try:
        with (root / TRACKER_FILE).open("rb") as file:
            text = file.read(64).decode("ascii", "replace").strip()
    except OSError:
        raise CheckpointError("E-CKPT-INDEX", f"{TRACKER_FILE} cannot be opened.", "Check its permissions.") from None
    if text == "release":
        return text, None
    if not re.fullmatch(r"\d{1,12}", text, re.ASCII):
        raise CheckpointError(
            "E-CKPT-INDEX",
            f"{TRACKER_FILE} says {shown(text)}; the number of an iteration is wanted.",
            "Fetch the checkpoint again.",
        )
    return f"iter_{int(text):07d}", int(text)


def _rank_folders(iteration: Path) -> Mapping[tuple[int, int], Path]:
    found: dict[tuple[int, int], Path] = {}
    with_stage: set[bool] = set()
    for path in sorted(iteration.iterdir()):
        if not path.name.startswith("mp_rank_"):
            continue
        match = _RANK_FOLDER.fullmatch(path.name)
        if match is None:
            _reject(f"{shown(path.name)} is not the folder of a tensor-parallel rank and a pipeline stage")
        found[int(match[2] or 0), int(match[1])] = path
        with_stage.add(match[2] is not None)
    if not found:
        distributed = any(iteration.glob("*.distcp"))
        fix = "Convert the checkpoint to Megatron's torch format." if distributed else "Fetch the whole checkpoint."
        _reject(f"{iteration.name} has no mp_rank_ folders{' but .distcp files' if distributed else ''}", fix)
    if len(with_stage) > 1:
        _reject("some ranks name a pipeline stage and others do not")
    return found


def _grid(found: Mapping[tuple[int, int], Path], name: str) -> tuple[tuple[Path, ...], ...]:
    pp, tp = 1 + max(stage for stage, _ in found), 1 + max(rank for _, rank in found)
    suffix = any(path.name.count("_") > 2 for path in found.values())
    for stage in range(pp):
        for rank in range(tp):
            if (stage, rank) not in found:
                missing = f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if suffix else "")
                _reject(
                    f"{name} has {tp} tensor-parallel ranks in {pp} stages by its highest numbers, and no {missing}"
                )
    if tp not in _TENSOR_PARALLEL:
        _reject(f"{name} has {tp} tensor-parallel ranks; 1, 2, 4 or 8 are possible")
    return tuple(tuple(found[stage, rank] for rank in range(tp)) for stage in range(pp))


def _reject(fault: str, fix: str = "Fetch the whole checkpoint, and into an empty folder.") -> NoReturn:
    raise CheckpointError("E-CKPT-RANK", f"{fault}.", fix)
