"""One batch through the model: its loss to learn from, and how much of it was right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from nvlm_trt.mini.batches import NO_TARGET, Batch
from nvlm_trt.mini.curriculum import Stage
from nvlm_trt.mini.model import MiniNvlm
from nvlm_trt.mini.scene import NO_CHAR

__all__ = ["Lesson", "take_lesson"]

# Most half patches hold no letter; so they count less, and still are not ignored.
_NO_CHAR_WEIGHT = 0.1
_COLOUR_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class Lesson:
    """``right`` of ``asked``: whole answers, or letters where the batch is of pages."""

    loss: Tensor
    right: int
    asked: int


def take_lesson(model: MiniNvlm, batch: Batch, stage: Stage) -> Lesson:
    """An answer counts as right if each id is the likeliest after the right ones before it, the end included.

    That is the same as greedy decoding giving exactly the answer, at the cost of one pass.
    """
    device = model.letter_head.weight.device
    patches = model.patches(torch.from_numpy(batch.tiles).to(device))
    letters = torch.from_numpy(batch.letters).to(device)
    loss, letters_right, letters_asked = _hint(model, patches, letters, torch.from_numpy(batch.colours).to(device))
    if not batch.ids.size:
        return Lesson(loss, letters_right, letters_asked)
    order, ids = torch.from_numpy(batch.order).to(device), torch.from_numpy(batch.ids).to(device)
    answers, contents = (torch.from_numpy(part).to(device) for part in (batch.targets, batch.contents))
    targets = answers.masked_scatter(ids >= model.config.decoder.vocab_size, contents[order])
    where = targets != NO_TARGET
    logits = model.logits(ids, model.rows(patches)[order].flatten(1, 2), where)
    targets, of_answer = targets[where], (answers != NO_TARGET)[where]
    loss = loss + _content_loss(logits[~of_answer], targets[~of_answer], batch.empty_id)
    wrong = torch.zeros_like(answers, dtype=torch.bool)
    wrong[where] = of_answer & (logits.argmax(-1) != targets)
    answer_loss = functional.cross_entropy(logits[of_answer], targets[of_answer])
    return Lesson(answer_loss + stage.hint * loss, int((~wrong.any(1)).sum()), len(answers))


def _content_loss(logits: Tensor, targets: Tensor, empty_id: int) -> Tensor:
    """The decoder itself names what each row of a tile holds: then an answer only has to find the row to copy from."""
    weight = torch.ones(logits.shape[-1], device=logits.device)
    weight[empty_id] = _NO_CHAR_WEIGHT
    return functional.cross_entropy(logits, targets, weight)


def _hint(model: MiniNvlm, patches: Tensor, letters: Tensor, colours: Tensor) -> tuple[Tensor, int, int]:
    logits = model.letter_head(patches).unflatten(-1, (2, NO_CHAR + 1))
    weight = torch.ones(NO_CHAR + 1, device=logits.device)
    weight[NO_CHAR] = _NO_CHAR_WEIGHT
    loss = functional.cross_entropy(logits.flatten(0, 2), letters.flatten(), weight, ignore_index=NO_TARGET)
    loss = loss + _COLOUR_WEIGHT * functional.cross_entropy(
        model.colour_head(patches).flatten(0, 1), colours.flatten(), ignore_index=NO_TARGET
    )
    written = (letters != NO_TARGET) & (letters != NO_CHAR)
    return loss, int((logits.argmax(-1) == letters)[written].sum()), int(written.sum())
