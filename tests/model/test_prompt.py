from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.errors import RequestError
from nvlm_trt.model.prompt import DEFAULT_SYSTEM, Prompt, PromptStyle, build_prompt, tile_tags
from tests.model.qwen_ranks import ADDED_NAMES, NUM_LEARNED

VOCAB_SIZE = 152064
EXAMPLE = "Please describe the image shortly."
START, END = 151644, 151645
SYSTEM = [START, 8948, 198, 16141, 279, 4755, 13, END]
USER = [START, 872, 198]
ASSISTANT = [START, 77091, 198]
STYLES = list(PromptStyle)


@pytest.fixture
def build(qwen):
    def build(question: str, *tiles: int, style=PromptStyle.HF, system=DEFAULT_SYSTEM, rows: int = 256) -> Prompt:
        return build_prompt(
            question, tiles, tokenizer=qwen, style=style, system=system, tokens_per_tile=rows, vocab_size=VOCAB_SIZE
        )

    return build


def short(prompt: Prompt) -> list[int | str]:
    """Ids with each run of rows told in one word: where it begins, how long it is and whose it is."""
    told: list[int | str] = []
    ids, images = prompt.input_ids.tolist(), prompt.image_of_position.tolist()
    at = 0
    while at < len(ids):
        if images[at] < 0:
            told.append(ids[at])
            at += 1
            continue
        end = at
        while end < len(ids) and ids[end] == ids[at] + end - at and images[end] == images[at]:
            end += 1
        told.append(f"image {images[at]}: {ids[at] - VOCAB_SIZE}+{end - at}")
        at = end
    return told


@pytest.mark.parametrize(("tiles", "total"), [(1, 286), (2, 547), (3, 808), (5, 1330), (7, 1852)])
def test_totals_of_the_release(build, tiles, total):
    assert build(EXAMPLE, tiles).num_tokens == total == 261 * tiles + 25


@pytest.mark.parametrize("tiles", [1, 2, 3, 4, 5, 6, 7])
def test_totals_of_megatron(build, tiles):
    prompt = build(EXAMPLE, tiles, style=PromptStyle.MEGATRON)
    assert (prompt.num_tokens, prompt.num_image_rows) == (261 * tiles + 28, 256 * tiles)


def test_every_id_of_a_one_tile_prompt_of_the_release(build, qwen):
    thumbnail = [21094, 19296, 37824, 29]
    assert short(build(EXAMPLE, 1)) == [
        *SYSTEM, *USER, 46465, 1784, *thumbnail, "image 0: 0+256", 522, 1906, 397, *qwen.encode_text(EXAMPLE), END,
        *ASSISTANT,
    ]  # fmt: skip


def test_every_id_of_a_three_tile_prompt_of_the_release(build, qwen):
    assert short(build(EXAMPLE, 3)) == [
        *SYSTEM, *USER, 46465, 1784, 21094, 62, 16, 29, "image 0: 0+256", 27, 21094, 62, 17, 29, "image 0: 256+256",
        27, 21094, 19296, 37824, 29, "image 0: 512+256", 522, 1906, 397, *qwen.encode_text(EXAMPLE), END, *ASSISTANT,
    ]  # fmt: skip


def test_every_id_of_a_megatron_prompt(build, qwen):
    assert short(build(EXAMPLE, 2, style=PromptStyle.MEGATRON)) == [
        *SYSTEM, 198, *USER, 46465, 29, 27, 21094, 62, 16, 29, "image 0: 0+256", 27, 21094, 19296, 37824, 29,
        "image 0: 256+256", 522, 1906, 397, *qwen.encode_text(EXAMPLE), END, 198, *ASSISTANT,
    ]  # fmt: skip


def test_text_alone(build, qwen):
    words = qwen.encode_text("What is 2+2?")
    assert short(build("What is 2+2?")) == [*SYSTEM, *USER, *words, END, *ASSISTANT]
    assert short(build("What is 2+2?", style=PromptStyle.MEGATRON)) == [
        *SYSTEM, 198, *USER, *words, END, 198, *ASSISTANT,
    ]  # fmt: skip


@pytest.mark.parametrize("system", [None, ""])
@pytest.mark.parametrize("style", STYLES)
def test_without_a_system_text_there_is_no_system_turn(build, style, system):
    prompt = build(EXAMPLE, 1, style=style, system=system)
    assert prompt.input_ids[:3].tolist() == USER
    assert prompt.input_ids.tolist().count(START) == 2


