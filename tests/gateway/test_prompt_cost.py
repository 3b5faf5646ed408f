"""``/v1/chat/prompt`` foretells what ``/v1/chat/completions`` then reads."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from nvlm_trt.checkpoint.synthetic import SIZES
from nvlm_trt.checkpoint.synthetic.config_json import config_json
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.model.tiling import choose_grid, num_tiles
from tests.gateway.conftest import picture_part, text_part, user
from tests.gateway.raw import GOOD, send


def cost(gateway, *messages):
    return send(gateway.url, {**GOOD, "messages": [*messages]}, path="/v1/chat/prompt")


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(("width", "height"), [(10, 10), (300, 100), (100, 300), (640, 480), (90, 1000)])
def test_a_picture_costs_what_is_foretold(gateway, width, height):
    config = NvlmConfig.from_json(config_json(SIZES["small"]))
    grid, question = (
        choose_grid(width, height, config.tiling),
        user(picture_part(png(width, height)), text_part("What is this?")),
    )
    told = cost(gateway, question).json
    (picture,) = told["pictures"]
    tiles = num_tiles(grid, config.tiling)
    assert (picture["width"], picture["height"]) == (width, height)
    assert (picture["columns"], picture["rows"], len(picture["tile_tags"])) == (grid.cols, grid.rows, tiles)
    assert picture["tile_tags"][-1] == "<tile_global_thumbnail>"
    assert picture["tokens"] == told["image_tokens"] == tiles * config.vision.tokens_per_tile
    read = send(gateway.url, {**GOOD, "messages": [question]}).json["usage"]["prompt_tokens"]
    assert (told["prompt_tokens"], told["max_model_len"]) == (read, 1024)


def test_several_pictures_are_told_apart(gateway):
    low = picture_part(png(300, 100), "low")
    first, second = cost(gateway, user(picture_part(png(300, 100)), low, text_part("Which?"))).json["pictures"]
    assert (first["columns"], second["columns"]) == (3, 1)
    assert first["tokens"] == 4 * second["tokens"]
    assert cost(gateway, user("No picture.")).json["pictures"] == []


def test_it_refuses_what_a_completion_would(gateway):
    told = cost(gateway, user(picture_part(b"\xff\xd8\xff\xe0 cut off"), text_part("What?")))
    assert (told.status, told.code) == (400, "E-IMAGE-TRUNCATED")
    assert cost(gateway, user(" ")).code == "E-PROMPT-EMPTY"
    assert send(gateway.url, {**GOOD, "max_tokens": 0}, path="/v1/chat/prompt").code == "E-PARAM-RANGE"
