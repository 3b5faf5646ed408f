"""One batch through the model: its loss, and how much of it was right."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from nvlm_trt.mini.batches import NO_TARGET, Batch
from nvlm_trt.mini.model import MOST_PLACES, MiniNvlm
from nvlm_trt.mini.scene import CELL_LETTERS, NO_CHAR

__all__ = ["Lesson", "row_inks", "take_lesson"]

# Most half patches hold no letter; so they count less, and still are not ignored.
_NO_CHAR_WEIGHT = 0.1
_COLOUR_WEIGHT = 0.2
# Rows that grow beyond what the decoder's layers add to them drown it.
_SIZE_WEIGHT = 0.01


@dataclass(frozen=True, slots=True)
class Lesson:
    """``right`` of ``asked``: whole answers, or letters where the batch is of pages."""

    loss: Tensor
    right: int
    asked: int


def take_lesson(model: MiniNvlm, batch: Batch, joint: bool = True) -> Lesson:
    """An answer counts as right if each id is the likeliest after the right ones before it, including the end.

    That is the same as greedy decoding giving exactly the answer, at the cost of one pass. Unless ``joint``, answers do
    not train the tower.
    """
    parts = (batch.tiles, batch.letters, batch.colours, batch.cells)
    tiles, letters, colours, cells = (torch.from_numpy(part).to(model.letter_head.weight.device) for part in parts)
    answers = bool(batch.ids.size)
    with torch.set_grad_enabled(torch.is_grad_enabled() and (joint or not answers)):
        patches = model.patches(tiles)
    rows = model.rows(patches)
    loss = _cell_loss(model, rows, cells, colours) + _SIZE_WEIGHT * rows.square().mean(-1).log().square().mean()
    if patches.requires_grad or not answers:
        of_patches, right, asked = _patch_loss(model, patches, letters, colours)
        loss = loss + of_patches
    if not answers:
        return Lesson(loss, right, asked)
    of_answers, right = _answer_loss(model, batch, rows)
    return Lesson(of_answers + loss, right, len(batch.ids))


def _answer_loss(model: MiniNvlm, batch: Batch, rows: Tensor) -> tuple[Tensor, int]:
    order, ids, targets, places = (
        torch.from_numpy(part).to(rows.device) for part in (batch.order, batch.ids, batch.targets, batch.places)
    )
    tail = ids.shape[1] - int((batch.targets != NO_TARGET).any(0).argmax())
    logits, hidden = model.answer(ids, rows[order].flatten(1, 2), tail)
    targets = targets[:, -tail:]
    loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET)
    known = (places >= 0) & (places < MOST_PLACES)
    loss = loss + functional.cross_entropy(model.place_head(_normed(hidden[known])), places[known])
    wrong = (targets != NO_TARGET) & (logits.argmax(-1) != targets)
    return loss, int((~wrong.any(1)).sum())


def row_inks(colours: Tensor) -> Tensor:
    """Of patches int64 [n, patches] to those of the decoder's rows [n, patches / 4]; two in one row are rare."""
    side = math.isqrt(colours.shape[1])
    return functional.max_pool2d(colours.view(-1, 1, side, side).float(), 2).long().flatten(1)


def _cell_loss(model: MiniNvlm, rows: Tensor, cells: Tensor, colours: Tensor) -> Tensor:
    """Each row names its cell's letters, first to last, and their colour: then an answer only has to find the row."""
    rows = _normed(rows)
    logits = model.cell_head(rows).unflatten(-1, (CELL_LETTERS, NO_CHAR + 1))
    return _letters_loss(logits.flatten(0, 2), cells.flatten()) + _colour_loss(model.ink_head(rows), row_inks(colours))


def _patch_loss(model: MiniNvlm, patches: Tensor, letters: Tensor, colours: Tensor) -> tuple[Tensor, int, int]:
    logits = model.letter_head(patches).unflatten(-1, (2, NO_CHAR + 1))
    loss = _letters_loss(logits.flatten(0, 2), letters.flatten())
    loss = loss + _colour_loss(model.colour_head(patches), colours)
    written = (letters != NO_TARGET) & (letters != NO_CHAR)
    return loss, int((logits.argmax(-1) == letters)[written].sum()), int(written.sum())


def _colour_loss(logits: Tensor, colours: Tensor) -> Tensor:
    return _COLOUR_WEIGHT * functional.cross_entropy(
        logits.flatten(0, 1), colours.flatten(), ignore_index=NO_TARGET, reduction="sum"
    ).div((colours != NO_TARGET).sum().clamp(min=1))


def _normed(hidden: Tensor) -> Tensor:
    return functional.rms_norm(hidden, hidden.shape[-1:])


def _letters_loss(logits: Tensor, letters: Tensor) -> Tensor:
    weight = torch.ones(NO_CHAR + 1, device=logits.device)
    weight[NO_CHAR] = _NO_CHAR_WEIGHT
    return functional.cross_entropy(logits, letters, weight, ignore_index=NO_TARGET)
