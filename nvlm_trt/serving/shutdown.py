"""How the server's models learn that it is shutting down: marks, which are empty files in a folder of the run.

A model receives nothing but requests, and anybody could send one that said "stop taking questions". A file in a folder
that only the server's user can write is checked in a microsecond.
"""

from __future__ import annotations

from pathlib import Path

from nvlm_trt.errors import CancelledError, OverloadedError

__all__ = ["DRAINING", "ENDING", "MARKS", "Shutdown"]

MARKS = "marks_dir"
"""The models' parameter that names the folder."""
DRAINING = "draining"
ENDING = "ending"


class Shutdown:
    """Marks in ``folder``; without a folder, as where nobody supervises, there never are any."""

    def __init__(self, folder: str) -> None:
        self._draining = Path(folder) / DRAINING if folder else None
        self._ending = Path(folder) / ENDING if folder else None

    def check_open(self) -> None:
        """Before a new question. Raises ``OverloadedError`` E-BUSY-DRAINING."""
        if self._draining is not None and self._draining.exists():
            raise OverloadedError("E-BUSY-DRAINING", "The server is shutting down.", "Ask another, or again later.")

    def check_going(self) -> None:
        """Before the next piece of an answer. Raises ``CancelledError`` E-CANCEL-SHUTDOWN."""
        if self._ending is not None and self._ending.exists():
            raise CancelledError("E-CANCEL-SHUTDOWN", "The server is shutting down.", "Ask again.")
