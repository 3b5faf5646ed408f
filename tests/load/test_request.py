"""Prompts and pictures that are made up."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nvlm_trt.load.picture import picture_bytes
from nvlm_trt.load.request import write_prompt
from tests.model.qwen_ranks import qwen_ranks


def test_a_prompt_has_as_many_tokens_as_words() -> None:
    prompt = write_prompt(2000, random.Random(0))
    words = {f" {word}".encode() for word in prompt.split()}
    assert len(words) > 300
    assert words <= qwen_ranks().keys()


@pytest.mark.parametrize("name", ["1x1", "448x448", "100x37"])
def test_a_painted_picture_has_its_size_and_depends_on_its_seed(name: str, tmp_path: Path) -> None:
    data = picture_bytes(name, tmp_path, 5)
    assert Image.open(io.BytesIO(data)).size == tuple(map(int, name.split("x")))
    assert picture_bytes(name, tmp_path, 5) == data
    assert picture_bytes(name, tmp_path, 6) != data


def test_no_part_of_two_painted_pictures_is_alike(tmp_path: Path) -> None:
    """A cache of tiles must not find any."""
    first, second = (
        np.asarray(Image.open(io.BytesIO(picture_bytes("448x448", tmp_path, seed)))).astype(int) for seed in (0, 1)
    )
    blocks = np.abs(first - second).reshape(8, 56, 8, 56, 3).mean(axis=(1, 3, 4))
    assert blocks.min() > 20


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"any bytes")
    assert picture_bytes("a.png", tmp_path, 0) == b"any bytes"
