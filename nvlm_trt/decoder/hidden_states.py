"""Where hidden states wait between two layers: in memory, or in two files that take turns.

On disk a layer reads one file and writes the other, so a kill in the middle of a layer leaves its input whole. Files
are read and written, not mapped, so a batch is all the memory they take.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.disk import writing

__all__ = ["DiskStates", "HiddenStates", "MemoryStates"]

Floats = NDArray[np.float32]


class HiddenStates(Protocol):
    """Batches of rows. What is written is read after the next ``turn``."""

    def read(self, batch: int) -> Floats: ...

    def write(self, batch: int, values: Floats) -> None: ...

    def turn(self) -> None: ...

    def sync(self) -> None:
        """What has been written lasts through a kill."""

    def close(self) -> None: ...


class MemoryStates:
    """A layer's output replaces its input at once: each batch is read before it is written."""

    def __init__(self, batches: int) -> None:
        self._batches: list[Floats] = [np.empty((0, 0), np.float32)] * batches

    def read(self, batch: int) -> Floats:
        return self._batches[batch]

    def write(self, batch: int, values: Floats) -> None:
        self._batches[batch] = values

    def turn(self) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        self._batches.clear()


class DiskStates:
    """Files ``{stem}.0`` and ``{stem}.1``, little-endian float32. ``current`` is the one to read from.

    Raises ``BuildError`` E-BUILD-SPACE and E-BUILD-WRITE.
    """

    def __init__(self, stem: Path, rows: Sequence[int], width: int, current: int) -> None:
        self._shapes = [(count, width) for count in rows]
        self._starts = [0, *itertools.accumulate(4 * width * count for count in rows)]
        self.current = current
        self._name = stem.name
        with writing(self._name):
            self._files = [os.open(file, os.O_RDWR | os.O_CREAT, 0o600) for file in self.paths(stem)]

    @staticmethod
    def paths(stem: Path) -> tuple[Path, Path]:
        return stem.with_name(f"{stem.name}.0"), stem.with_name(f"{stem.name}.1")

    @property
    def readable(self) -> bool:
        """Whether the file to read from is as long as it must be."""
        return os.fstat(self._files[self.current]).st_size == self._starts[-1]

    def written(self, batches: int) -> bool:
        """Whether the file to write to is long enough for the first ``batches``."""
        return os.fstat(self._files[1 - self.current]).st_size >= self._starts[batches]

    def read(self, batch: int) -> Floats:
        values = np.empty(self._shapes[batch], "<f4")
        view, start = values.data.cast("B"), self._starts[batch]
        while view:
            count = os.preadv(self._files[self.current], [view], start)
            if count == 0:
                raise RuntimeError("a file of hidden states was cut while in use")
            view, start = view[count:], start + count
        return values

    def write(self, batch: int, values: Floats) -> None:
        view, start = np.ascontiguousarray(values, "<f4").data.cast("B"), self._starts[batch]
        with writing(self._name):
            while view:
                count = os.pwrite(self._files[1 - self.current], view, start)
                view, start = view[count:], start + count

    def turn(self) -> None:
        self.sync()
        self.current = 1 - self.current

    def sync(self) -> None:
        with writing(self._name):
            os.fsync(self._files[1 - self.current])

    def close(self) -> None:
        for file in self._files:
            os.close(file)
