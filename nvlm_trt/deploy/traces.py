"""What one server run leaves in the file system, and how the next one knows that it may be removed.

Triton's models share memory with it through files in /dev/shm. A prefix of its own identifies a run's files, and a
folder of its own holds the repository it reads. The program that serves, and its processes' keepers, hold a lock beside
them, which the kernel releases when all of these have died, however they did. So a lock that can be taken marks a run
that nobody cleaned up after: both were killed at once, or the machine's memory ran out. Process ids would not do,
because they mean nothing in another container that shares /dev/shm.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
from contextlib import suppress
from pathlib import Path

from nvlm_trt.deploy.staging import WORK_FOLDER, make_work_folder

__all__ = ["Traces", "sweep"]

SHARED_MEMORY = Path("/dev/shm")
_LOCK = "nvlm_*.lock"


class Traces:
    """A fresh ``folder`` and ``prefix`` of one run. Raises ``ServerError`` E-SERVER-PATH."""

    def __init__(self) -> None:
        name = f"nvlm_{secrets.token_hex(6)}"
        self.prefix = f"{name}_"
        self.folder = make_work_folder()
        self._lock = SHARED_MEMORY / f"{name}.lock"
        # Locked before it has the name that a sweep looks for.
        draft = self._lock.with_suffix(".draft")
        self.lock_fd = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(self.lock_fd, fcntl.LOCK_EX)
        os.write(self.lock_fd, str(self.folder).encode())
        draft.rename(self._lock)

    @property
    def shared_memory(self) -> str:
        """The prefix of its files in /dev/shm, in the keeper's form."""
        return f"{SHARED_MEMORY / self.prefix}*"

    @property
    def all(self) -> tuple[str, ...]:
        """Everything that a keeper should remove."""
        return (self.shared_memory, str(self.folder), str(self._lock))

    def remove(self) -> None:
        """May be called again."""
        if self.lock_fd >= 0:
            _remove(self.prefix, self.folder, self._lock)
            os.close(self.lock_fd)
            self.lock_fd = -1


def sweep() -> int:
    """Remove what dead runs of this user left, processes included; returns how many they were."""
    count = 0
    for lock in SHARED_MEMORY.glob(_LOCK):
        try:
            fd = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:  # another user's, or just removed
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_uid == os.geteuid():
                prefix = f"{lock.stem}_"
                _kill_orphans(prefix)
                _remove(prefix, Path(os.fsdecode(os.read(fd, 4096))), lock)
                count += 1
        except BlockingIOError:  # it lives
            pass
        finally:
            os.close(fd)
    return count


def _remove(prefix: str, folder: Path, lock: Path) -> None:
    for file in SHARED_MEMORY.glob(f"{prefix}*"):
        file.unlink(missing_ok=True)
    if folder.name.startswith(WORK_FOLDER):
        shutil.rmtree(folder, ignore_errors=True)
    lock.unlink(missing_ok=True)


def _kill_orphans(prefix: str) -> None:
    """A model process has the prefix in its command line; it holds twelve random digits."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes()
            if prefix.encode() in command and b"triton" in command.split(b"\0")[0]:
                os.kill(int(process.name), signal.SIGKILL)
