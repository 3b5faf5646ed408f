"""Every error a person can meet, as one tree.

    NvlmError                       exit  HTTP
    ├── UsageError                    2    400   a command line, recipe or data set that cannot be used
    ├── RequestError                  4    400   a request the model cannot answer: picture, prompt, parameter
    ├── CheckpointError               5    500   a model folder that is broken, incomplete or of another architecture
    ├── ArtefactError                 6    500   a built file that is missing, altered or made for something else
    ├── BuildError                    7    500   a build step that failed
    ├── MissingToolError              8    500   something this machine lacks; says how to get it
    ├── ServerError                   9    502   a server that cannot be started, reached or understood
    ├── OverloadedError              10    503   no room for the request now; sending it again later may succeed
    └── CancelledError               11    499   the request was ended by its sender

Each error carries a stable code (``E-FAMILY-WHAT``, listed in ``docs/errors.md``), what happened with the value seen
and the value allowed, and the next step. The text is safe to show to a stranger: it never contains a path of the
server, a memory address or a library's raw text. Everything outside this tree is a bug and shows its traceback.
"""

from __future__ import annotations

import re
from typing import ClassVar

__all__ = [
    "ArtefactError",
    "BuildError",
    "CancelledError",
    "CheckpointError",
    "MissingToolError",
    "NvlmError",
    "OverloadedError",
    "RequestError",
    "ServerError",
    "UsageError",
    "from_message",
]

_CODE = re.compile(r"E(-[A-Z0-9]+){2,}")
_IN_MESSAGE = re.compile(r"\b(E-([A-Z]+)(?:-[A-Z0-9]+)+): (.+)", re.DOTALL)


class NvlmError(Exception):
    """Base of the tree.

    ``code`` is stable, ``what`` says what happened, ``fix`` the next step; both texts are sentences.
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, code: str, what: str, fix: str = "") -> None:
        if not _CODE.fullmatch(code):
            raise ValueError(f"malformed error code {code!r}")
        super().__init__(code, what, fix)
        self.code = code
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.code}: {self.what}" + (f" {self.fix}" if self.fix else "")


class UsageError(NvlmError):
    exit_code = 2
    http_status = 400


class RequestError(NvlmError):
    exit_code = 4
    http_status = 400


class CheckpointError(NvlmError):
    exit_code = 5


class ArtefactError(NvlmError):
    exit_code = 6


class BuildError(NvlmError):
    exit_code = 7


class MissingToolError(NvlmError):
    exit_code = 8


class ServerError(NvlmError):
    exit_code = 9
    http_status = 502


class OverloadedError(NvlmError):
    exit_code = 10
    http_status = 503


class CancelledError(NvlmError):
    exit_code = 11
    http_status = 499


_FAMILIES: dict[str, type[NvlmError]] = {
    "USAGE": UsageError,
    "RECIPE": UsageError,
    "REPORT": UsageError,
    "EVAL": UsageError,
    "LOAD": UsageError,
    "IMAGE": RequestError,
    "PROMPT": RequestError,
    "PARAM": RequestError,
    "DOOR": RequestError,
    "CONFIG": CheckpointError,
    "CKPT": CheckpointError,
    "TOKENIZER": CheckpointError,
    "ARTEFACT": ArtefactError,
    "ENGINE": ArtefactError,
    "BUILD": BuildError,
    "TOOL": MissingToolError,
    "SERVER": ServerError,
    "BUSY": OverloadedError,
    "CANCEL": CancelledError,
}


def from_message(text: str) -> NvlmError | None:
    """The error whose ``str`` is contained in ``text``, or None: servers pass errors on as text, often with a prefix.

    ``what`` and ``fix`` come back as one sentence after the other in ``what``.
    """
    found = _IN_MESSAGE.search(text)
    if found is None or found[2] not in _FAMILIES:
        return None
    return _FAMILIES[found[2]](found[1], found[3].strip())
