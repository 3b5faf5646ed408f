"""Resizes a picture with the bicubic filter the release was trained with.

The filter is Pillow's: a = -0.5, its support widened when the picture shrinks, weights in fixed point of 22 bits, the
result rounded to 8 bits after the horizontal pass and again after the vertical one. Pixels are part of the model's
contract, so a ``Resample`` may be faster than Pillow's but never differ from it in a bit.

``pillow_resample`` is always available and is the oracle. ``fastest_resample`` returns the compiled filter where the
extra ``fast`` is installed and the filter agrees with Pillow on this machine, and Pillow's otherwise.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nvlm_trt.model.pixels import Pixels, to_image

__all__ = ["Resample", "fastest_resample", "pillow_resample"]

Resample = Callable[[Pixels, Sequence[tuple[int, int]]], list[NDArray[np.uint8]]]
"""A picture and the wanted sizes (width, height), to one uint8 [height, width, 3] for each."""

_LOG = logging.getLogger(__name__)
# Shrinks one way and grows the other, has more rows than one strip of the kernel, and no side that is a round number.
_PROBE_SIZE, _PROBE_TARGETS = (37, 75), ((11, 90), (64, 7))


def pillow_resample(pixels: Pixels, sizes: Sequence[tuple[int, int]]) -> list[NDArray[np.uint8]]:
    """Pillow before 13 runs the horizontal pass first, as the release did; it runs the vertical one first where a
    picture is more than 100 times as tall as wide and is to be shrunk."""
    image = to_image(pixels)
    return [np.asarray(image.resize(size, Image.Resampling.BICUBIC), dtype=np.uint8) for size in sizes]


def fastest_resample() -> Resample:
    """Compiles for a tenth of a second where there is a compiler; ask once, when a process starts."""
    if importlib.util.find_spec("llvmlite") is None:
        return pillow_resample
    from nvlm_trt.model.resample_kernel import CompiledResample

    kernel = CompiledResample()
    if not _agrees(kernel):
        _LOG.warning("The compiled picture filter differs from Pillow's on this machine; Pillow's is used.")
        return pillow_resample
    return kernel


def _agrees(resample: Resample) -> bool:
    """Whether ``resample`` gives Pillow's bits for a picture of hard edges. Weights are computed in doubles, and a
    processor that fuses their multiplications and additions may round one of them differently."""
    width, height = _PROBE_SIZE
    pixels = np.random.default_rng(0).integers(0, 2, (height, width, 3), dtype=np.uint8) * np.uint8(255)
    image = Image.fromarray(pixels)
    return all(
        np.array_equal(seen, wanted)
        for seen, wanted in zip(resample(image, _PROBE_TARGETS), pillow_resample(image, _PROBE_TARGETS), strict=True)
    )
