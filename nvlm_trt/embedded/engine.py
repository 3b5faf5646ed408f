"""The decoder engine that stands in for TensorRT-LLM on any CPU."""

from __future__ import annotations

from pathlib import Path

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.in_flight import InFlightEngine
from nvlm_trt.embedded.pool import Pool
from nvlm_trt.embedded.runners import PoolOptions, open_pool
from nvlm_trt.embedded.scheduler import Limits
from nvlm_trt.errors import UsageError

__all__ = ["EmbeddedEngine", "open_decoder"]


class EmbeddedEngine(InFlightEngine):
    """The engine over a decoder checkpoint folder; ``runner`` is a name of ``runners``.

    Raises ``ArtefactError`` E-ARTEFACT-RANKS or E-ARTEFACT-DECODER for the folder, ``UsageError`` E-USAGE-LIMITS
    for limits that contradict each other or the model, and what ``open_pool`` raises.
    """

    def __init__(
        self,
        checkpoint_folder: str | Path,
        *,
        runner: str = "cpu",
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
        pool = open_decoder(
            checkpoint_folder,
            limits,
            runner=runner,
            max_seq_len=max_seq_len,
            quantize_activations=quantize_activations,
            threads=threads,
        )
        super().__init__(pool, limits, max_seq_len, reuse_prefixes)


def open_decoder(
    checkpoint_folder: str | Path,
    limits: Limits,
    *,
    runner: str = "cpu",
    max_seq_len: int,
    quantize_activations: bool = True,
    threads: int | None = None,
) -> Pool:
    """A decoder checkpoint's model over an empty pool, without the engine. Raises what ``EmbeddedEngine`` does."""
    checkpoint = DecoderCheckpoint(checkpoint_folder)
    longest = checkpoint.config.decoder.max_positions
    if not 2 <= max_seq_len <= longest:
        raise UsageError(
            "E-USAGE-LIMITS", f"max_seq_len is {max_seq_len}; this decoder allows 2 to {longest}.", "Change it."
        )
    rows = min(limits.chunk, max_seq_len)
    options = PoolOptions(limits.max_batch_size, max_seq_len, rows, quantize_activations, threads)
    return open_pool(runner, checkpoint, options)
