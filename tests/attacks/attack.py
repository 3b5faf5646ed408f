"""One hostile input, and what its sender must be told."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.attacks.doors import Reply

__all__ = ["ANSWERED", "REFUSED", "Attack", "check", "secrets_in"]

ANSWERED = "answered"
"""Instead of a code: odd, but allowed."""

REFUSED = "E-SERVER-REFUSED"
"""What our clients say when Triton says no before a model of ours sees the request."""

_SECRETS = re.compile(
    r"""(?<![\w.+])/\w[\w.-]*/|\.\./|0x[0-9a-fA-F]{4,}      # paths, addresses
    |Traceback|File\s"|line\s\d+,\sin|\.py\b|\.cc\b|\.so\b        # where in which source
    |\b(PIL|Pillow|numpy|onnxruntime|ONNX|tokenizers|c10|torch|pybind11|safetensors_rust|codec)\b  # whose words
    |\b\w*(Error|Exception)\b""",
    re.VERBOSE,
)


def secrets_in(text: str) -> str | None:
    """What in an error's text is nobody's business."""
    found = _SECRETS.search(text)
    return found[0] if found else None


@dataclass(frozen=True)
class Attack:
    """``change`` makes what is sent on top of a good request; ``code`` is the error's, or ``ANSWERED``."""

    name: str
    tried: str
    change: Callable[[], Mapping[str, Any]] = field(repr=False)
    code: str


def check(reply: Reply, code: str) -> None:
    if code == ANSWERED:
        assert reply.error == ""
    else:
        assert reply.code == code, reply.error
        assert secrets_in(reply.error) is None, reply.error
