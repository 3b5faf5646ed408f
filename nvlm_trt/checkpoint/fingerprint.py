"""One hash that distinguishes a checkpoint from others without reading it whole.

Small things are hashed completely: config, index, every file's name, size and header. Of each tensor the first and the
middle 4 KiB are hashed: enough to notice a retrained model of the same shapes at once, not enough to see a flipped byte
elsewhere. Nothing depends on where the folder lies, nor on times.

Samples are read with ``pread``, not through the map: a page fault reads ahead, 128 KiB and more for 4.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from nvlm_trt.checkpoint.mapped_file import expect_random_reads
from nvlm_trt.checkpoint.untrusted import shown
from nvlm_trt.errors import CheckpointError

__all__ = ["Fingerprint"]

_SAMPLE_BYTES = 4096


class Fingerprint:
    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, part: bytes) -> None:
        # Length first, so that bytes cannot move from one part to the next unseen.
        self._digest.update(len(part).to_bytes(8, "little"))
        self._digest.update(part)

    def add_samples(self, file: Path, spans: Iterable[tuple[int, int]]) -> None:
        """Samples of each span of the file, given as offset and length in bytes.

        Raises ``CheckpointError`` E-CKPT-SHARD where they cannot be read.
        """
        try:
            descriptor = os.open(file, os.O_RDONLY)
            try:
                expect_random_reads(descriptor)
                for offset, nbytes in spans:
                    middle = nbytes // 2
                    self.add(os.pread(descriptor, min(_SAMPLE_BYTES, nbytes), offset))
                    self.add(os.pread(descriptor, min(_SAMPLE_BYTES, nbytes - middle), offset + middle))
            finally:
                os.close(descriptor)
        except OSError:
            raise CheckpointError(
                "E-CKPT-SHARD", f"{shown(file.name)} cannot be read.", "Check its permissions and its disk."
            ) from None

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
