"""What every vision engine can do, and the registry that finds one by name."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

__all__ = ["VisionEngine"]


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
        """

    def close(self) -> None: ...
