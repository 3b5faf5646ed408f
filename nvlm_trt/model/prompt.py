"""Builds the ids the decoder reads from a question and its pictures.

A prompt is a list of pieces: text, control tokens, and rows, the places where a tile's embeddings go. Text is only ever
tokenised as text, so a question that contains ``<|im_end|>`` or ``<|vision_pad|>`` has those characters and no effect.
Rows become virtual ids, numbered from ``vocab_size`` over the whole request: row k of the prompt table stands at the
k-th.

Two training codes made NVLM-D, and their prompts differ in two places:

    hf        the release: nothing between ``<|im_end|>`` and the next turn. The whole text is tokenised with its image
              block in place, so ``<Image>`` and the tile tag after it merge (``><`` is one token).
    megatron  a newline after ``<|im_end|>``. Tags are tokenised on their own and spliced in, so nothing merges.

A conversation is rendered turn after turn in the same way; its pictures are parts of their turn, not marks in its text.

An image of n tiles becomes ``<Image>``, then for each tile its tag and its rows, then ``</Image>``. Tags are
``<tile_1>`` to ``<tile_{n-1}>`` and ``<tile_global_thumbnail>`` for the last, which is also the tag of an image's only
tile. They are ordinary text to the tokenizer.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.errors import RequestError

if TYPE_CHECKING:
    from nvlm_trt.model.tokenizer import NvlmTokenizer

__all__ = ["DEFAULT_SYSTEM", "IMAGE_MARK", "PICTURE", "Prompt", "PromptStyle", "Turn", "build_prompt", "tile_tags"]

IMAGE_MARK = "<image>"
DEFAULT_SYSTEM = "Answer the questions."
_TURN_START, _TURN_END = "<|im_start|>", "<|im_end|>"


class PromptStyle(enum.StrEnum):
    HF = "hf"
    MEGATRON = "megatron"


@dataclass(frozen=True, slots=True)
class Prompt:
    """``input_ids`` int32 [n], ids from ``vocab_size`` up are rows; ``image_of_position`` int32 [n], -1 for text."""

    input_ids: NDArray[np.int32]
    image_of_position: NDArray[np.int32]

    @property
    def num_tokens(self) -> int:
        return int(self.input_ids.size)

    @property
    def num_image_rows(self) -> int:
        return int(np.count_nonzero(self.image_of_position >= 0))


class _Picture(enum.Enum):
    PICTURE = "where the next picture stands"


PICTURE = _Picture.PICTURE
"""The part of a turn that stands for a picture: pictures are given in the order of these."""


@dataclass(frozen=True, slots=True)
class Turn:
    """``parts`` follow each other without a break: a line end between text and picture is the caller's to put."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | _Picture, ...]


@dataclass(frozen=True, slots=True)
class _Control:
    name: str


@dataclass(frozen=True, slots=True)
class _Rows:
    image: int
    count: int


_Piece = str | _Control | _Rows


def build_prompt(
    question: str | Sequence[Turn],
    tiles_per_image: Sequence[int],
    *,
    tokenizer: NvlmTokenizer,
    style: PromptStyle,
    system: str | None = DEFAULT_SYSTEM,
    tokens_per_tile: int,
    vocab_size: int,
) -> Prompt:
    """The turns so far and the opening of the answer.

    A ``question`` that is a text is one user turn. It marks its pictures with ``<image>``, left to right; without a
    mark they all go in front, each on its own line. A conversation's turns hold ``PICTURE`` where their pictures stand,
    one for each entry of ``tiles_per_image``, and ``<image>`` in them is text. ``tiles_per_image`` counts thumbnails.
    ``system`` is used where no turn of that role is given; None or empty means no system turn.

    Raises ``RequestError``: E-PROMPT-EMPTY, E-PROMPT-IMAGES (there must be as many marks as pictures).
    """
    turns = [_marked_turn(question, len(tiles_per_image))] if isinstance(question, str) else list(question)
    if system and turns[0].role != "system":
        turns.insert(0, Turn("system", (system,)))
    shown = [turn for turn in turns if turn.role != "system" or turn.parts != ("",)]
    pieces = list(_render(shown, tiles_per_image, style, tokens_per_tile))
    if style is PromptStyle.HF:
        pieces = _joined(pieces)
    return _tokenised(pieces, tokenizer, vocab_size)


def tile_tags(num_tiles: int) -> list[str]:
    return [f"<tile_{number}>" for number in range(1, num_tiles)] + ["<tile_global_thumbnail>"]


def _marked_turn(question: str, num_images: int) -> Turn:
    first, *others = _with_marks(question, num_images).split(IMAGE_MARK)
    return Turn("user", (first, *(part for text in others for part in (PICTURE, text))))


def _with_marks(question: str, num_images: int) -> str:
    if not question.replace(IMAGE_MARK, "").strip():
        raise RequestError("E-PROMPT-EMPTY", "The question is empty.", "Ask something.")
    marks = question.count(IMAGE_MARK)
    if marks == 0:
        return f"{IMAGE_MARK}\n" * num_images + question
    if marks != num_images:
        raise RequestError(
            "E-PROMPT-IMAGES",
            f"The question has {marks} {IMAGE_MARK} marks and the request {num_images} pictures.",
            f"Send one picture for each {IMAGE_MARK}, or leave the marks out to put all pictures in front.",
        )
    return question


def _render(
    turns: Sequence[Turn], tiles_per_image: Sequence[int], style: PromptStyle, tokens_per_tile: int
) -> Iterator[_Piece]:
    """Turns with their images in place; numbering runs on over all turns."""
    after_turn = "\n" if style is PromptStyle.MEGATRON else ""
    images = iter(enumerate(tiles_per_image))
    for turn in turns:
        yield _Control(_TURN_START)
        text = f"{turn.role}\n"
        for part in turn.parts:
            if isinstance(part, str):
                text += part
                continue
            image, num_tiles = next(images)
            yield f"{text}<Image>"
            for tag in tile_tags(num_tiles):
                yield tag
                yield _Rows(image, tokens_per_tile)
            text = "</Image>"
        yield text
        yield _Control(_TURN_END)
        yield after_turn
    yield _Control(_TURN_START)
    yield "assistant\n"


def _joined(pieces: Sequence[_Piece]) -> list[_Piece]:
    """Neighbouring texts made one."""
    joined: list[_Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def _tokenised(pieces: Sequence[_Piece], tokenizer: NvlmTokenizer, vocab_size: int) -> Prompt:
    ids: list[int] = []
    images: list[int] = []
    next_row = vocab_size
    for piece in pieces:
        match piece:
            case str():
                ids += tokenizer.encode_text(piece)
            case _Control(name):
                ids.append(tokenizer.special_id(name))
            case _Rows(_, count):
                ids += range(next_row, next_row + count)
                next_row += count
            case _:
                assert_never(piece)
        image = piece.image if isinstance(piece, _Rows) else -1
        images += [image] * (len(ids) - len(images))
    return Prompt(np.array(ids, np.int32), np.array(images, np.int32))
