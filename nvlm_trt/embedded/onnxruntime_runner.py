"""The runner on ONNX Runtime: the graph of ``graph``, weights mapped from the checkpoint, keys and values in place.

Past and present are bound to the same memory, [layer, slot, head, position, channel], so a step copies nothing.
Bindings of decode batches are made once per batch size. The embedding stays mapped in the checkpoint's dtype; only the
rows of a step are widened to float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.graph import LENGTHS, LOGITS, ROTARY, ROWS, TOTAL, decoder_graph

__all__ = ["OnnxRuntimeRunner"]

# Types numpy has no name for are handed over as integers of the same width.
_OPAQUE = {"BF16": (np.uint16, TensorProto.BFLOAT16), "F8_E4M3": (np.uint8, TensorProto.FLOAT8E4M3FN)}


class OnnxRuntimeRunner:
    """A ``Runner`` on the CPU. ``max_rows`` is the most ids one ``prefill`` may append; ``threads`` None means all
    cores.
    """

    def __init__(
        self,
        checkpoint: DecoderCheckpoint,
        *,
        num_slots: int,
        max_seq_len: int,
        max_rows: int,
        quantize_activations: bool = True,
        threads: int | None = None,
    ) -> None:
        checkpoint.config.require_one_rank()
        config = checkpoint.config.decoder
        self.vocab_size, self.hidden_size = config.vocab_size, config.hidden_size
        self.max_positions = config.max_positions
        self._embedding = checkpoint.read("transformer.vocab_embedding.weight")
        self._session = _session(checkpoint, max_seq_len, quantize_activations, threads)
        # Attention never looks beyond a sequence's length: what a slot held before, even NaN, does not show.
        cache = (config.num_layers, 2, num_slots, config.num_kv_heads, max_seq_len, config.head_dim)
        self._cache = np.empty(cache, np.float32)
        self._rows = np.empty((max(num_slots, max_rows), config.hidden_size), np.float32)
        self._last_positions = np.zeros(num_slots, np.int32)
        self._total_length = np.zeros(1, np.int32)
        self._logits = np.empty((num_slots, config.vocab_size), np.float32)
        self._decode_bindings: dict[int, Any] = {}

    def prefill(
        self, slot: int, start: int, ids: NDArray[np.int32], prompt_table: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        rows = self._rows[: len(ids)]
        virtual = ids >= self.vocab_size
        if prompt_table is None or not virtual.any():
            self._embed(ids, rows)
        else:
            self._embed(np.where(virtual, 0, ids), rows)
            rows[virtual] = prompt_table[ids[virtual] - self.vocab_size]
        self._last_positions[0] = start + len(ids) - 1
        self._total_length[0] = start + len(ids)
        self._session.run_with_iobinding(self._binding(slot, 1, len(ids)))
        first: NDArray[np.float32] = self._logits[0]
        return first

    def decode(self, lengths: NDArray[np.int32], ids: NDArray[np.int32]) -> NDArray[np.float32]:
        count = len(ids)
        self._embed(ids, self._rows[:count])
        self._last_positions[:count] = lengths
        self._total_length[0] = lengths.max() + 1
        binding = self._decode_bindings.get(count)
        if binding is None:
            binding = self._decode_bindings[count] = self._binding(0, count, 1)
        self._session.run_with_iobinding(binding)
        return self._logits[:count]

    def move(self, source: int, target: int, length: int) -> None:
        self._cache[:, :, target, :, :length] = self._cache[:, :, source, :, :length]

    def _embed(self, ids: NDArray[np.int32], rows: NDArray[np.float32]) -> None:
        rows[...] = self._embedding[ids]

    def _binding(self, slot: int, batch: int, rows: int) -> Any:
        binding = self._session.io_binding()

        def bind(bind_one: Any, name: str, array: NDArray[Any], *shape: int) -> None:
            bind_one(name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)

        bind(binding.bind_input, ROWS, self._rows, batch, rows, self.hidden_size)
        bind(binding.bind_input, LENGTHS, self._last_positions, batch)
        bind(binding.bind_input, TOTAL, self._total_length, 1)
        bind(binding.bind_output, LOGITS, self._logits, batch, self.vocab_size)
        past, present = self._session.get_inputs()[3:], self._session.get_outputs()[1:]
        slots = self._cache.reshape(-1, *self._cache.shape[2:])  # keys and values of layer 0, of layer 1, ...
        for cache, before, after in zip(slots, past, present, strict=True):
            bind(binding.bind_input, before.name, cache[slot:], batch, *cache.shape[1:])
            bind(binding.bind_output, after.name, cache[slot:], batch, *cache.shape[1:])
        return binding


def _session(
    checkpoint: DecoderCheckpoint, max_seq_len: int, quantize_activations: bool, threads: int | None
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    # Between steps the cores belong to Triton, preprocessing and the vision engine: 1.4 times the tokens at 8 streams.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    model = decoder_graph(checkpoint.config, max_seq_len, quantize_activations)
    outside = [tensor.name for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    given = dict(zip(ROTARY, _rotary_tables(checkpoint, max_seq_len), strict=True))
    dtypes = {spec.name: spec.dtype for spec in checkpoint.config.tensors()}
    values = [
        _ort_value(given[name] if name in given else checkpoint.read(name), dtypes.get(name, "F32")) for name in outside
    ]
    options.add_external_initializers(outside, values)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _ort_value(array: NDArray[Any], dtype: str) -> Any:
    if dtype in _OPAQUE:
        carrier, onnx_dtype = _OPAQUE[dtype]
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(carrier), onnx_dtype)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _rotary_tables(checkpoint: DecoderCheckpoint, max_seq_len: int) -> list[NDArray[np.float32]]:
    config = checkpoint.config.decoder
    frequencies = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    angles = np.outer(np.arange(max_seq_len), frequencies)
    return [np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)]
