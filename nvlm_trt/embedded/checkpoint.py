"""The decoder checkpoint's folder, as TensorRT-LLM compiles it: config.json and one safetensors file per rank.

It is checked on opening, from the header and the scales alone. Weights stay mapped, and FP8, until a session loads
them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.safetensors_file import SafetensorsFile
from nvlm_trt.embedded.config import CheckpointConfig
from nvlm_trt.errors import ArtefactError, CheckpointError

__all__ = ["DecoderCheckpoint"]


class DecoderCheckpoint:
    """One rank's part of it.

    Raises ``ArtefactError``: E-ARTEFACT-RANKS for a checkpoint in pipeline stages, E-ARTEFACT-DECODER for a folder
    that is incomplete, altered or of another form.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        self.folder = folder = Path(folder)
        self.config = _read_config(folder / "config.json")
        try:
            self._file = SafetensorsFile(folder / f"rank{rank}.safetensors")
        except CheckpointError as error:
            raise _broken(error.what) from None
        held = set(self._file.names())
        for spec in self.config.tensors():
            if spec.name not in held:
                raise _broken(f"{spec.name} is missing.")
            info = self._file.info(spec.name)
            if (info.dtype, info.shape) != (spec.dtype, spec.shape):
                raise _broken(
                    f"{spec.name} is {info.dtype} {list(info.shape)}; {spec.dtype} {list(spec.shape)} is wanted."
                )
            if spec.name.endswith("_scaling_factor") and not 0 < self.scale(spec.name) < np.inf:
                raise _broken(f"{spec.name} is {self.scale(spec.name)}, which is not a scale.")

    def read(self, name: str) -> NDArray[Any]:
        """A read-only mapped view."""
        return self._file.read(name)

    def drop_pages(self, name: str) -> None:
        """Release the memory that reading the tensor has filled."""
        self._file.drop_pages(name)

    def scale(self, name: str) -> np.float32:
        return np.float32(self._file.read(name)[0])


def _read_config(file: Path) -> CheckpointConfig:
    try:
        data = json.loads(file.read_bytes())
    except OSError:
        raise _broken("config.json is missing.") from None
    except ValueError:
        raise _broken("config.json is not JSON.") from None
    if not isinstance(data, dict):
        raise _broken("config.json holds no object.")
    return CheckpointConfig.from_json(data)


def _broken(what: str) -> ArtefactError:
    return ArtefactError("E-ARTEFACT-DECODER", f"The decoder checkpoint: {what}", "Build the decoder checkpoint again.")
