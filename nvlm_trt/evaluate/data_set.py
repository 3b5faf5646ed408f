"""A data set on disk as the questions of a task: each once, with the files of its pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nvlm_trt.evaluate.failures import missing_data
from nvlm_trt.evaluate.task import Sample, Task

__all__ = ["DataSet", "Duplicate", "partition", "read_data_set"]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A record whose id an earlier one has; it is not asked. Records count from 1."""

    sample_id: int | str
    record: int
    first_record: int


@dataclass(frozen=True, slots=True)
class DataSet:
    samples: tuple[Sample, ...]
    duplicates: tuple[Duplicate, ...]
    annotations: str
    folders: tuple[Path, ...]

    def picture(self, name: str) -> Path | None:
        """Where a picture lies, or None if it is missing."""
        return next((path for folder in self.folders if (path := folder / name).is_file()), None)

    def missing_pictures(self) -> Iterator[tuple[Sample, str]]:
        for sample in self.samples:
            for name in sample.pictures:
                if self.picture(name) is None:
                    yield sample, name

    def digest(self) -> str:
        """A hash of everything that is asked and judged by, in order; of pictures their names."""
        content = [[one.sample_id, one.prompt, one.pictures, dict(one.fields)] for one in self.samples]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_data_set(
    task: Task, folder: Path, *, annotations: Path | None = None, pictures: Path | None = None
) -> DataSet:
    """Read ``annotations``, or the file in ``folder`` that has the task's usual name.

    Pictures lie below ``pictures``, or below ``folder``, its ``images`` or the task's usual folders.

    Raises ``UsageError``: E-EVAL-MISSING without a file, E-EVAL-DATA for an invalid record.
    """
    if not folder.is_dir():
        raise missing_data(f"There is no folder {folder.name!r}.", "Name the data set's folder with --data.")
    file = annotations if annotations is not None else _usual_file(task, folder)
    names = ("", "images", *task.picture_folders)
    folders = (pictures,) if pictures is not None else tuple(folder / name for name in names)
    rows = task.read(file)
    first: dict[int | str, int] = {}
    samples: list[Sample] = []
    duplicates: list[Duplicate] = []
    for row in rows:
        sample = task.sample(row)
        if sample.sample_id in first:
            duplicates.append(Duplicate(sample.sample_id, row.number, first[sample.sample_id]))
        else:
            first[sample.sample_id] = row.number
            samples.append(sample)
    return DataSet(tuple(samples), tuple(duplicates), file.name, folders)


def partition(samples: Sequence[Sample], number: int, count: int) -> Sequence[Sample]:
    """Part ``number`` of ``count``, cut where the reference cuts: at the integer parts of equal steps."""
    return samples[len(samples) * number // count : len(samples) * (number + 1) // count]


def _usual_file(task: Task, folder: Path) -> Path:
    found = [folder / name for name in task.annotations if (folder / name).is_file()]
    if len(found) != 1:
        usual = ", ".join(task.annotations)
        how_many = "none" if not found else "more than one"
        raise missing_data(f"{folder.name} has {how_many} of {usual}.", "Name the file with --annotations.")
    return found[0]
