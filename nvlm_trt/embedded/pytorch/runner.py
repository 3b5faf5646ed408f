"""A ``BlockRunner`` in torch: FP8 hardware, Triton kernels and CUDA graphs on CUDA, plain operations on the CPU.

It knows one rank of the checkpoint. Alone it is the whole decoder; with others, ``ranks`` carries what they exchange,
and each gets the same calls.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nvlm_trt.embedded.config import CheckpointConfig
from nvlm_trt.embedded.pytorch.arithmetic import DEFAULT_ARITHMETIC, Arithmetic
from nvlm_trt.embedded.pytorch.decode_batch import DecodeBatch
from nvlm_trt.embedded.pytorch.decoder import TorchDecoder
from nvlm_trt.embedded.pytorch.linear import LinearLoader
from nvlm_trt.embedded.pytorch.ops import Ops, PlainOps, Step, rotary_tables
from nvlm_trt.embedded.pytorch.ranks import OneRank, Ranks
from nvlm_trt.embedded.pytorch.sizes import RunnerSizes
from nvlm_trt.embedded.pytorch.weights import WeightSource
from nvlm_trt.model.config import DecoderConfig

__all__ = ["MakeOps", "TorchRunner"]

_POOL_SHARE = 0.9  # of the memory that is free once the weights are loaded and the longest chunk has run
_FP8_CAPABILITY = (8, 9)  # Ada and Hopper are the first with e4m3 matrix products

_ALONE = OneRank()

MakeOps = Callable[[DecoderConfig, tuple[Tensor, Tensor]], Ops]


class TorchRunner:
    """Weights, pool and buffers are allocated on construction; a step allocates nothing that stays.

    ``make_ops`` None: Triton kernels on CUDA, in captured batches, and plain operations elsewhere. ``logits`` is where
    results are left for the host, float32 [max_batch_size, vocab].
    """

    def __init__(
        self,
        config: CheckpointConfig,
        source: WeightSource,
        sizes: RunnerSizes,
        *,
        device: torch.device,
        arithmetic: Arithmetic = DEFAULT_ARITHMETIC,
        ranks: Ranks = _ALONE,
        make_ops: MakeOps | None = None,
        logits: Tensor | None = None,
    ) -> None:
        decoder, cuda = config.decoder, device.type == "cuda"
        self.vocab_size, self.hidden_size, self.max_positions = (
            decoder.vocab_size, decoder.hidden_size, decoder.max_positions,
        )  # fmt: skip
        self.block_size = sizes.block_size
        self._device = device
        if logits is None:
            logits = torch.empty(sizes.max_batch_size, self.vocab_size, dtype=torch.float32, pin_memory=cuda)
        self._logits = logits
        dtype = getattr(torch, arithmetic.dtype or (config.dtype_name if cuda else "float32"))
        hardware = cuda and torch.cuda.get_device_capability(device) >= _FP8_CAPABILITY
        loader = LinearLoader(
            source, config.quantized, device, dtype,
            hardware=hardware if arithmetic.fp8 is None else arithmetic.fp8 == "hardware",
            quantize_activations=arithmetic.quantize_activations,
        )  # fmt: skip
        ops = (make_ops or (_triton_ops if cuda else PlainOps))(
            config.part, rotary_tables(config.part, sizes.max_seq_len, device)
        )
        with torch.inference_mode():
            self._decoder = TorchDecoder(config, loader, ops, ranks)
            part = config.part
            block = (part.num_kv_heads, sizes.block_size, part.head_dim)

            def pool(num_blocks: int) -> Tensor:
                return torch.empty(part.num_layers, 2, num_blocks, *block, dtype=dtype, device=device)

            num_blocks = sizes.num_blocks
            if num_blocks is None:
                num_blocks = ranks.least(self._blocks_that_fit(sizes, pool))
            self.num_blocks = num_blocks
            self._cache = pool(num_blocks + 1)  # one more for the rows of a batch that are nobody's
            self._batch = DecodeBatch(
                lambda ids, step: self._decoder.logits(self._decoder.embed(ids), self._cache, step),
                max_batch_size=sizes.max_batch_size,
                width=sizes.width,
                spare_block=num_blocks,
                device=device,
                capture=cuda and make_ops is None,
            )

    def prefill(
        self, blocks: NDArray[np.int32], start: int, ids: NDArray[np.int32], prompt_table: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        rows = None if prompt_table is None else prompt_table[ids[ids >= self.vocab_size] - self.vocab_size]
        return self.prefill_rows(blocks, start, ids, rows)

    def prefill_rows(
        self, blocks: NDArray[np.int32], start: int, ids: NDArray[np.int32], rows: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """``prefill``, with a row [virtual, hidden] for each virtual id, in their order, in place of the table."""
        virtual = ids >= self.vocab_size
        with torch.inference_mode():
            hidden = self._decoder.embed(self._put(np.where(virtual, 0, ids)))
            if rows is not None and len(rows):
                hidden[self._put(np.flatnonzero(virtual))] = self._put(rows).to(hidden.dtype)
            positions = torch.arange(start, start + len(ids), dtype=torch.int32, device=self._device)
            tables = self._put(blocks).expand(len(ids), -1)
            logits = self._decoder.logits(hidden, self._cache, Step(positions, tables, together=True))
            last: NDArray[np.float32] = self._told(logits)[0]
            return last

    def decode(
        self, tables: NDArray[np.int32], lengths: NDArray[np.int32], ids: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        with torch.inference_mode():
            return self._told(self._batch.run(tables, lengths, ids))

    def _told(self, logits: Tensor) -> NDArray[np.float32]:
        host = self._logits[: len(logits)]
        host.copy_(logits)
        told: NDArray[np.float32] = host.numpy()
        return told

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        return torch.tensor(array, device=self._device)

    def _blocks_that_fit(self, sizes: RunnerSizes, pool: Callable[[int], Tensor]) -> int:
        if self._device.type != "cuda":
            return sizes.max_batch_size * sizes.width
        held = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        rows = min(sizes.max_rows, sizes.max_seq_len)
        self._cache = pool(-(-rows // sizes.block_size))
        self.prefill_rows(np.arange(self._cache.shape[2], dtype=np.int32), 0, np.zeros(rows, np.int32), None)
        needed = torch.cuda.max_memory_allocated(self._device) - held
        del self._cache
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self._device)
        room = int((free - needed) * _POOL_SHARE)
        return room // int(pool(1).nbytes)


def _triton_ops(config: DecoderConfig, rotary: tuple[Tensor, Tensor]) -> Ops:
    from nvlm_trt.embedded.pytorch.triton_ops import TritonOps

    return TritonOps(config, rotary)
