"""Calibrates and kills itself once a number of layers are done: killed_calibration.py CHECKPOINT SCRATCH LAYERS."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.decoder.calibration import calibrate

__all__ = ["some_samples"]


def some_samples(hidden_size: int, seed: int = 0) -> list[NDArray[np.float32]]:
    generator = np.random.default_rng(seed)
    return [generator.normal(0, 0.5, (length, hidden_size)).astype(np.float32) for length in (40, 7, 13)]


def main(checkpoint_folder: str, scratch: str, layers: str) -> None:
    def progress(done: int, _total: int) -> None:
        if done == int(layers):
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint = open_checkpoint(checkpoint_folder)
    calibrate(checkpoint, some_samples(checkpoint.config.decoder.hidden_size), progress, scratch=Path(scratch))


if __name__ == "__main__":
    main(*sys.argv[1:])
