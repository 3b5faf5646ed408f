from __future__ import annotations

from pathlib import Path

import pytest

from nvlm_trt.model.filter_code import FilterCode
from nvlm_trt.model.resample import Resample, pillow_resample
from nvlm_trt.model.resample_kernel import CompiledResample
from nvlm_trt.model.tokenizer import NvlmTokenizer
from tests.model.qwen_ranks import write_qwen_tokenizer


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with Qwen's real tokenizer in the release's layout; to be read, not changed."""
    folder = tmp_path_factory.mktemp("qwen")
    write_qwen_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def qwen(qwen_folder: Path) -> NvlmTokenizer:
    return NvlmTokenizer.from_folder(qwen_folder)


@pytest.fixture(scope="session")
def kernel() -> CompiledResample:
    return CompiledResample()


@pytest.fixture(scope="session")
def plain_kernel() -> CompiledResample:
    """Compiled as for a processor without an instruction for pairs."""
    return CompiledResample(FilterCode(pair_instruction=False))


@pytest.fixture(params=["pillow", "compiled"])
def resample(request: pytest.FixtureRequest) -> Resample:
    compiled: CompiledResample = request.getfixturevalue("kernel")
    return compiled if request.param == "compiled" else pillow_resample
