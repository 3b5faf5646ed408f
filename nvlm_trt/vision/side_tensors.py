"""Makes the tensors of an export that cannot stay in the checkpoint: stripped, then rounded or quantised."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.decoder import fp8
from nvlm_trt.errors import CheckpointError
from nvlm_trt.vision.dtype import GraphDtype, convert, is_finite
from nvlm_trt.vision.dummy_heads import strip_dummy_heads
from nvlm_trt.vision.fp8 import scale_in

__all__ = ["SideTensors"]

# What is checked and converted at once; large enough for the loops, small beside a tensor of the release.
_PIECE_BYTES = 1 << 25


class SideTensors:
    """Makes the tensors, says how many bytes it has made, and remembers which lost precision and the scales of those in
    FP8.
    """

    def __init__(
        self, checkpoint: Checkpoint, dtype: GraphDtype, in_fp8: Collection[str], made: Callable[[int], None]
    ) -> None:
        self.checkpoint = checkpoint
        self.dtype = dtype
        self.in_fp8 = in_fp8
        self.made = made
        self.made_bytes = 0
        self.rounded: set[str] = set()
        self.weight_scales: dict[str, np.float32] = {}

    def produce(self, name: str) -> Iterator[NDArray[Any]]:
        """Pieces of the tensor, first rows first. Raises ``CheckpointError`` E-CKPT-DUMMY, -NAN or -RANGE."""
        kept = strip_dummy_heads(name, self.checkpoint.read(name), self.checkpoint.config.vision)
        make = self._quantizer(name, kept) if name in self.in_fp8 else self._converted
        rows = max(1, _PIECE_BYTES * len(kept) // kept.nbytes)
        for start in range(0, len(kept), rows):
            piece = make(name, kept[start : start + rows])
            yield piece
            self.made_bytes += piece.nbytes
            self.made(self.made_bytes)
        self.checkpoint.drop_pages(name)

    def _quantizer(self, name: str, kept: NDArray[Any]) -> Callable[[str, NDArray[Any]], NDArray[Any]]:
        """One scale for the whole tensor, so all of it is looked at first."""
        largest = fp8.amax(kept)
        if not np.isfinite(largest):
            raise _not_finite(name)
        scale = self.weight_scales[name] = scale_in(largest, self.dtype)
        quantize = fp8.Quantizer(scale)

        def quantized(_name: str, part: NDArray[Any]) -> NDArray[Any]:
            stored = np.empty(part.shape, ml_dtypes.float8_e4m3fn)
            quantize(part, stored)
            return stored

        return quantized

    def _converted(self, name: str, kept: NDArray[Any]) -> NDArray[Any]:
        if not is_finite(kept):
            raise _not_finite(name)
        array, exact = convert(kept, self.dtype)
        if not exact:
            self.rounded.add(name)
            if not is_finite(array):
                raise CheckpointError(
                    "E-CKPT-RANGE",
                    f"{name} holds values that {self.dtype} cannot represent.",
                    "Build with the dtype bfloat16.",
                )
        return array


def _not_finite(name: str) -> CheckpointError:
    return CheckpointError("E-CKPT-NAN", f"{name} holds NaN or infinite values.", "Fetch the checkpoint's files again.")
