"""A safetensors file in the making: its header is fixed, its tensors come in any order and in any pieces.

All shapes are known before the first byte, so every tensor has its place from the start. That lets a conversion read
its input once, in the input's order, and fill the files of all ranks as it goes. A finished draft is byte for byte what
``write_safetensors`` writes from the same tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.direct_io import DirectWriter
from nvlm_trt.checkpoint.disk import partial_path, writing
from nvlm_trt.checkpoint.safetensors_header import render_header
from nvlm_trt.checkpoint.safetensors_writer import in_file_order
from nvlm_trt.checkpoint.tensor_spec import TensorSpec

__all__ = ["SafetensorsDraft"]


class SafetensorsDraft:
    """Lies beside ``path`` until ``disk.publish`` renames it. Drafts that one thread writes may share ``staging``.

    Raises ``BuildError`` E-BUILD-SPACE on opening where the disk has no room for the whole file, E-BUILD-WRITE where it
    may not be written. A wrong dtype, a piece beyond its tensor or a tensor not filled is the caller's bug:
    ``ValueError``.
    """

    def __init__(
        self,
        path: Path,
        entries: Sequence[TensorSpec],
        metadata: Mapping[str, str] | None = None,
        staging: NDArray[np.uint8] | None = None,
    ) -> None:
        self.path = path
        ordered = in_file_order(entries)
        header = render_header(ordered, metadata)
        self._specs = {spec.name: spec for spec in ordered}
        self._starts: dict[str, int] = {}
        reached = len(header)
        for spec in ordered:
            self._starts[spec.name] = reached
            reached += spec.nbytes
        self._missing = {spec.name: spec.num_elements for spec in ordered if spec.num_elements}
        try:
            with writing(path.name):
                self._writer = DirectWriter(partial_path(path), reached, staging)
        except BaseException:
            partial_path(path).unlink(missing_ok=True)
            raise
        try:
            with writing(path.name):
                self._writer.write(0, np.frombuffer(header, np.uint8))
        except BaseException:
            self.discard()
            raise

    def write(self, name: str, first_element: int, values: NDArray[Any]) -> None:
        """Fill ``values.size`` elements of the tensor, in C order from ``first_element``. Each is filled once."""
        spec = self._specs[name]
        if values.dtype != spec.numpy_dtype:
            raise ValueError(f"{name}: dtype {values.dtype} was given, {spec.dtype} was announced")
        if not 0 <= first_element <= spec.num_elements - values.size:
            raise ValueError(f"{name}: elements {first_element} and {values.size} more, of {spec.num_elements}")
        if values.size == 0:
            return
        left = self._missing.get(name, 0) - values.size
        if left < 0:
            raise ValueError(f"{name}: elements were given twice")
        with writing(self.path.name):
            self._writer.write(self._starts[name] + first_element * values.itemsize, np.atleast_1d(values))
        if left:
            self._missing[name] = left
        else:
            del self._missing[name]

    def finish(self) -> None:
        """Check that all is filled, and bring it to disk. The file still lies beside its place."""
        if self._missing:
            raise ValueError(f"{len(self._missing)} tensors are not filled, the first is {min(self._missing)}")
        with writing(self.path.name):
            self._writer.sync()
        self._writer.close()

    def discard(self) -> None:
        """Remove what was written so far."""
        self._writer.close()
        partial_path(self.path).unlink(missing_ok=True)
