"""The stream of pictures: what is drawn, what is asked, and that any batch can be made again."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.mini.batches import HELD_OUT, NO_TARGET, TRAIN, Batch, BatchMaker
from nvlm_trt.mini.curriculum import GRIDS, STAGES
from nvlm_trt.mini.exam import draw_exam
from nvlm_trt.mini.glyphs import ALPHABET, DIGITS, glyph
from nvlm_trt.mini.layout import TILE
from nvlm_trt.mini.scene import NO_CHAR, cell_labels, paint, patch_labels
from nvlm_trt.mini.supply import batch_maker
from nvlm_trt.mini.tasks import TASKS, Difficulty, Example
from nvlm_trt.mini.views import FULL, NO_TAGS, THUMBNAIL_ONLY, VIEWS
from nvlm_trt.model.tiling import Grid, choose_grid, cut_tiles

PATCH = 14


def same(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(Batch))


@pytest.mark.parametrize("index", range(len(STAGES)))
def test_a_batch_depends_on_seed_stage_and_step_alone(index: int, base: Path, maker: BatchMaker) -> None:
    later = maker.batch(STAGES[index], index, TRAIN, 7)
    maker.batch(STAGES[index], index, TRAIN, 0)
    assert same(later, batch_maker(base, seed=0).batch(STAGES[index], index, TRAIN, 7))
    for other in (
        maker.batch(STAGES[index], index, TRAIN, 8),
        maker.batch(STAGES[index], index, HELD_OUT, 7),
        batch_maker(base, seed=1).batch(STAGES[index], index, TRAIN, 7),
    ):
        assert not same(later, other)


def test_the_stages_with_many_tiles_cover_every_grid_that_six_tiles_allow() -> None:
    assert {str(grid) for grid in GRIDS} == {
        *("1x1", "1x2", "1x3", "1x4", "1x5", "1x6", "2x1", "3x1", "4x1", "5x1", "6x1", "2x2", "2x3", "3x2"),
    }
    assert set(STAGES[-1].grids) == set(GRIDS)
    assert {name for stage in STAGES for name in stage.tasks} == set(TASKS)


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_words_are_whole_inside_one_tile_and_the_answer_is_in_the_picture(task: str, grid: Grid, base: Path) -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        example = TASKS[task](rng, grid, Difficulty())
        scene = example.scene
        assert choose_grid(scene.width, scene.height, open_checkpoint(base).config.tiling) == grid
        for word in scene.words:
            pens = word.steps()
            last = pens[-2] + glyph(word.font, word.size, word.text[-1]).advance
            assert word.x // TILE == (last - 1) // TILE
        shown = [word.text for word in scene.words]
        assert example.answer in (" ".join(shown), *shown, str(len(shown)))


def test_a_count_a_comparison_and_a_neighbour_are_right() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        count, larger, left = (TASKS[name](rng, Grid(3, 2), Difficulty()) for name in ("count", "larger", "left"))
        assert count.answer == str(len(count.scene.words))
        assert int(larger.answer) == max(int(word.text) for word in larger.scene.words)
        first, second = left.scene.words
        assert (left.answer, left.question) == (first.text, f"What is left of {second.text}?")
        assert first.x < second.x


def test_pages_are_dense_and_a_quarter_of_them_of_digits_alone(maker: BatchMaker) -> None:
    letters = maker.batch(STAGES[1], 1, TRAIN, 0).letters.reshape(64, -1)
    assert (letters != NO_CHAR).sum() > 64 * 15
    of_digits = ((letters < len(DIGITS)) | (letters == NO_CHAR)).all(1).sum()
    assert 8 <= of_digits <= 24


def test_labels_say_which_letter_stands_in_which_half_of_a_patch() -> None:
    example = TASKS["read"](np.random.default_rng(0), Grid(2, 1), Difficulty(lengths=(4, 4), most_words=1))
    letters, colours = patch_labels(example.scene, TILE, PATCH)
    assert letters.shape == (2, 64, 2)
    written = letters[letters != NO_CHAR]
    assert "".join(ALPHABET[index] for index in written) == example.answer
    assert (colours >= 0).sum() == (letters != NO_CHAR).any(-1).sum()


def test_a_letter_is_labelled_where_its_ink_can_be_seen() -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        scene = TASKS["read"](rng, Grid(1, 1), Difficulty(lengths=(1, 1), most_words=1)).scene
        bare = paint(replace(scene, words=()))
        inked = np.flatnonzero((paint(scene) != bare).any((0, 2)))
        middle = (inked[0] + inked[-1] + 1) / 2
        _, patch, half = np.argwhere(patch_labels(scene, TILE, PATCH)[0] != NO_CHAR)[0]
        # Ink too thin to change a pixel may end a letter.
        assert abs((patch % 8 * 2 + half + 0.5) * PATCH / 2 - middle) <= PATCH / 4 + 0.5


def test_cells_hold_the_letters_in_reading_order_in_tiles_and_in_the_thumbnail() -> None:
    example = TASKS["read"](np.random.default_rng(0), Grid(2, 1), Difficulty(lengths=(8, 8), most_words=1))
    for thumbnail, tiles in ((False, 2), (True, 1)):
        cells = cell_labels(example.scene, TILE, 2 * PATCH, thumbnail)
        assert cells.shape == (tiles, 16, 4)
        assert "".join(ALPHABET[index] for index in cells[cells != NO_CHAR]) == example.answer


def answers_by_place(batch: Batch, picture: int) -> dict[int, int]:
    """What the positions that answer say, by the letter that they are told to look at."""
    answering = batch.targets[picture] != NO_TARGET
    return dict(zip(batch.places[picture][answering].tolist(), batch.targets[picture][answering].tolist(), strict=True))


@pytest.mark.parametrize("view", VIEWS)
def test_a_row_and_the_position_that_copies_from_it_have_the_same_place(view: str, maker: BatchMaker) -> None:
    rng, viewed = np.random.default_rng(2), maker.seen(view)
    example = TASKS["number"](rng, Grid(3, 2), Difficulty(sizes=(30, 40)))
    batch = viewed.batch_of([example])
    rows = np.flatnonzero(batch.ids[0] >= 2048)
    cells = batch.cells[batch.order[0]].reshape(-1, 4)
    answers = answers_by_place(batch, 0)
    for row, cell in zip(rows, cells, strict=True):
        letters = [ALPHABET[letter] for letter in cell if letter not in (NO_CHAR, NO_TARGET)]
        assert (batch.places[0, row] == NO_TARGET) == (not letters)
        for offset, letter in enumerate(letters):
            assert answers[batch.places[0, row] + offset] == maker.tokenizer.encode_text(letter)[0]
    assert answers[len(example.answer)] == maker.tokenizer.eos_id


def test_the_answer_about_a_colour_begins_at_that_line(maker: BatchMaker) -> None:
    rng = np.random.default_rng(4)
    example = next(
        example for example in iter(lambda: TASKS["colour"](rng, Grid(2, 2), Difficulty()), None) if example.before
    )
    texts = [word.text for word in example.scene.words]
    assert "".join(texts)[example.before :].startswith(example.answer)
    assert min(answers_by_place(maker.batch_of([example]), 0)) == example.before


def test_a_count_is_copied_from_nowhere(maker: BatchMaker) -> None:
    batch = maker.batch_of([TASKS["count"](np.random.default_rng(0), Grid(1, 2), Difficulty())])
    assert set(answers_by_place(batch, 0)) == {NO_TARGET}


def test_views_leave_out_what_they_say(maker: BatchMaker) -> None:
    example: Example = TASKS["read"](np.random.default_rng(0), Grid(3, 2), Difficulty())
    full, no_tags, thumbnail = (maker.seen(view).batch_of([example]) for view in (FULL, NO_TAGS, THUMBNAIL_ONLY))
    assert [batch.order.shape[1] for batch in (full, no_tags, thumbnail)] == [7, 7, 1]
    assert np.array_equal(thumbnail.tiles[0], full.tiles[full.order[0, -1]])
    rows = np.flatnonzero(no_tags.ids[0] >= 2048)
    assert np.array_equal(rows, np.arange(rows[0], rows[0] + 7 * 16))
    assert b"<tile" in maker.tokenizer.decode_bytes(full.ids[0][full.ids[0] < 2000].tolist())
    assert b"<tile" not in maker.tokenizer.decode_bytes(no_tags.ids[0][no_tags.ids[0] < 2000].tolist())


def test_equal_tiles_are_kept_once_and_every_picture_can_be_put_together_again(maker: BatchMaker, base: Path) -> None:
    tiling = open_checkpoint(base).config.tiling
    questions = [question for question in draw_exam(seed=4, count=42) if question.grid == Grid(3, 2)]
    batch = maker.batch_of([question.example for question in questions])
    assert len(batch.tiles) < batch.order.size
    for question, order in zip(questions, batch.order, strict=True):
        cut = cut_tiles(Image.fromarray(paint(question.example.scene)), tiling)
        assert np.array_equal(batch.tiles[order], cut)


def test_targets_spell_the_answer_behind_the_prompt(maker: BatchMaker, base: Path) -> None:
    question = next(draw_exam(seed=9, count=1))
    batch = maker.batch_of([question.example])
    targets = batch.targets[0][batch.targets[0] != NO_TARGET]
    tokenizer = maker.tokenizer
    assert tokenizer.decode_bytes(targets[:-1].tolist()).decode() == question.example.answer
    assert targets[-1] == tokenizer.eos_id
    assert len(targets) == len(question.example.answer) + 1


def test_the_exam_can_be_drawn_again_and_has_every_grid() -> None:
    first, again = (list(draw_exam(seed=1, count=28)) for _ in range(2))
    assert [question.png for question in first] == [question.png for question in again]
    assert {question.grid for question in first} == set(GRIDS)
