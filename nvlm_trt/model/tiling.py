"""Cuts a picture into tiles the way NVLM-D was trained to see it.

Of all grids of at most ``max_tiles`` tiles, the one whose aspect ratio is nearest to the picture's is chosen. The
picture is stretched to fill it, cut row by row, and followed by a thumbnail of the whole. A grid of one tile has no
thumbnail, because it is one already. The rule, its tie-break included, is that of the release's example code; grids and
pixels are pinned by ``tests/golden/tiling-golden.json``.

Pixels stay 8-bit. Scaling and normalising them is the vision graph's work, so it exists only once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.model.config import TilingConfig
from nvlm_trt.model.pixels import Pixels, picture_size
from nvlm_trt.model.resample import Resample, pillow_resample

__all__ = ["Grid", "choose_grid", "cut_tiles", "num_tiles"]


@dataclass(frozen=True, slots=True)
class Grid:
    """Tiles across and tiles down."""

    cols: int
    rows: int

    @property
    def area(self) -> int:
        return self.cols * self.rows

    def __str__(self) -> str:
        return f"{self.cols}x{self.rows}"


def choose_grid(width: int, height: int, tiling: TilingConfig) -> Grid:
    """The grid for a picture of ``width`` x ``height`` pixels, both at least 1.

    Distances are compared as IEEE doubles. On an exact tie the larger grid wins only if the picture has more than half
    the pixels that grid would hold, so that a small picture is not enlarged for nothing.
    """
    aspect = width / height
    best, best_distance = Grid(1, 1), float("inf")
    for grid in _candidates(tiling.min_tiles, tiling.max_tiles):
        distance = abs(aspect - grid.cols / grid.rows)
        if distance < best_distance or (
            distance == best_distance and 2 * width * height > tiling.tile_size**2 * grid.area
        ):
            best, best_distance = grid, distance
    return best


def num_tiles(grid: Grid, tiling: TilingConfig) -> int:
    """Tiles the vision engine sees, including the thumbnail."""
    return grid.area + _has_thumbnail(grid, tiling)


def cut_tiles(pixels: Pixels, tiling: TilingConfig, resample: Resample = pillow_resample) -> NDArray[np.uint8]:
    """Tiles of an RGB picture, uint8 [n, S, S, 3]: row by row, then the thumbnail.

    Both are resized from the original. ``resample`` decides how fast, never what comes out.
    """
    size, grid = tiling.tile_size, choose_grid(*picture_size(pixels), tiling)
    sizes = [(size * grid.cols, size * grid.rows), (size, size)]
    stretched = resample(pixels, sizes if _has_thumbnail(grid, tiling) else sizes[:1])
    tiles = np.empty((num_tiles(grid, tiling), size, size, 3), np.uint8)
    mosaic = tiles[: grid.area].reshape(grid.rows, grid.cols, size, size, 3)
    mosaic[...] = stretched[0].reshape(grid.rows, size, grid.cols, size, 3).swapaxes(1, 2)
    for thumbnail in stretched[1:]:
        tiles[-1] = thumbnail
    return tiles


def _has_thumbnail(grid: Grid, tiling: TilingConfig) -> bool:
    return tiling.use_thumbnail and grid.area != 1


@cache
def _candidates(min_tiles: int, max_tiles: int) -> tuple[Grid, ...]:
    """Grids of ascending area. Among equal areas no two are ever equally near, so their order does not matter."""
    sides = range(1, max_tiles + 1)
    grids = (Grid(cols, rows) for cols in sides for rows in sides if min_tiles <= cols * rows <= max_tiles)
    return tuple(sorted(grids, key=lambda grid: grid.area))
