"""Builds the toy steps in a child that kills itself at its Nth change of the file system, for every N.

python -m tests.pipeline.crash_points CHECKPOINT OLD-RECIPE NEW-RECIPE FOLDER

A program of its own, because it forks. For each N, once into an empty folder and once over an older build, it prints
one JSON line: N, and the faults that were found after the kill. The children count renames, removals, new folders and
syncs: between two of them nothing durable happens. Syncs are counted and not done: a kill of a process loses nothing
that it has written, and the disk would cost a minute.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nvlm_trt.errors import NvlmError
from nvlm_trt.pipeline.builder import build
from nvlm_trt.pipeline.manifest import load_manifest
from tests.pipeline.toys import snapshot, toy_steps

_CHANGES = ("fsync", "mkdir", "remove", "rename", "replace", "rmdir", "unlink")


def kill_at(number: int) -> None:
    """From now on: SIGKILL just before the change of that number, counted from 1."""
    count = 0

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*arguments, **keywords)

        return wrapped

    for name in _CHANGES:
        setattr(os, name, counted(getattr(os, name)))


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Whether the child was killed; False when it came to its end first."""
    child = os.fork()
    if child == 0:
        kill_at(number)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise RuntimeError(f"the child failed at change {number}")
    return os.WIFSIGNALED(status)


def faults(out: Path, versions: list[dict[str, bytes]]) -> Iterator[str]:
    """What a reader of the folder could be deceived by: ``versions`` are the whole builds that it may show."""
    try:
        manifest = load_manifest(out)
    except NvlmError as error:
        yield str(error)
        return
    for name, entry in manifest.files("").items() if manifest is not None else ():
        file = out / name
        if not file.is_file():
            yield f"{name} is claimed and not there"
        elif hashlib.sha256(file.read_bytes()).hexdigest() != entry.sha256:
            yield f"{name} is not what is claimed"
    for name, data in snapshot(out).items():
        ours = name != "manifest.json" and not name.endswith(".partial")
        if ours and all(data != version.get(name) for version in versions):
            yield f"{name} is of no build"


def main() -> None:
    setattr(os, "fsync", lambda _: None)  # noqa: B010
    checkpoint, first_recipe, second_recipe, folder = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
    old, new, out = folder / "old", folder / "new", folder / "out"
    build(Path(checkpoint), first_recipe, old, steps=toy_steps())
    build(Path(checkpoint), second_recipe, new, steps=toy_steps())
    versions = [snapshot(old), snapshot(new)]
    for over_old in (False, True):
        number, killed = 0, True
        while killed:
            number += 1
            shutil.rmtree(out, ignore_errors=True)
            if over_old:
                shutil.copytree(old, out)
            killed = killed_at(number, lambda: build(Path(checkpoint), second_recipe, out, steps=toy_steps()))
            found = list(faults(out, versions))
            build(Path(checkpoint), second_recipe, out, steps=toy_steps())
            if snapshot(out) != versions[1]:
                found.append("the next build does not come to the same bytes")
            found += [f"{file.name} is left" for file in out.rglob("*.partial")]
            print(json.dumps({"over_old": over_old, "number": number, "faults": found}), flush=True)


if __name__ == "__main__":
    main()
