from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from nvlm_trt.vision.plan_kernels import count_kernels, fused_attentions

NAMES = ["_gemm_mha_v2", "gemm_add", "_gemm_mha_v2", "_gemm_mha_v2", "softmax"]


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1 << 20])
def test_kernels_are_found_wherever_the_blocks_end(tmp_path: Path, block_bytes: int):
    plan = tmp_path / "vision.plan"
    lines = [b"function={ name=%b layers=[ONNX Layer: Gelu]}" % name.encode() for name in NAMES]
    plan.write_bytes(b"\0\xff" * 100 + (b"\0" * 150).join(lines) + b"function={ name=cut")
    kernels = count_kernels(plan, block_bytes)
    assert kernels == Counter(NAMES)
    assert fused_attentions(kernels) == 3


def test_a_plan_that_lists_none_has_none(tmp_path: Path):
    (tmp_path / "vision.plan").write_bytes(b"")
    assert fused_attentions(count_kernels(tmp_path / "vision.plan")) == 0
