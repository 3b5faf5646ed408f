"""Reads the output of ``trtllm-build``: how far it is, which version it is, why it failed.

The output goes to a log for people. Errors here are ours: they name the cause where a known sign of it was seen.
"""

from __future__ import annotations

import re
import signal
from collections import deque

from nvlm_trt.errors import BuildError

__all__ = ["STAGES_PER_RANK", "LogReader", "failure"]

# Said once for each rank: the network is there, TensorRT has built it, it is on disk.
_STAGE = re.compile(r"Build TensorRT engine |Total time of building (?!all engines)|Engine serialized")
STAGES_PER_RANK = 3
_VERSION = re.compile(r"TensorRT-LLM version: (\d\S*)")
_TAIL_LINES = 200

_GPU_MEMORY = re.compile(
    r"CUDA out of memory|cudaErrorMemoryAllocation|OutOfMemoryError|cuda.{0,40}out of memory|"
    r"GPU memory.{0,40}(insufficient|not enough)|Requested amount of GPU memory",
    re.IGNORECASE,
)
_HOST_MEMORY = re.compile(r"MemoryError|Cannot allocate memory|std::bad_alloc|DefaultCPUAllocator", re.IGNORECASE)
_DISK = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)
_FLAGS = re.compile(r"unrecognized arguments|invalid choice|the following arguments are required")
_KILLED_STATUSES = {-signal.SIGKILL, 128 + signal.SIGKILL}


class LogReader:
    """Gets each line; remembers the last ones."""

    def __init__(self) -> None:
        self.version: str | None = None
        self.stages = 0
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def line(self, text: str) -> None:
        self._tail.append(text)
        self.stages += _STAGE.search(text) is not None
        found = _VERSION.search(text)
        if found is not None and self.version is None:
            self.version = found[1]

    @property
    def tail(self) -> str:
        return "\n".join(self._tail)


def failure(status: int, tail: str, log_name: str) -> BuildError:
    """The error for an exit status other than 0, by the signs in the log's last lines."""
    log = f"See {log_name} beside the engine."
    if _GPU_MEMORY.search(tail):
        return BuildError(
            "E-BUILD-GPU-MEMORY",
            "trtllm-build ran out of GPU memory.",
            f"Stop what else uses the GPU, lower decoder.max_batch_size or max_num_tokens, or use more GPUs. {log}",
        )
    if _DISK.search(tail):
        return BuildError(
            "E-BUILD-SPACE", "trtllm-build found no room on the disk.", f"Make room and run the same build again. {log}"
        )
    if status in _KILLED_STATUSES or _HOST_MEMORY.search(tail):
        return BuildError(
            "E-BUILD-MEMORY",
            "trtllm-build was killed, most often because the machine's memory ran out."
            if status in _KILLED_STATUSES
            else "trtllm-build ran out of the machine's memory.",
            "It holds about twice a rank's weights for each GPU it builds on at once: use a machine with more, or make "
            f"fewer GPUs visible to it. {log}",
        )
    if _FLAGS.search(tail):
        return BuildError(
            "E-BUILD-VERSION",
            "trtllm-build does not know a flag that TensorRT-LLM 1.2 has.",
            f"Run this step inside the recipe's container. {log}",
        )
    how = f"failed with exit status {status}" if status > 0 else f"was ended by {signal.Signals(-status).name}"
    return BuildError("E-BUILD-TRTLLM", f"trtllm-build {how}.", log)
