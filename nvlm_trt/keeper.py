"""Run a command so that nothing of it outlives the program that wants it: ``python keeper.py LEFT... -- COMMAND...``.

Triton's own end cannot be relied on, nor can a program end its children once it is killed. So a small process that does
nothing else stands between the two. Its standard input is a pipe from that program: a byte T in it passes SIGTERM on to
the command, K ends everything, and so does the pipe's end, which the kernel makes however the program dies. On its
standard output it tells the command's process id; that output's end is its own.

"Everything" is found, not remembered: orphans of the command's become children of this process (a subreaper), whatever
session or group they made for themselves, and it kills children until it has none. Then it removes what is LEFT in the
file system: those that end with ``*`` are prefixes of the command's own files and go with it; the others are files and
folders of the program, and go only when that has died. It exits as the command did; with 128 and the signal's number if
that was ended by one.

A program of its own, of the standard library alone, because it must start quickly, stay small and outlive mistakes.
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
    # Whoever stops the whole group or terminal stops the program, and the pipe tells of it when the time has come.
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
    """Until the command has ended or nobody wants it any more: its status, and whether the program is dead."""
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
