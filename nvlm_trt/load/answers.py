"""Whether answers under load equal those of the same requests alone, as greedy answers must."""

from __future__ import annotations

from collections.abc import Mapping

from nvlm_trt.load.request import LoadRequest
from nvlm_trt.load.result import Check

__all__ = ["Answers"]

_EXAMPLES = 3


class Answers:
    """Of one run: the distinct texts that each distinct request got."""

    def __init__(self) -> None:
        self._texts: dict[LoadRequest, list[str]] = {}

    def add(self, request: LoadRequest, text: str) -> None:
        self._texts.setdefault(request, []).append(text)

    @property
    def requests(self) -> tuple[LoadRequest, ...]:
        return tuple(self._texts)

    def against(self, alone: Mapping[LoadRequest, str | None]) -> Check:
        """``alone`` has None for a request that got no answer, and every request of ``requests``."""
        equal = different = 0
        examples: list[str] = []
        for request, texts in self._texts.items():
            wanted = alone[request]
            if wanted is None:
                continue
            for text in texts:
                equal += text == wanted
                if text != wanted:
                    different += 1
                    examples.append(f"{request.prompt[:60]!r}: alone {wanted[:60]!r}, under load {text[:60]!r}")
        return Check(
            asked_alone=len(self._texts),
            equal=equal,
            different=different,
            unanswered=sum(alone[request] is None for request in self._texts),
            examples=tuple(examples[:_EXAMPLES]),
        )
