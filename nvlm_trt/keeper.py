"""Run a command so that nothing of it outlives the program that wants it: ``python keeper.py LEFT... -- COMMAND...``.

Triton cannot be relied on to end by itself, and a program that is killed cannot end its children. So a small process
that does nothing else stands between the two. Its standard input is a pipe from the program. A byte T passes SIGTERM on
to the command, and K ends everything. So does the end of the pipe, which the kernel produces however the program dies.
The keeper writes the command's process id to its standard output, which closes when the keeper ends.

"Everything" is found rather than remembered: the keeper is a subreaper, so orphans of the command become its children,
whatever session or group they made for themselves, and it kills children until it has none. Then it removes what is
LEFT in the file system. An entry that ends with ``*`` is a prefix of the command's own files, which are always removed;
the others are files and folders of the program, removed only when the program has died. The keeper exits with the
command's status, or with 128 plus the number of the signal that ended the command.

It is a program of its own and uses only the standard library, because it must start quickly, stay small and be simple
enough to have no faults.
"""

import contextlib
import ctypes
import os
import pathlib
import select
import shutil
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_KILL_S = 10.0


def _main() -> int:
    divider = sys.argv.index("--")
    left, command = sys.argv[1:divider], sys.argv[divider + 1 :]
    # A signal to the whole group or terminal is for the program; the pipe says when it has ended.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    keeper, child = os.getpid(), os.fork()
    if child == 0:
        _become(libc, command, keeper)
    os.write(1, b"%d\n" % child)
    status, orphaned = _watch(child)
    _kill_all(child)
    for trace in left:
        if orphaned or trace.endswith("*"):
            _remove(trace)
    return status if status >= 0 else 128 - status


def _become(libc: ctypes.CDLL, command: list[str], keeper: int) -> None:
    try:
        os.setsid()
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:  # it died before the line above
            return
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        os.closerange(3, 1024)
        os.execvp(command[0], command)
    finally:
        os._exit(127)


def _watch(child: int) -> tuple[int, bool]:
    """Wait until the command ends or is no longer wanted. Returns its status, and whether the program has died."""
    ended = os.pidfd_open(child)
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(ended, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if ended in ready:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), False
        told = os.read(0, 1)
        if told != b"T":
            return -signal.SIGKILL, not told
        os.kill(child, signal.SIGTERM)


def _kill_all(child: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    deadline = time.monotonic() + _KILL_S
    while time.monotonic() < deadline:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for pid in _children():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        select.select([], [], [], 0.002)


def _children() -> list[int]:
    mine, found = os.getpid(), []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1]) == mine:
                found.append(int(folder.name))
    return found


def _remove(trace: str) -> None:
    path = pathlib.Path(trace)
    for found in path.parent.glob(path.name) if trace.endswith("*") else [path]:
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                found.unlink()


if __name__ == "__main__":
    sys.exit(_main())
