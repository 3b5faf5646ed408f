"""Which door an address means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nvlm_trt.errors import UsageError
from nvlm_trt.load.doors.base import Door
from nvlm_trt.load.doors.grpc import GrpcDoor
from nvlm_trt.load.doors.openai import OpenAiDoor
from nvlm_trt.load.doors.triton_http import TritonHttpDoor

__all__ = ["DOORS", "DoorKind", "door_of"]


@dataclass(frozen=True, slots=True)
class DoorKind:
    """``is_triton``: its address answers Triton's own questions too."""

    name: str
    form: str
    fits: Callable[[str], bool]
    open: Callable[[str, float], Door]
    is_triton: bool


def _is_openai(url: str) -> bool:
    return url.startswith(("http://", "https://")) and url.rstrip("/").endswith("/v1")


DOORS = (
    DoorKind("grpc", "grpc://HOST:PORT", lambda url: url.startswith("grpc://"), GrpcDoor, True),
    DoorKind("openai", "http://HOST:PORT/v1", _is_openai, OpenAiDoor, False),
    DoorKind("triton-http", "http://HOST:PORT", lambda url: url.startswith("http://"), TritonHttpDoor, True),
)


def door_of(url: str) -> DoorKind:
    """Raises ``UsageError`` E-USAGE-URL."""
    for kind in DOORS:
        if kind.fits(url):
            return kind
    forms = ", ".join(kind.form for kind in DOORS)
    raise UsageError("E-USAGE-URL", f"{url!r} is none of {forms}.", "Correct the address.")
