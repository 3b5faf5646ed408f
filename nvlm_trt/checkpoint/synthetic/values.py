"""Values of a random model whose activations stay in a normal range.

Each tensor is made from (seed, name) alone, in pieces that can be made alone too, so a checkpoint of any size streams.
The normals are sums of four random bytes (Irwin-Hall: 1021 steps, about bf16's own, bounded at 3.5 deviations), scaled
in float32. Integer sums and one rounding each for scale and mean give the same bytes on every machine and numpy
version, which library normals do not promise, and are three times as fast: 250 million values a second on one core.
Spreads keep every activation near one: inner products by fan-in, residual branches damped, embeddings and projected
pictures of one size, logits about two apart so that the best token is seldom a close call.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.tensor_spec import TensorSpec
from nvlm_trt.model.config import NvlmConfig

__all__ = ["tensor_pieces"]

# Small enough for the cache. Part of what the bytes depend on.
_PIECE_ELEMENTS = 1 << 18
_SUM_MEAN = 4 * 255 / 2
_SUM_STD = math.sqrt(4 * (256**2 - 1) / 12)


@dataclass(frozen=True, slots=True)
class _Spread:
    mean: float
    std: float
    by_fan_in: bool = False


# The first matching ending counts.
_SPREADS = (
    ("embed_tokens.weight", _Spread(0.0, 0.5)),
    ("lm_head.weight", _Spread(0.0, 2.0, by_fan_in=True)),
    # After GELU of unit inputs (second moment 0.43): brings a picture's rows to the embeddings' size.
    ("mlp1.3.weight", _Spread(0.0, 0.77, by_fan_in=True)),
    ("norm.weight", _Spread(1.0, 0.1)),
    ("norm1.weight", _Spread(1.0, 0.1)),
    ("norm2.weight", _Spread(1.0, 0.1)),
    ("mlp1.0.weight", _Spread(1.0, 0.1)),
    (".ls1", _Spread(0.3, 0.05)),
    (".ls2", _Spread(0.3, 0.05)),
    ("_embedding", _Spread(0.0, 0.3)),
    (".bias", _Spread(0.0, 0.05)),
    (".weight", _Spread(0.0, 1.0, by_fan_in=True)),
)


def tensor_pieces(spec: TensorSpec, config: NvlmConfig, seed: int) -> Iterator[NDArray[Any]]:
    """The tensor as flat pieces in its own dtype; fp32 values are bf16-representable, as in the release."""
    rows = spec.shape[0]
    columns = spec.num_elements // rows
    spread = next(spread for ending, spread in _SPREADS if spec.name.endswith(ending))
    scale = spread.std / math.sqrt(columns) if spread.by_fan_in else spread.std
    step = max(1, _PIECE_ELEMENTS // columns)
    for index, start in enumerate(range(0, rows, step)):
        shape = (min(step, rows - start), columns)
        values = _normals(seed, spec.name, index, shape[0] * columns).reshape(shape)
        values *= np.float32(scale)
        values += np.float32(spread.mean)
        _clear_dummy_heads(values, start, spec, config)
        yield values.astype(ml_dtypes.bfloat16).astype(spec.numpy_dtype).reshape(-1)


def _normals(seed: int, name: str, piece: int, count: int) -> NDArray[np.float32]:
    key = hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16]
    # Pieces take the counter's highest word, so their streams never meet.
    generator = np.random.Philox(key=int.from_bytes(key, "little"), counter=piece << 192)
    raw = generator.random_raw((count + 1) // 2).astype("<u8", copy=False)
    # Eight bytes to four pairs in 16 bits each, then to two sums of four in 32 bits each.
    every_second_byte, every_second_pair = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
    sums = raw & every_second_byte
    sums += (raw >> np.uint64(8)) & every_second_byte
    sums = (sums & every_second_pair) + ((sums >> np.uint64(16)) & every_second_pair)
    normals = sums.view("<u4")[:count].astype(np.float32)
    normals -= np.float32(_SUM_MEAN)
    normals *= np.float32(1 / _SUM_STD)
    return normals


def _clear_dummy_heads(values: NDArray[np.float32], start: int, spec: TensorSpec, config: NvlmConfig) -> None:
    """The vision tower's padding heads are zero wherever they have entries."""
    real, padded = config.vision.hidden_size, config.vision.padded_width
    if spec.name.endswith(("attn.qkv.weight", "attn.q_norm.weight", "attn.k_norm.weight")):
        rows = np.arange(start, start + len(values))
        values[rows % padded >= real] = 0
    elif spec.name.endswith("attn.proj.weight"):
        values[:, real:] = 0
