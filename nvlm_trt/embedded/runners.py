"""The runners by name: how each makes a pool of a decoder checkpoint. To add one, write a function here and name it."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass

from nvlm_trt.embedded.block_pool import BlockPool
from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.pool import Pool
from nvlm_trt.embedded.runner import BlockRunner
from nvlm_trt.embedded.slot_pool import SlotPool
from nvlm_trt.errors import ArtefactError, MissingToolError, UsageError

__all__ = ["PoolOptions", "open_pool"]

_LOG = logging.getLogger(__name__)
_GET_COMPILER = "pip install 'nvlm-trt[fast]'"


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """``max_rows`` is the most prompt ids that run at once; ``threads`` None means all cores."""

    max_batch_size: int
    max_seq_len: int
    max_rows: int
    quantize_activations: bool
    threads: int | None


def open_pool(name: str, checkpoint: DecoderCheckpoint, options: PoolOptions) -> Pool:
    """Raises ``UsageError`` E-USAGE-RUNNER, ``ArtefactError`` E-ARTEFACT-* and E-ENGINE-RANK, ``MissingToolError``
    E-TOOL-LLVM, E-TOOL-TORCH and E-TOOL-CUDA.
    """
    if name not in _RUNNERS:
        raise UsageError("E-USAGE-RUNNER", f"There is no runner {name!r}.", f"Use one of: {', '.join(_RUNNERS)}.")
    return _RUNNERS[name](checkpoint, options)


def _cpu(checkpoint: DecoderCheckpoint, options: PoolOptions) -> Pool:
    """The compiled runner where there is a compiler."""
    if importlib.util.find_spec("llvmlite") is not None:
        return _compiled(checkpoint, options)
    _LOG.warning("The decoder runs on ONNX Runtime, two to five times slower than compiled code: %s", _GET_COMPILER)
    return _onnxruntime(checkpoint, options)


def _compiled(checkpoint: DecoderCheckpoint, options: PoolOptions) -> Pool:
    if importlib.util.find_spec("llvmlite") is None:
        raise MissingToolError("E-TOOL-LLVM", 'The runner "compiled" needs llvmlite.', f"Run: {_GET_COMPILER}.")
    from nvlm_trt.embedded.compiled.runner import CompiledRunner

    runner = CompiledRunner(
        checkpoint,
        max_batch_size=options.max_batch_size,
        max_seq_len=options.max_seq_len,
        max_rows=options.max_rows,
        quantize_activations=options.quantize_activations,
        threads=options.threads,
    )
    return BlockPool(runner, options.max_batch_size, options.max_seq_len)


def _onnxruntime(checkpoint: DecoderCheckpoint, options: PoolOptions) -> Pool:
    from nvlm_trt.embedded.onnxruntime_runner import OnnxRuntimeRunner

    runner = OnnxRuntimeRunner(
        checkpoint,
        num_slots=options.max_batch_size,
        max_seq_len=options.max_seq_len,
        max_rows=options.max_rows,
        quantize_activations=options.quantize_activations,
        threads=options.threads,
    )
    return SlotPool(runner, options.max_batch_size, options.max_seq_len)


def _torch(checkpoint: DecoderCheckpoint, options: PoolOptions) -> Pool:
    """On CUDA where PyTorch finds a device, otherwise on the CPU; one process per rank if there are several."""
    try:
        import torch
    except ImportError:
        raise MissingToolError(
            "E-TOOL-TORCH", 'The runner "torch" needs PyTorch.', "Run: pip install 'nvlm-trt[torch]'."
        ) from None
    if checkpoint.config.fp8_cache:
        raise ArtefactError(
            "E-ARTEFACT-DECODER",
            'The decoder checkpoint asks for an FP8 KV cache, which the runner "torch" does not have.',
            'Serve it with decoder.runner = "cpu", or build it with kv_cache = "bf16".',
        )
    from nvlm_trt.embedded.pytorch.arithmetic import Arithmetic
    from nvlm_trt.embedded.pytorch.parallel_runner import ParallelRunner
    from nvlm_trt.embedded.pytorch.runner import TorchRunner
    from nvlm_trt.embedded.pytorch.sizes import RunnerSizes
    from nvlm_trt.embedded.pytorch.weights import CheckpointWeights

    ranks, devices = checkpoint.config.tp, torch.cuda.device_count()
    if 0 < devices < ranks:
        raise MissingToolError(
            "E-TOOL-CUDA",
            f"The decoder checkpoint has {ranks} ranks, and PyTorch finds {devices} CUDA devices.",
            "Build it with a smaller tp.",
        )
    sizes = RunnerSizes(options.max_seq_len, options.max_batch_size, options.max_rows)
    arithmetic = Arithmetic(quantize_activations=options.quantize_activations)
    device = "cuda" if devices else "cpu"
    runner: BlockRunner
    if ranks > 1:
        runner = ParallelRunner(checkpoint.folder, sizes, device=device, arithmetic=arithmetic, threads=options.threads)
    else:
        if options.threads:
            torch.set_num_threads(options.threads)
        place = torch.device(device)
        source = CheckpointWeights(checkpoint, place)
        runner = TorchRunner(checkpoint.config, source, sizes, device=place, arithmetic=arithmetic)
    return BlockPool(runner, options.max_batch_size, options.max_seq_len)


_RUNNERS: dict[str, Callable[[DecoderCheckpoint, PoolOptions], Pool]] = {
    "cpu": _cpu,
    "compiled": _compiled,
    "onnxruntime": _onnxruntime,
    "torch": _torch,
}
