"""SHA-256 of files, remembered by size and time so that 177 GB are read once, not once per build.

The memory lies in ``DIR/.build`` and not in the manifest, because it depends on this machine's clocks. Losing it costs
only time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

__all__ = ["MEMORY", "DigestMemory", "FileDigest", "RecallOnly", "UnreadFile", "sha256_file", "sha256_json"]

# Below a deployment's folder.
MEMORY = ".build/digests.json"
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class FileDigest:
    sha256: str
    size: int

    def to_json(self) -> dict[str, object]:
        return {"sha256": self.sha256, "size": self.size}


def sha256_file(file: Path, advanced: Callable[[int], None] | None = None) -> FileDigest:
    """Reads the file in pieces; ``advanced`` gets the number of bytes of each piece."""
    digest, size = hashlib.sha256(), 0
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
            size += count
            if advanced is not None:
                advanced(count)
    return FileDigest(digest.hexdigest(), size)


def sha256_json(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class DigestMemory:
    """Digests of files that have not changed since they were last read, as far as size, inode and times tell."""

    def __init__(self, known: dict[str, list[object]] | None = None) -> None:
        self._known = dict(known or {})

    @classmethod
    def load(cls, file: Path) -> Self:
        """An unreadable memory is an empty one."""
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return cls()
        if not isinstance(data, dict):
            return cls()
        return cls({name: entry for name, entry in data.items() if isinstance(entry, list) and len(entry) == 3})

    def dump(self) -> str:
        return json.dumps(self._known, sort_keys=True, indent=1) + "\n"

    def recall(self, file: Path) -> FileDigest | None:
        state = _state(file)
        match self._known.get(str(file.resolve())):
            case [str(seen), str(sha256), int(size)] if seen == state:
                return FileDigest(sha256, size)
        return None

    def digest(self, file: Path, advanced: Callable[[int], None] | None = None) -> FileDigest:
        remembered = self.recall(file)
        if remembered is not None:
            if advanced is not None:
                advanced(remembered.size)
            return remembered
        before = _state(file)
        fresh = sha256_file(file, advanced)
        if _state(file) == before:
            self._known[str(file.resolve())] = [before, fresh.sha256, fresh.size]
        return fresh


class UnreadFile(Exception):
    """A file's digest is not known and may not be computed now."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class RecallOnly(DigestMemory):
    """Knows what was remembered and reads nothing."""

    def digest(self, file: Path, advanced: Callable[[int], None] | None = None) -> FileDigest:
        remembered = self.recall(file)
        if remembered is None:
            raise UnreadFile(file.name)
        return remembered


def _state(file: Path) -> str:
    stat = file.stat()
    return f"{stat.st_size}-{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_ctime_ns}"
