"""POST /v1/chat/prompt: what the same body would cost at /v1/chat/completions, without asking the model.

The ensemble's own preprocessing reads the request, so grids and tokens are those of the answer, by the same code. Only
the tiles are not sent here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from nvlm_trt.client.answer import PromptFacts
from nvlm_trt.gateway.admission import Admission
from nvlm_trt.gateway.backend import Backend
from nvlm_trt.gateway.call import Call
from nvlm_trt.gateway.chat_request import ChatRequest
from nvlm_trt.gateway.pictures import picture_uris
from nvlm_trt.gateway.reply import Reply
from nvlm_trt.intake.fetch import Fetcher
from nvlm_trt.model.prompt import tile_tags

__all__ = ["PromptCost"]


class PromptCost:
    """An ``Answerer`` whose calls count in no metric, because they only ask what a question costs."""

    def __init__(self, backend: Backend, admission: Admission, fetcher: Fetcher) -> None:
        self._backend = backend
        self._admission = admission
        self._fetcher = fetcher

    def begun(self, call: Call, headers: Sequence[tuple[bytes, bytes]]) -> None:
        pass

    def ended(self, call: Call, status: int) -> None:
        pass

    async def answer(self, request: ChatRequest, call: Call, reply: Reply) -> None:
        uris = await picture_uris(request, call.held, self._fetcher)
        await self._admission.take(1)
        # Decoding goes on when its client has left, and the turn is taken until it is over.
        asked = self._backend.measure(request, uris, call.triton_id)
        asked.add_done_callback(lambda _: self._admission.give(1))
        facts = await asyncio.shield(asked)
        await reply.json(_json(facts, await self._backend.max_seq_len()))


def _json(facts: PromptFacts, max_model_len: int) -> dict[str, Any]:
    tags = [tile_tags(_num_tiles(cols, rows)) for cols, rows in facts.tile_grids]
    per_tile = facts.image_tokens // max(1, sum(map(len, tags)))
    pictures = [
        {
            "width": width,
            "height": height,
            "columns": cols,
            "rows": rows,
            "tile_tags": of_picture,
            "tokens": per_tile * len(of_picture),
        }
        for (width, height), (cols, rows), of_picture in zip(facts.image_sizes, facts.tile_grids, tags, strict=True)
    ]
    return {
        "object": "chat.prompt",
        "prompt_tokens": facts.input_tokens,
        "image_tokens": facts.image_tokens,
        "max_model_len": max_model_len,
        "pictures": pictures,
    }


def _num_tiles(cols: int, rows: int) -> int:
    """A grid of several tiles has a thumbnail behind it: preprocessing serves no model without one."""
    return cols * rows + (cols * rows > 1)
