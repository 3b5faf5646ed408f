"""Compiled runners of the sizes that ``block_runners`` drives."""

from __future__ import annotations

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.compiled.runner import CompiledRunner
from tests.embedded.block_runners import MAX_BATCH_SIZE, MAX_SEQ_LEN

SIZES = {"max_batch_size": MAX_BATCH_SIZE, "max_seq_len": MAX_SEQ_LEN, "max_rows": MAX_SEQ_LEN, "threads": 1}
PROCESSORS = {"this": (), "avx2": ("avx512",), "sse": ("avx", "f16c", "fma")}
"""What each of the processors that are tried does not have of this one's features."""


def make_runner(folder, **options):
    return CompiledRunner(DecoderCheckpoint(folder), **{**SIZES, **options})
