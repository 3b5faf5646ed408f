"""A run's answers on disk: one JSON object a line, appended as they come, under the reference's name and keys.

A process can die in the middle of a line, so the next one that opens the file cuts that line off. Lines come in the
order of answering; ``finish`` puts them into the data set's, so that a run that was interrupted leaves the same bytes
as one that was not.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from nvlm_trt.checkpoint.disk import publish, write_beside, writing
from nvlm_trt.errors import UsageError
from nvlm_trt.evaluate.failures import bad_output
from nvlm_trt.evaluate.task import Record

__all__ = ["OutputFile", "answer_files", "merged_file", "output_file", "parse_lines", "write_json"]


def output_file(prefix: Path, task: str, partition: int) -> Path:
    return prefix.with_name(f"{prefix.name}-{task}-dprank=0-partition={partition}.jsonl")


def answer_files(out: Path, task: str) -> list[Path]:
    """``out`` itself if it is a file, else all ranks' and partitions' files of that prefix."""
    if out.is_file():
        return [out]
    start = f"{out.name}-{task}-dprank="
    found = out.parent.glob("*.jsonl") if out.parent.is_dir() else ()
    return sorted(file for file in found if file.name.startswith(start) and "-partition=" in file.name)


def merged_file(out: Path, task: str) -> Path:
    return out.with_name(f"{out.stem}-merged.json" if out.is_file() else f"{out.name}-{task}-merged.json")


class OutputFile:
    """Open for one run at a time; ``close`` it. ``repaired`` says whether a torn last line was cut off."""

    def __init__(self, path: Path) -> None:
        """Raises ``UsageError`` E-EVAL-OUTPUT, E-EVAL-IN-USE; ``BuildError`` E-BUILD-WRITE, E-BUILD-SPACE."""
        self.path = path
        with writing(path.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("a+b")
        try:
            self._lock()
            self._file.seek(0)
            data = self._file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self.records = parse_lines(path.name, whole)
            self.repaired = len(whole) < len(data)
            if self.repaired:
                self._file.truncate(len(whole))
        except BaseException:
            self._file.close()
            raise

    def append(self, record: Record) -> None:
        with writing(self.path.name):
            self._file.write(_line(record))
            self._file.flush()

    def finish(self, records: Iterable[Record]) -> None:
        """Replace the content, all or nothing."""
        with writing(self.path.name):
            os.fsync(self._file.fileno())
        write_beside(self.path, b"".join(map(_line, records)))
        with writing(self.path.name):
            self.path.with_name(f"{self.path.name}.partial").replace(self.path)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                "E-EVAL-IN-USE", f"Another run is writing {self.path.name}.", "Wait for it, or write elsewhere."
            ) from None


def parse_lines(name: str, data: bytes) -> list[dict[str, Any]]:
    """Raises ``UsageError`` E-EVAL-OUTPUT with the number of a line that is no record."""
    records = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise bad_output(name, number, "it is not JSON") from None
        if not isinstance(record, dict) or not isinstance(record.get("sample_id"), int | str):
            raise bad_output(name, number, 'it is not a JSON object with a "sample_id"')
        records.append(record)
    return records


def write_json(path: Path, content: object) -> None:
    """Indented, keys sorted, as the reference writes its merged files."""
    write_beside(path, json.dumps(content, indent=4, sort_keys=True).encode())
    publish([path])


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"
