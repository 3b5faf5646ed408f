"""Opens a checkpoint in either layout. To add a layout, write one module and one entry in ``LAYOUTS``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.huggingface import HuggingFaceCheckpoint
from nvlm_trt.checkpoint.megatron import MegatronCheckpoint
from nvlm_trt.errors import CheckpointError

__all__ = ["LAYOUTS", "Layout", "open_checkpoint"]


@dataclass(frozen=True, slots=True)
class Layout:
    """``mark`` names what ``recognises`` looks for, in words for a person."""

    name: str
    mark: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path], Checkpoint]


# Tried in this order: a Megatron-Core folder has the release's config.json too.
LAYOUTS: tuple[Layout, ...] = (
    Layout("Megatron-Core", "latest_checkpointed_iteration.txt", MegatronCheckpoint.recognises, MegatronCheckpoint),
    Layout("Hugging Face", "config.json", HuggingFaceCheckpoint.recognises, HuggingFaceCheckpoint),
)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open and check a checkpoint folder; reads headers, not weights.

    Raises ``CheckpointError``: E-CKPT-FOLDER where there is no folder, E-CKPT-LAYOUT where no layout fits, and whatever
    the layout finds.
    """
    root = Path(path)
    if not root.is_dir():
        raise CheckpointError("E-CKPT-FOLDER", f"{root.name} is not a folder.", "Give the folder of an NVLM-D model.")
    for layout in LAYOUTS:
        if layout.recognises(root):
            return layout.open(root)
    marks = " or ".join(f"{layout.mark} ({layout.name})" for layout in LAYOUTS)
    raise CheckpointError(
        "E-CKPT-LAYOUT", f"{root.name} is in no known layout: it has no {marks}.", "Give the folder of an NVLM-D model."
    )
