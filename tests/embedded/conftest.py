from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nvlm_trt.embedded.in_flight import InFlightEngine
from nvlm_trt.embedded.scheduler import Limits
from tests.embedded.decoder_folder import write_decoder_folder
from tests.embedded.stepped import Stepped, pool_over
from tests.torch_threads import one_torch_thread


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A three-layer FP8 decoder checkpoint; to be read, not changed."""
    return write_decoder_folder(tmp_path_factory.mktemp("decoders") / "small")


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


@pytest.fixture
def start():
    """Starts an engine over a runner; closes it after the test."""
    engines = []

    def start_engine(runner=None, limits=None, max_seq_len=64):
        limits = limits or Limits(max_batch_size=4, max_num_tokens=20, max_waiting=8, chunk=8)
        engine = InFlightEngine(pool_over(runner, limits.max_batch_size, max_seq_len), limits, max_seq_len)
        engines.append((engine, runner))
        return engine

    yield start_engine
    for engine, runner in engines:
        if isinstance(runner, Stepped):
            for _ in range(200):
                runner.permits.put(None)
        engine.close()
