"""The members of a ``torch.save`` archive, and where in the file their bytes lie.

torch stores members uncompressed, so a tensor can be mapped in place. The archive's directory is checked: members are
stored uncompressed, named once, do not overlap and lie inside the file. The header in front of a member's bytes says
where exactly they begin.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, NoReturn, cast

from nvlm_trt.checkpoint.untrusted import shown
from nvlm_trt.errors import CheckpointError

__all__ = ["Member", "ZipDirectory"]

# Two thousand members take 0.2 MB.
_MAX_DIRECTORY_BYTES = 1 << 24
# The library looks for the directory's end, which may carry a comment, in the file's last 64 KiB.
_MAX_END_BYTES = 1 << 17
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_LOCAL_MAGIC = b"PK\x03\x04"
_ENCRYPTED = 0x1
# What zipfile raises for bytes that are no archive: too many kinds to let any of them out. NotImplementedError comes
# from the standard library, where a damaged header asks for a version or a compression that it does not know.
_NOT_A_ZIP = (zipfile.BadZipFile, NotImplementedError, OverflowError, ValueError, struct.error, OSError)


@dataclass(frozen=True, slots=True)
class Member:
    """``offset`` is the place of the first byte in the file."""

    offset: int
    nbytes: int


class ZipDirectory:
    """The directory of an open file. Raises ``CheckpointError`` E-CKPT-HEADER, naming the file by ``label``."""

    def __init__(self, file: BinaryIO, size_bytes: int, label: str) -> None:
        self._label = label
        if os.pread(file.fileno(), len(_LOCAL_MAGIC), 0) != _LOCAL_MAGIC:
            self._reject(
                "it is not an archive of torch.save, or one of torch before 1.6, which is not supported",
                "Compare the file's size with its source's. An old file can be loaded with torch and saved again.",
            )
        try:
            with zipfile.ZipFile(cast("BinaryIO", _BoundedReader(file))) as archive:
                entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        except _NOT_A_ZIP:
            self._reject("its directory is broken or cut short")
        self._entries = {entry.filename: entry for entry in entries}
        if len(self._entries) != len(entries):
            self._reject("two members have one name")
        # A member ends at the latest where the next one begins.
        limits = [*(entry.header_offset for entry in entries[1:]), size_bytes]
        self._limits = dict(zip(self._entries, limits, strict=False))
        for entry, limit in zip(entries, limits, strict=False):
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                self._reject(f"{shown(entry.filename)} is compressed; torch.save stores members as they are")
            if entry.flag_bits & _ENCRYPTED:
                self._reject(f"{shown(entry.filename)} is encrypted")
            if entry.header_offset < 0 or entry.header_offset + _LOCAL_HEADER.size + entry.file_size > limit:
                self._reject(f"{shown(entry.filename)} reaches beyond the file or into the member after it")

    def names(self) -> Sequence[str]:
        """In the order in which they lie in the file."""
        return list(self._entries)

    def locate(self, file: BinaryIO, name: str) -> Member:
        """Where a member's bytes lie, from the header in front of them. E-CKPT-HEADER where either is missing."""
        entry = self._entries.get(name)
        if entry is None:
            self._reject(f"it has no member {shown(name)}")
        header = os.pread(file.fileno(), _LOCAL_HEADER.size, entry.header_offset)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL_MAGIC):
            self._reject(f"no header stands in front of {shown(name)}")
        *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
        offset = entry.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
        if offset + entry.file_size > self._limits[name]:
            self._reject(f"{shown(name)} reaches beyond the file or into the member after it")
        return Member(offset, entry.file_size)

    def _reject(
        self, fault: str, fix: str = "Compare the file's size with its source's, and fetch it again."
    ) -> NoReturn:
        raise CheckpointError("E-CKPT-HEADER", f"{shown(self._label)} cannot be read: {fault}.", fix)


class _BoundedReader:
    """As much of a file as the library needs: the size that a directory claims must not become an allocation."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, count: int = -1) -> bytes:
        if count > _MAX_DIRECTORY_BYTES:
            raise ValueError("too large a directory")
        return self._file.read(count if count >= 0 else _MAX_END_BYTES)
