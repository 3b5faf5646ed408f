"""Stand-ins for the full TensorRT, which runs only where a GPU is.

``full_builder`` is TensorRT-RTX in the shape of an older TensorRT 10: a timing cache, but no stream to write to and no
choice of GPU. All else, parser and compiler, is the real thing. ``runtime`` is a module with the few calls the engine
makes; its "plan" names the graph that was built, and running it runs that graph on ONNX Runtime between the two
addresses that it was given.
"""

from __future__ import annotations

import ctypes
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from nvlm_trt.vision.dtype import NUMPY_DTYPE
from nvlm_trt.vision.onnxruntime_engine import OnnxRuntimeEngine

__all__ = ["FAKE_VERSION", "FakeGpu", "full_builder", "plan_bytes", "runtime"]

FAKE_VERSION = "10.14.1"


@dataclass
class FakeGpu:
    """``room_tiles`` is how many tiles a call's own allocations have room for, -1 where not even the engine has;
    ``complaint`` is what TensorRT then logs. ``calls`` are the tiles of each call."""

    room_tiles: int = 64
    complaint: str = ""
    calls: list[int] = field(default_factory=list)


def full_builder(_kind: object) -> Any:
    import tensorrt_rtx

    class Config:
        """A real one, with the timing cache that TensorRT-RTX no longer has."""

        def __init__(self, real: Any) -> None:
            self.real = real
            self.add_optimization_profile = real.add_optimization_profile
            self.cache: SimpleNamespace | None = None

        def create_timing_cache(self, content: bytes) -> Any:
            return SimpleNamespace(serialize=lambda: bytearray(content + b"timings"))

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            self.cache = cache
            return True

    class Builder:
        def __init__(self, logger: Any) -> None:
            self._real = tensorrt_rtx.Builder(logger)
            self.create_network = self._real.create_network
            self.create_optimization_profile = self._real.create_optimization_profile

        def create_builder_config(self) -> Config:
            return Config(self._real.create_builder_config())

        def build_serialized_network(self, network: Any, config: Config) -> Any:
            assert config.cache is not None
            # What it would find on a GPU machine.
            config.real.num_compute_capabilities = 1
            config.real.set_compute_capability(tensorrt_rtx.ComputeCapability.SM89, 0)
            return self._real.build_serialized_network(network, config.real)

    names = {name: getattr(tensorrt_rtx, name) for name in ("ILogger", "NetworkDefinitionCreationFlag", "OnnxParser")}
    return SimpleNamespace(Builder=Builder, __version__=FAKE_VERSION, **names)


def plan_bytes(vision_folder: Path, checkpoint_folder: Path) -> bytes:
    return json.dumps([str(vision_folder), str(checkpoint_folder)]).encode()


class _Context:
    def __init__(self, logger: Any, gpu: FakeGpu, vision_folder: str, checkpoint_folder: str) -> None:
        self._logger, self._gpu = logger, gpu
        self._engine = OnnxRuntimeEngine(Path(vision_folder), Path(checkpoint_folder), 64, threads=1)
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "tiles"
        self._shape = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 0
        self._gpu.calls.append(self._shape[0])
        if self._shape[0] > self._gpu.room_tiles:
            self._logger.log(_ILogger.ERROR, self._gpu.complaint)
            return False
        count = int(np.prod(self._shape))
        pixels = (ctypes.c_uint8 * count).from_address(self._addresses["tiles"])
        tiles = np.frombuffer(memoryview(pixels), np.uint8).reshape(self._shape)
        rows = self._engine.encode(tiles).astype(NUMPY_DTYPE["bfloat16"]).tobytes()
        ctypes.memmove(self._addresses["rows"], rows, len(rows))
        return True


class _Runtime:
    def __init__(self, logger: Any, gpu: FakeGpu) -> None:
        self._logger, self._gpu = logger, gpu

    def deserialize_cuda_engine(self, plan: Any) -> Any:
        try:
            folders = json.loads(bytes(plan))
        except ValueError:
            self._logger.log(_ILogger.ERROR, "Serialization assertion magicTag failed at 0x7f00")
            return None
        return SimpleNamespace(create_execution_context=lambda: self._context(folders))

    def _context(self, folders: list[str]) -> _Context | None:
        if self._gpu.room_tiles < 0:
            self._logger.log(_ILogger.ERROR, self._gpu.complaint)
            return None
        return _Context(self._logger, self._gpu, *folders)


class _ILogger:
    INTERNAL_ERROR, ERROR, WARNING = range(3)


def runtime(_kind: object, gpu: FakeGpu | None = None) -> Any:
    gpu = gpu or FakeGpu()
    return SimpleNamespace(Runtime=lambda logger: _Runtime(logger, gpu), ILogger=_ILogger, __version__=FAKE_VERSION)
