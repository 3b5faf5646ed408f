"""The file of prompts: what is put in comes out, and a kill in the middle of a write costs the last question."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from nvlm_trt.precision.prompts import Prompts, StoredPrompt

WIDTH = 3


def prompt(number: int) -> StoredPrompt:
    rows = np.random.default_rng(number).standard_normal((number % 3 * 2, WIDTH)).astype(np.float32)
    if number == 4:
        return StoredPrompt("four", np.empty(0, np.int32), rows[:0], 0, "E-IMAGE-FILE")
    return StoredPrompt(number, np.arange(number + 1, dtype=np.int32), rows, number)


def same(one: StoredPrompt, other: StoredPrompt) -> bool:
    plain = (one.sample_id, one.tiles, one.error) == (other.sample_id, other.tiles, other.error)
    return plain and np.array_equal(one.ids, other.ids) and np.array_equal(one.rows, other.rows)


@pytest.fixture
def folder(tmp_path):
    with closing(Prompts(tmp_path, WIDTH)) as prompts:
        for number in range(6):
            prompts.append(prompt(number))
    return tmp_path


def test_prompts_are_kept(folder):
    with closing(Prompts(folder, WIDTH)) as prompts:
        assert len(prompts) == 6
        assert all(same(found, prompt(number)) for number, found in enumerate(prompts))


@pytest.mark.parametrize(
    ("name", "cut", "left"),
    [("prompts.jsonl", 1, 5), ("prompts.jsonl", 30, 5), ("rows.f32", 4, 5), ("rows.f32", 49, 2)],
)
def test_what_was_torn_is_cut_off_and_made_again(folder, name, cut, left):
    """Rows of prompts 2 and 5, four each of twelve bytes, end the file; prompt 1 has two before them."""
    file = folder / name
    file.write_bytes(file.read_bytes()[:-cut])
    with closing(Prompts(folder, WIDTH)) as prompts:
        assert len(prompts) == left
        for number in range(left, 6):
            prompts.append(prompt(number))
        assert all(same(found, prompt(number)) for number, found in enumerate(prompts))
    assert (folder / "rows.f32").stat().st_size == 4 * WIDTH * sum(len(prompt(number).rows) for number in range(6))


def test_rows_without_a_line_are_cut_off(folder):
    with (folder / "rows.f32").open("ab") as file:
        file.write(b"torn")
    with closing(Prompts(folder, WIDTH)) as prompts:
        prompts.append(prompt(7))
        assert same(prompts[6], prompt(7))
