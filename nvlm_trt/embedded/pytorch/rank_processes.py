"""One process per rank, and a line to each: a message to all, an answer from all, or the end of all.

A rank that ends closes its line, which is seen at once; one that stays silent is seen at the deadline. Either way all
are killed, because the others wait for it in a sum that will never come. In the other direction a rank ends itself when
its line closes, so none outlives the process that started it, however that one ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from nvlm_trt.errors import ArtefactError

__all__ = ["RankProcesses"]

_MODULE = "nvlm_trt.embedded.pytorch.rank_process"
_CLOSING_S = 5.0


class RankProcesses:
    """Starts them and waits until all are ready, within ``deadline_s``; ``ready`` is what they say then.

    ``fd`` is passed on. Raises ``ArtefactError`` E-ENGINE-RANK for a rank that ends or stays silent.
    """

    def __init__(self, size: int, spec: Mapping[str, Any], fd: int, deadline_s: float) -> None:
        self._folder = tempfile.mkdtemp(prefix="nvlm-ranks-")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lines: list[Connection] = []
        try:
            for rank in range(size):
                self._start(fd)
                told = {**spec, "rank": rank, "size": size, "store": str(Path(self._folder) / "store")}
                self._lines[rank].send_bytes(json.dumps(told).encode())
            self.ready = self._answers(deadline_s)
        except BaseException:
            self._kill()
            raise

    @property
    def alive(self) -> bool:
        return bool(self._processes) and all(process.poll() is None for process in self._processes)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def call(self, message: list[Any], deadline_s: float) -> None:
        """Tell all ranks and wait until all have done it. Raises ``ArtefactError`` E-ENGINE-RANK."""
        try:
            told = json.dumps(message).encode()
            for line in self._lines:
                with contextlib.suppress(OSError):  # that it ended is seen below
                    line.send_bytes(told)
            if not self._lines:
                raise _lost("A rank of the decoder has ended.")
            self._answers(deadline_s)
        except BaseException:
            self._kill()
            raise

    def close(self) -> None:
        """Ends the processes; again does nothing."""
        for line in self._lines:
            line.close()
        deadline = time.monotonic() + _CLOSING_S
        with contextlib.suppress(subprocess.TimeoutExpired):
            for process in self._processes:
                process.wait(max(0.0, deadline - time.monotonic()))
        self._kill()

    def _start(self, fd: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno()), str(fd)],
                pass_fds=(theirs.fileno(), fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # results of a command go there; a rank has none
                start_new_session=True,  # Ctrl-C is for whoever started it, which then closes the line
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._processes.append(process)
        self._lines.append(Connection(ours.detach()))

    def _answers(self, deadline_s: float) -> list[Any]:
        answers: dict[int, Any] = {}
        deadline = time.monotonic() + deadline_s
        while len(answers) < len(self._lines):
            silent = {line: rank for rank, line in enumerate(self._lines) if rank not in answers}
            heard = wait(list(silent), max(0.0, deadline - time.monotonic()))
            if not heard:
                ranks = ", ".join(map(str, silent.values()))
                raise _lost(f"The decoder's rank {ranks} did not answer within {deadline_s:g} s.")
            for line in heard:
                assert isinstance(line, Connection)
                rank = silent[line]
                try:
                    answers[rank] = json.loads(line.recv_bytes())
                except (EOFError, OSError):
                    raise _lost(f"The decoder's rank {rank} has ended.") from None
        return [answers[rank] for rank in sorted(answers)]

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for line in self._lines:
            line.close()
        self._processes.clear()
        self._lines.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


def _lost(what: str) -> ArtefactError:
    return ArtefactError("E-ENGINE-RANK", what, "Restart the server; its log says why.")