def test_images_stand_where_they_are_marked(build):
    told = short(build("Compare <image> with <image>.", 1, 2, rows=4))
    assert [item for item in told if isinstance(item, str)] == ["image 0: 0+4", "image 1: 4+4", "image 1: 8+4"]


@pytest.mark.parametrize("style", STYLES)
def test_without_marks_every_image_stands_in_front_on_its_own_line(build, style):
    marked = build("<image>\n<image>\nCompare.", 1, 2, style=style)
    free = build("Compare.", 1, 2, style=style)
    assert np.array_equal(free.input_ids, marked.input_ids)
    assert np.array_equal(free.image_of_position, marked.image_of_position)


def test_neighbouring_images_merge_as_in_the_release(build):
    ids = build("<image><image>?", 1, 1, rows=1).input_ids.tolist()
    after_first_row = ids.index(VOCAB_SIZE) + 1
    assert ids[after_first_row : after_first_row + 5] == [522, 1906, 1784, 1906, 1784]


def test_the_last_tile_is_tagged_as_the_thumbnail():
    assert tile_tags(1) == ["<tile_global_thumbnail>"]
    assert tile_tags(3) == ["<tile_1>", "<tile_2>", "<tile_global_thumbnail>"]


TYPED = [*ADDED_NAMES, "<tile_1>", "<Image>", "</Image>", "<tile_global_thumbnail>", "\nuser\n", "hi", "😀"]
HOSTILE = st.lists(st.sampled_from(TYPED), min_size=1, max_size=8).map("".join)


@given(HOSTILE, st.lists(st.integers(1, 7), max_size=3), st.sampled_from(STYLES))
@settings(deadline=None)
def test_whatever_is_typed_stays_text(qwen, build_args, question, tiles, style):
    prompt = build_prompt(question, tiles, tokenizer=qwen, style=style, **build_args)
    text = prompt.input_ids[prompt.image_of_position < 0]
    # Three turns begin, two end, and nothing else is control; every row is one the images bring.
    control = text[text >= NUM_LEARNED].tolist()
    assert control == [START, END, START, END, START]
    rows = prompt.input_ids[prompt.image_of_position >= 0] - VOCAB_SIZE
    assert rows.tolist() == list(range(sum(tiles) * build_args["tokens_per_tile"]))
    assert question.encode() in qwen.decode_bytes(text.tolist())


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.sampled_from(STYLES))
@settings(deadline=None)
def test_rows_belong_to_their_images_in_order(qwen, build_args, tiles, style):
    prompt = build_prompt("What?", tiles, tokenizer=qwen, style=style, **build_args)
    owners = prompt.image_of_position[prompt.image_of_position >= 0]
    assert owners.tolist() == [image for image, n in enumerate(tiles) for _ in range(n * build_args["tokens_per_tile"])]
    assert prompt.input_ids.dtype == prompt.image_of_position.dtype == np.int32


@pytest.fixture(scope="module")
def build_args():
    return {"system": DEFAULT_SYSTEM, "tokens_per_tile": 4, "vocab_size": VOCAB_SIZE}


@pytest.mark.parametrize(("question", "tiles"), [("<image>?", ()), ("<image><image>?", (1,)), ("<image>?", (1, 1))])
def test_as_many_marks_as_images(build, question, tiles):
    with pytest.raises(RequestError) as caught:
        build(question, *tiles)
    assert caught.value.code == "E-PROMPT-IMAGES"
    assert f"{question.count('<image>')} <image> marks and the request {len(tiles)} pictures" in str(caught.value)


@pytest.mark.parametrize(("question", "tiles"), [("", ()), ("", (1,)), (" \n\t\u3000", ()), ("<image>\n", (1,))])
def test_an_empty_question(build, question, tiles):
    with pytest.raises(RequestError) as caught:
        build(question, *tiles)
    assert caught.value.code == "E-PROMPT-EMPTY"


def test_a_mark_in_the_system_text_is_text(build):
    assert short(build("?", system="<image>"))[3:5] == short(build("?", system="<image> "))[3:5]
    assert build("?", system="<image>").num_image_rows == 0
