"""What every vision engine can do, and the check of its input."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.errors import RequestError

__all__ = ["VisionEngine", "check_tiles"]


class VisionEngine(Protocol):
    """Tiles in, decoder rows out.

    ``tile_shape`` is (height, width, 3); ``max_tiles`` the largest batch one call may hold; ``tokens_per_tile`` and
    ``output_size`` the shape of what a tile becomes.
    """

    @property
    def tile_shape(self) -> tuple[int, int, int]: ...

    @property
    def max_tiles(self) -> int: ...

    @property
    def tokens_per_tile(self) -> int: ...

    @property
    def output_size(self) -> int: ...

    def encode(self, tiles: NDArray[Any]) -> Any:
        """UINT8 [n, height, width, 3], 1 <= n <= ``max_tiles``, to [n, tokens_per_tile, output_size].

        The result is a float32 numpy array on CPU engines and a torch tensor in the decoder's dtype on CUDA engines.
        Raises ``RequestError`` E-IMAGE-TILES for other tiles.
        """

    def close(self) -> None: ...


def check_tiles(tiles: NDArray[Any], tile_shape: tuple[int, int, int], max_tiles: int) -> NDArray[np.uint8]:
    """``tiles`` as one contiguous block, or ``RequestError`` E-IMAGE-TILES."""
    if tiles.dtype != np.uint8 or tiles.shape[1:] != tile_shape or not 1 <= len(tiles) <= max_tiles:
        raise RequestError(
            "E-IMAGE-TILES",
            f"The tiles are {tiles.dtype} {list(tiles.shape)}; "
            f"uint8 {['1..' + str(max_tiles), *tile_shape]} is wanted.".replace("'", ""),
            "Send tiles as the preprocessing cuts them, no more than that at once.",
        )
    return np.ascontiguousarray(tiles)
