"""Runs a vision plan on a GPU, through TensorRT or TensorRT-RTX."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nvlm_trt.errors import ArtefactError, MissingToolError
from nvlm_trt.vision.artefact import PLAN_FILE
from nvlm_trt.vision.engine import check_tiles
from nvlm_trt.vision.graph import INPUT, OUTPUT
from nvlm_trt.vision.plan import read_plan_info
from nvlm_trt.vision.tensorrt_callbacks import make_logger, ran_out_of_memory
from nvlm_trt.vision.tensorrt_module import TensorRtKind, gpu_compute_capability, load_tensorrt

__all__ = ["TensorRtEngine"]


class TensorRtEngine:
    """A ``VisionEngine``; ``encode`` gives a torch tensor on the GPU, in the graph's dtype. Not thread-safe.

    Raises ``MissingToolError`` E-TOOL-TENSORRT, E-TOOL-TORCH or E-TOOL-GPU, and ``ArtefactError`` for a plan that is
    missing, altered or not for this machine (see ``PlanInfo.require``), or too large for the GPU's free memory
    (E-ENGINE-MEMORY).
    """

    def __init__(self, kind: TensorRtKind, vision_folder: Path, max_tiles: int, *, device: str = "cuda") -> None:
        info, plan_file = read_plan_info(vision_folder), vision_folder / PLAN_FILE
        trt, torch = load_tensorrt(kind), _load_torch()
        info.require(kind.module, str(trt.__version__), gpu_compute_capability(), max_tiles)
        self._info = info
        self._max_tiles = max_tiles
        self._torch = torch
        self._device = torch.device(device)
        self._dtype = getattr(torch, info.dtype)
        self._logger = make_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        # Mapped: TensorRT copies the weights to the GPU, so host memory need not hold them too.
        with plan_file.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        self._context: Any = None
        if self._engine is not None:
            self._context = self._engine.create_execution_context()
        if self._context is None and ran_out_of_memory(self._logger.errors):
            raise self._no_memory(f"to load {PLAN_FILE} for {info.profile[2]} tiles")
        if self._context is None:
            raise ArtefactError(
                "E-ENGINE-LOAD",
                f"{kind.title} cannot load {PLAN_FILE} on this GPU.",
                "Check that the GPU has memory to spare, or build the engine again here: nvlm-trt build.",
            )

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        return (self._info.tile_size, self._info.tile_size, 3)

    @property
    def max_tiles(self) -> int:
        return self._max_tiles

    @property
    def tokens_per_tile(self) -> int:
        return self._info.tokens_per_tile

    @property
    def output_size(self) -> int:
        return self._info.output_size

    def encode(self, tiles: NDArray[Any]) -> Any:
        """The rows are ready on the current stream; nothing waits for them here.

        Raises ``RequestError`` E-IMAGE-TILES, ``ArtefactError`` E-ENGINE-MEMORY where memory is short, of ours or of
        what TensorRT allocates itself, and E-ENGINE-RUN.
        """
        tiles = check_tiles(tiles, self.tile_shape, self._max_tiles)
        self._logger.errors.clear()
        try:
            rows = self._run(tiles)
        except RuntimeError as error:  # PyTorch's; one left behind by TensorRT may come out of a later call, too
            if not ran_out_of_memory([str(error), type(error).__name__]):
                raise
            rows = None
            self._logger.errors.append("out of memory")
        if rows is not None:
            return rows
        if ran_out_of_memory(self._logger.errors):
            raise self._no_memory(f"for {len(tiles)} tiles")
        raise ArtefactError("E-ENGINE-RUN", f"{PLAN_FILE} failed on {len(tiles)} tiles.", "Ask again.")

    def _run(self, tiles: NDArray[Any]) -> Any:
        """The rows, or None where TensorRT refuses."""
        torch, context = self._torch, self._context
        pixels = torch.from_numpy(tiles).to(self._device)
        shape = (len(tiles), self.tokens_per_tile, self.output_size)
        rows = torch.empty(shape, dtype=self._dtype, device=self._device)
        stream = torch.cuda.current_stream(self._device).cuda_stream if self._device.type == "cuda" else 0
        done = (
            context.set_input_shape(INPUT, tuple(pixels.shape))
            and context.set_tensor_address(INPUT, pixels.data_ptr())
            and context.set_tensor_address(OUTPUT, rows.data_ptr())
            and context.execute_async_v3(stream)
        )
        return rows if done else None

    def _no_memory(self, purpose: str) -> ArtefactError:
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()  # what PyTorch holds in reserve is what TensorRT may lack
        return ArtefactError(
            "E-ENGINE-MEMORY",
            f"The GPU has no memory left {purpose}.",
            "Ask again; if it stays, give the KV cache a smaller share of the GPU.",
        )

    def close(self) -> None:
        self._context = self._engine = self._runtime = None


def _load_torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingToolError(
            "E-TOOL-TORCH", "This machine has no PyTorch.", "Install it with: pip install 'nvlm-trt[torch]'."
        ) from None
    return torch
