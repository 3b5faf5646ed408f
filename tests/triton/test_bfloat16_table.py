"""The vision model alone in the real Triton, with the table in BF16 as production has it: through DLPack and back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from nvlm_trt.deploy.address import Address
from nvlm_trt.deploy.model_config import read_model_config, set_parameter, set_type, write_model_config
from nvlm_trt.deploy.process import TritonProcess
from nvlm_trt.deploy.runtime import find_runtime
from nvlm_trt.deploy.staging import stage_repository
from nvlm_trt.deploy.traces import Traces
from nvlm_trt.vision.onnxruntime_engine import OnnxRuntimeEngine

MODEL, TABLE = "vision_encoder", "prompt_embedding_table"


@pytest.fixture(scope="module")
def client(deployment: Path, small_checkpoint: Path) -> Iterator[InferenceServerClient]:
    traces = Traces()
    repository = traces.folder / "repository"
    stage_repository(deployment, small_checkpoint, repository)
    for model in repository.iterdir():
        if model.name != MODEL:
            shutil.rmtree(model)
    config = read_model_config(repository / MODEL / "config.pbtxt")
    set_parameter(config, "table_dtype", "bfloat16")
    set_type(config, TABLE, "TYPE_BF16")
    write_model_config(config, repository / MODEL / "config.pbtxt")
    address = Address.choose("127.0.0.1")
    log_file = traces.folder / "server.log"
    process = TritonProcess(find_runtime(), traces=traces, address=address, log_file=log_file)
    try:
        with InferenceServerClient(address.grpc_url.removeprefix("grpc://")) as client:
            wait_until_ready(process, client)
            yield client
    finally:
        process.stop()
        traces.remove()


def wait_until_ready(process: TritonProcess, client: InferenceServerClient) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.exit_status is None
        try:
            if client.is_model_ready(MODEL):
                return
        except InferenceServerException:  # nobody listens yet
            pass
        time.sleep(0.05)
    raise AssertionError("the server was not ready in time")


def ask(client: InferenceServerClient, tiles: NDArray[np.uint8]) -> tuple[NDArray[np.float32], int]:
    sent = InferInput("tiles", list(tiles.shape), "UINT8")
    sent.set_data_from_numpy(tiles)
    answer = client.infer(MODEL, [sent])
    assert next(output.datatype for output in answer.get_response().outputs if output.name == TABLE) == "BF16"
    return answer.as_numpy(TABLE), int(answer.as_numpy("prompt_vocab_size")[0, 0])


def test_the_rows_arrive_rounded_once(client: InferenceServerClient, deployment: Path, small_checkpoint: Path):
    engine = OnnxRuntimeEngine(deployment / "vision", small_checkpoint, 4)
    tiles = np.random.default_rng(5).integers(0, 256, (3, *engine.tile_shape), dtype=np.uint8)
    wanted = engine.encode(tiles).reshape(1, -1, engine.output_size).astype(ml_dtypes.bfloat16).astype(np.float32)
    for count in (3, 1, 3):  # the last is answered from the cache
        table, length = ask(client, tiles[:count])
        assert length == table.shape[1] == count * engine.tokens_per_tile
        np.testing.assert_array_equal(table, wanted[:, :length])


def test_no_tiles_are_one_row_of_zeros(client: InferenceServerClient, deployment: Path, small_checkpoint: Path):
    size = OnnxRuntimeEngine(deployment / "vision", small_checkpoint, 1).tile_shape[0]
    table, length = ask(client, np.empty((0, size, size, 3), np.uint8))
    assert length == 1
    assert not table.any()
