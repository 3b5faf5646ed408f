"""A program under its keeper: it is started, told to stop, and ended together with everything that it started.

The operating system's child is the keeper (``nvlm_trt/keeper.py``), which ends after the program and everything that
the program left.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

__all__ = ["KeptProcess"]

_KEEPER = Path(__file__).parents[1] / "keeper.py"


class KeptProcess:
    """Started by its constructor. Its output is appended to ``log_file``, or goes to stderr.

    ``left`` lists what is removed after it, in the keeper's form. ``keep_open`` are descriptors that the keeper holds
    open as long as it lives.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        left: Sequence[str] = (),
        keep_open: Sequence[int] = (),
        log_file: Path | None = None,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        with log_file.open("ab") if log_file else nullcontext() as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_KEEPER), *left, "--", *command],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=environment,
                pass_fds=keep_open,
                start_new_session=True,
            )
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._orders, self._line = self._keeper.stdin, self._keeper.stdout
        self.pid = int(self._line.readline() or 0)

    @property
    def exit_status(self) -> int | None:
        """None while it runs; negative when a signal ended it. Nothing of it is left then."""
        return self._status(self._keeper.poll())

    def wait(self, timeout_s: float) -> int | None:
        """``exit_status``, once it has ended or after ``timeout_s`` seconds."""
        # Its output ends with it, which is known at once; subprocess would come to look now and then.
        if not self._line.closed and select.select([self._line], [], [], timeout_s)[0]:
            self._keeper.wait()
        return self.exit_status

    def terminate(self) -> None:
        """Ask it to end, by SIGTERM."""
        self._tell(b"T")

    def kill(self) -> None:
        """End it and everything it started. May be called again."""
        self._tell(b"K")
        self._keeper.wait()
        self._orders.close()
        self._line.close()
        # Needed where the keeper itself was killed: its command died with it, but not what that had started.
        with suppress(OSError):
            if self.pid:
                os.killpg(self.pid, signal.SIGKILL)

    def _tell(self, what: bytes) -> None:
        if not self._orders.closed:
            with suppress(OSError):
                self._orders.write(what)

    @staticmethod
    def _status(code: int | None) -> int | None:
        return code if code is None or code <= 128 else 128 - code
