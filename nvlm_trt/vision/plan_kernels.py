"""The kernels of a TensorRT-RTX plan, read from the plan itself.

A plan compiled ahead of time contains, in plain text, one line per kernel it launches: ``function={ name=_gemm_mha_v2
... layers="[ONNX Layer: ...]" ...}``. So a machine without a GPU can tell whether attention was fused, without loading
the plan. It is read in blocks: a plan of the full size has 13 GB.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

__all__ = ["FUSED_ATTENTION", "count_kernels", "fused_attentions"]

FUSED_ATTENTION = "_gemm_mha"
"""What the names of kernels begin with that compute a whole attention: both products and the softmax between."""

_KERNEL = re.compile(rb"function=\{ name=(\w{1,64})\W")
# No match is longer, so blocks that overlap by it lose none.
_LONGEST_MATCH = 128
_BLOCK_BYTES = 1 << 24


def count_kernels(plan_file: Path, block_bytes: int = _BLOCK_BYTES) -> Counter[str]:
    """How often each kernel is launched, by name."""
    found: Counter[str] = Counter()
    kept = b""
    with plan_file.open("rb") as file:
        while block := file.read(block_bytes):
            text = kept + block
            end = 0
            for match in _KERNEL.finditer(text):
                found[match[1].decode()] += 1
                end = match.end()
            kept = text[max(end, len(text) - _LONGEST_MATCH) :]
    return found


def fused_attentions(kernels: Counter[str]) -> int:
    return sum(count for name, count in kernels.items() if name.startswith(FUSED_ATTENTION))
