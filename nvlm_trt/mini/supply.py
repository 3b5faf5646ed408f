"""Batches made ahead by one process beside the training, so that drawing costs the training only a core."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Self

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.mini.batches import TRAIN, Batch, BatchMaker
from nvlm_trt.mini.curriculum import STAGES
from nvlm_trt.mini.views import FULL
from nvlm_trt.model.tokenizer import NvlmTokenizer

__all__ = ["Supply", "batch_maker"]

_AHEAD = 4
_maker: BatchMaker


def batch_maker(folder: Path, seed: int, view: str = FULL) -> BatchMaker:
    """For the checkpoint in ``folder``, of which only config and tokenizer are read."""
    return BatchMaker(open_checkpoint(folder).config, NvlmTokenizer.from_folder(folder), seed, view)


class Supply:
    """A trainer's source of batches. A context manager: its process ends with it."""

    def __init__(self, folder: Path, seed: int, view: str = FULL) -> None:
        # Spawned, because a forked process would inherit torch's threads and locks.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, initializer=_start, initargs=(folder, seed, view))
        self._coming: deque[Future[Batch]] = deque()
        self._next = (0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def seek(self, stage: int, step: int) -> None:
        for future in self._coming:
            future.cancel()
        self._coming.clear()
        self._next = (stage, step)

    def take(self) -> Batch:
        while len(self._coming) < _AHEAD:
            stage, step = self._next
            self._coming.append(self._pool.submit(_make, stage, step))
            self._next = (stage, step + 1)
        return self._coming.popleft().result()


def _start(folder: Path, seed: int, view: str) -> None:
    global _maker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the training, which ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _maker = batch_maker(folder, seed, view)


def _end_with_parent() -> None:
    """A training that was killed cannot end it, and the pool's queue would be waited on for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make(stage: int, step: int) -> Batch:
    return _maker.batch(STAGES[stage], stage, TRAIN, step)
