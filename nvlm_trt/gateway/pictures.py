"""A request's pictures, all as data URIs."""

from __future__ import annotations

import base64

from nvlm_trt.gateway.body import Held
from nvlm_trt.gateway.chat_request import ChatRequest
from nvlm_trt.gateway.refusal import about
from nvlm_trt.intake.fetch import Fetcher
from nvlm_trt.intake.picture_url import PictureUrl

__all__ = ["picture_uris"]


async def picture_uris(request: ChatRequest, held: Held, fetcher: Fetcher) -> list[str]:
    """Fetches those that are addresses. Raises ``Refusal``, ``OverloadedError`` E-BUSY-BYTES."""

    async def uri(number: int, picture: str | PictureUrl) -> str:
        if isinstance(picture, str):
            return picture
        with about("messages"):
            data = await fetcher.fetch(picture, f"Picture {number}")
        held.add(len(data))
        return f"data:image/any;base64,{base64.b64encode(data).decode()}"

    # One after another: a list of addresses is no way to make this host open many connections at once.
    return [await uri(number, picture) for number, picture in enumerate(request.pictures, 1)]
