"""The decoder engine that stands in for TensorRT-LLM on any CPU."""

from __future__ import annotations

from pathlib import Path

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.in_flight import InFlightEngine
from nvlm_trt.embedded.onnxruntime_runner import OnnxRuntimeRunner
from nvlm_trt.embedded.scheduler import Limits
from nvlm_trt.embedded.slot_pool import SlotPool
from nvlm_trt.errors import UsageError

__all__ = ["EmbeddedEngine"]


class EmbeddedEngine(InFlightEngine):
    """The engine on ONNX Runtime over a decoder checkpoint folder.

    Raises ``ArtefactError`` E-ARTEFACT-RANKS or E-ARTEFACT-DECODER for the folder and ``UsageError`` E-USAGE-LIMITS
    for limits that contradict each other or the model.
    """

    def __init__(
        self,
        checkpoint_folder: str | Path,
        *,
        max_batch_size: int,
        max_seq_len: int,
        max_num_tokens: int,
        max_waiting: int = 256,
        chunk: int = 256,
        reuse_prefixes: bool = True,
        quantize_activations: bool = True,
        threads: int | None = None,
    ) -> None:
        limits = Limits(max_batch_size, max_num_tokens, max_waiting, chunk)
        checkpoint = DecoderCheckpoint(checkpoint_folder)
        longest = checkpoint.config.decoder.max_positions
        if not 2 <= max_seq_len <= longest:
            raise UsageError(
                "E-USAGE-LIMITS", f"max_seq_len is {max_seq_len}; this decoder allows 2 to {longest}.", "Change it."
            )
        runner = OnnxRuntimeRunner(
            checkpoint,
            num_slots=max_batch_size,
            max_seq_len=max_seq_len,
            max_rows=min(limits.chunk, max_seq_len),
            quantize_activations=quantize_activations,
            threads=threads,
        )
        super().__init__(SlotPool(runner, max_batch_size, max_seq_len), limits, max_seq_len, reuse_prefixes)
