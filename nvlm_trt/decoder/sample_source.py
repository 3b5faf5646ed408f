"""Samples: the decoder's input rows for some prompts, made one at a time and identified without making them.

Rows of a large set fill gigabytes, and the pictures' take minutes each to compute on a CPU. So a source knows lengths
and a key at once and makes rows when they are asked for. Equal keys promise equal rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArraySamples", "Samples", "as_samples", "digest_rows"]

Floats = NDArray[np.float32]


@runtime_checkable
class Samples(Protocol):
    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each sample."""

    def key(self) -> str:
        """A hash of everything that decides the rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Floats:
        """float32 [tokens, hidden]."""

    def release(self) -> None:
        """Let go of what making rows needs; rows can be asked for again all the same."""


class ArraySamples:
    """Samples that already exist."""

    def __init__(self, rows: Sequence[Floats]) -> None:
        self._rows = rows

    @property
    def lengths(self) -> Sequence[int]:
        return [len(sample) for sample in self._rows]

    def key(self) -> str:
        return hashlib.sha256("".join(map(digest_rows, self._rows)).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Floats:
        return self._rows[index]

    def release(self) -> None:
        pass


def as_samples(samples: Samples | Sequence[Floats]) -> Samples:
    return samples if isinstance(samples, Samples) else ArraySamples(samples)


def digest_rows(rows: Floats) -> str:
    """SHA-256 in hex of shape and values."""
    digest = hashlib.sha256(f"{rows.shape}".encode())
    digest.update(np.ascontiguousarray(rows, "<f4").data)
    return digest.hexdigest()
