"""All attacks as tables of text, for a page of the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tests.attacks.attack import ANSWERED, REFUSED
from tests.attacks.bodies import BODIES
from tests.attacks.calls import CALLS, MESSAGES
from tests.attacks.checkpoints import CHECKPOINTS
from tests.attacks.gateway_bodies import REQUESTS, WIRES
from tests.attacks.hosts import HOSTS
from tests.attacks.operations import PATHS
from tests.attacks.parameters import PARAMETERS
from tests.attacks.pictures import ODD_FILES, PICTURES
from tests.attacks.prompts import PROMPTS
from tests.attacks.tensors import TENSORS

__all__ = ["AttackTable", "attack_tables"]


@dataclass(frozen=True)
class AttackTable:
    """Rows are what was tried and what came back."""

    title: str
    about: str
    rows: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [f"## {self.title}", "", self.about, "", "| tried | answer |", "|---|---|"]
        return "\n".join([*lines, *(f"| {_plain(tried)} | {answer} |" for tried, answer in self.rows)])


def attack_tables() -> list[AttackTable]:
    ensemble = "To the ensemble, through gRPC, `/generate` and `/generate_stream`."
    return [
        _table("Pictures", ensemble, ((f"{one.name}: {one.tried}", _coded(one.code)) for one in PICTURES)),
        _table(
            "Odd pictures that people have",
            "Answered as the plain picture in them.",
            ((name, ANSWERED) for name in ODD_FILES),
        ),
        _table("Questions", ensemble, ((f"{one.name}: {one.tried}", _coded(one.code)) for one in PROMPTS)),
        _table("Parameters", ensemble, ((one.name, _coded(one.code)) for one in PARAMETERS)),
        _table(
            "Bodies",
            "To `/generate`, and as a tensor request to `/infer`.",
            ((one.tried, _said(one.code, one.says)) for one in BODIES),
        ),
        _table(
            "Paths and heads",
            "To Triton's other HTTP paths.",
            ((one.tried, f"{one.status} “{one.says}”" if one.says else str(one.status)) for one in PATHS),
        ),
        _table(
            "gRPC messages",
            "A good request to the ensemble, spoilt.",
            ((one.tried, _said(one.code, one.says)) for one in MESSAGES),
        ),
        _table(
            "gRPC calls",
            "Of other methods, or with heads and bytes that are none.",
            ((one.tried, one.status + (f" “{one.says}”" if one.says else "")) for one in CALLS),
        ),
        _table(
            "Tensors",
            "To each model, past the front door.",
            ((f"{one.model}: {one.tried}", _coded(one.code)) for one in TENSORS),
        ),
        _table(
            "At the OpenAI-compatible door",
            "Whole requests to a gateway that lists one host for pictures. All pictures above are sent to it too.",
            ((one.tried, f"{one.status} {_coded(one.code)}" + _at(one.param)) for one in REQUESTS),
        ),
        _table(
            "What a listed host sends",
            "In place of a picture. A name that leads elsewhere or changes its answer is asked once, and only public "
            "addresses are connected to.",
            ((one.tried, _coded(one.code.partition(":")[0])) for one in HOSTS),
        ),
        _table(
            "On the wire of that door",
            "Bytes on a connection to a gateway of little patience.",
            ((one.tried, str(one.status or "the connection ends")) for one in WIRES),
        ),
        _table(
            "Checkpoints",
            "To `nvlm-trt build`.",
            ((f"{one.name}: {one.tried}", _coded(one.code)) for one in CHECKPOINTS),
        ),
    ]


def _table(title: str, about: str, rows: Iterable[tuple[str, str]]) -> AttackTable:
    return AttackTable(title, about, tuple(rows))


def _coded(code: str) -> str:
    return "answered" if code == ANSWERED else "refused by Triton" if code == REFUSED else f"`{code}`"


def _at(param: str | None) -> str:
    return f" at `{param[:60]}`" if param else ""


def _said(code: str, says: str) -> str:
    return _coded(code) + (f": “{says}”" if says else "")


def _plain(text: str) -> str:
    """In one cell of a table, without characters that draw or break."""
    shown = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text[:120])
    return re.sub(r"([|`*_<>\\[\]])", r"\\\1", shown)
