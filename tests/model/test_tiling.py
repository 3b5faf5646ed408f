"""Grids and pixels against ``golden/tiling-golden.json``, which five implementations of the rule agree on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nvlm_trt.model.config import TilingConfig
from nvlm_trt.model.tiling import Grid, choose_grid, cut_tiles, num_tiles

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tiling-golden.json").read_text())
SIDES = st.integers(1, 20_000)


def tiling(max_tiles: int, tile_size: int = 448, use_thumbnail: bool = True) -> TilingConfig:
    return TilingConfig(tile_size=tile_size, min_tiles=1, max_tiles=max_tiles, use_thumbnail=use_thumbnail)


def test_every_golden_size_gets_its_grid():
    wrong = []
    for case in GOLDEN["cases"]:
        limits = tiling(case["max_tiles"])
        grid = choose_grid(case["width"], case["height"], limits)
        if (grid.cols, grid.rows, num_tiles(grid, limits)) != (case["cols"], case["rows"], case["n_tiles"]):
            wrong.append((case, str(grid)))
    assert len(GOLDEN["cases"]) == 495
    assert {case["max_tiles"] for case in GOLDEN["cases"]} >= {6, 12}
    assert not wrong


@pytest.mark.parametrize(
    "case", GOLDEN["pixel_cases"]["entries"], ids=lambda case: f"{case['width']}x{case['height']}-{case['max_tiles']}"
)
def test_every_golden_picture_gets_its_pixels(case, resample):
    tiles = cut_tiles(_pattern(case["width"], case["height"]), tiling(case["max_tiles"]), resample)
    assert [hashlib.sha256(tile.tobytes()).hexdigest() for tile in tiles] == case["tiles_sha256"]


def test_the_area_that_decides_a_tie():
    assert choose_grid(633, 633, tiling(6)) == Grid(1, 1)
    assert choose_grid(634, 634, tiling(6)) == Grid(2, 2)


@given(SIDES, SIDES, st.integers(1, 12))
@settings(deadline=None)
def test_no_allowed_grid_is_nearer_to_the_aspect_ratio(width, height, max_tiles):
    grid = choose_grid(width, height, tiling(max_tiles))
    chosen = abs(width / height - grid.cols / grid.rows)
    for cols in range(1, max_tiles + 1):
        for rows in range(1, max_tiles // cols + 1):
            assert chosen <= abs(width / height - cols / rows)
    assert grid.area <= max_tiles


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 12))
@settings(deadline=None)
def test_tiles_are_the_stretched_picture_row_by_row_then_the_thumbnail(width, height, max_tiles):
    limits = tiling(max_tiles, tile_size=8)
    image = _pattern(width, height)
    grid = choose_grid(width, height, limits)
    tiles = cut_tiles(image, limits)
    assert tiles.shape == (num_tiles(grid, limits), 8, 8, 3)
    assert tiles.dtype == np.uint8
    stretched = image.resize((8 * grid.cols, 8 * grid.rows), Image.Resampling.BICUBIC)
    for k in range(grid.area):
        col, row = k % grid.cols, k // grid.cols
        crop = stretched.crop((8 * col, 8 * row, 8 * col + 8, 8 * row + 8))
        assert np.array_equal(tiles[k], np.asarray(crop))
    if grid.area > 1:
        assert np.array_equal(tiles[-1], np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC)))


def test_one_tile_is_its_own_thumbnail():
    assert num_tiles(Grid(1, 1), tiling(6)) == 1
    assert num_tiles(Grid(3, 2), tiling(6)) == 7
    assert num_tiles(Grid(3, 2), tiling(6, use_thumbnail=False)) == 6
    assert len(cut_tiles(_pattern(30, 20), tiling(6, tile_size=8, use_thumbnail=False))) == 6


@pytest.mark.parametrize(("width", "height", "grid"), [(1, 1, "1x1"), (1, 200, "1x6"), (200, 1, "6x1")])
def test_extreme_shapes_are_tiled(width, height, grid):
    assert str(choose_grid(width, height, tiling(6))) == grid
    assert cut_tiles(_pattern(width, height), tiling(6, tile_size=16)).shape[1:] == (16, 16, 3)


def _pattern(width: int, height: int) -> Image.Image:
    """The goldens' synthetic picture."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    channels = [(7 * x + 3 * y) % 256, (x * x + 5 * y) % 256, ((x ^ y) * 11) % 256]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
