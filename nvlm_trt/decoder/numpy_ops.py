"""A decoder layer's arithmetic in numpy, with the same bits for any number of threads.

BLAS cuts a product by how many threads it has, and edges of another shape are summed in another order. So BLAS is held
to one thread, and the threads it would have had work on blocks of ours, whose shapes depend on the arrays alone. What
remains are the machine's BLAS kernels: another BLAS or another kind of processor may give other last bits.

Elementwise work is done in blocks as well, so that temporaries are small and stay in the cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

import ml_dtypes
import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from nvlm_trt.decoder import fp8
from nvlm_trt.decoder.layer_ops import HISTOGRAM_CODES, AttentionError
from nvlm_trt.decoder.numpy_attention import AttentionPart, attention_parts, mixed, scored, softmax
from nvlm_trt.model.config import DecoderConfig

__all__ = ["NumpyOps", "fake_e4m3"]

Floats = NDArray[np.float32]
T = TypeVar("T")
R = TypeVar("R")

# One widened block of a weight, 32 MiB: 1024 rows at width 8192. Each thread holds one.
_WEIGHT_BLOCK_ELEMENTS = 1 << 23
_MAX_THREADS = 16
_BLOCK_ELEMENTS = 1 << 18  # of elementwise work; 1 MiB of float32

_SMALLEST_NORMAL = np.float32(2.0**-6)
# Adding and subtracting it rounds to multiples of 2^-9, e4m3's subnormals: float32 steps by that from 2^14 to 2^15.
_SUBNORMAL_ROUNDER = np.float32(1.5 * 2**14)


class NumpyOps:
    """``LayerOps`` on the CPU. ``threads`` is BLAS's own choice unless given; entering it takes hold of BLAS."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = min(threads or _blas_threads(), _MAX_THREADS)
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Self:
        # A model that overflows is found by its amaxes and refused; numpy need not warn of it as well.
        self._resources.enter_context(np.errstate(over="ignore", invalid="ignore"))
        self._resources.enter_context(threadpoolctl.threadpool_limits(1, "blas"))
        self._pool = self._resources.enter_context(
            ThreadPoolExecutor(self._threads, initializer=lambda: np.seterr(over="ignore", invalid="ignore"))
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def put(self, values: NDArray[Any]) -> NDArray[Any]:
        return values

    def get(self, values: Floats) -> Floats:
        return values

    def amax(self, values: NDArray[Any]) -> float:
        return float(fp8.amax(values))

    def histogram(self, values: Floats) -> NDArray[np.int64]:
        counts = np.zeros(HISTOGRAM_CODES, np.int64)
        for block in _flat_blocks(values):
            counts += np.bincount((block.view(np.uint32) & 0x7FFFFFFF) >> 16, minlength=HISTOGRAM_CODES)
        return counts

    def energy(self, values: Floats) -> float:
        return float(sum(np.square(block, dtype=np.float64).sum() for block in _flat_blocks(values)))

    def fake_fp8(self, values: Floats, scale: np.float32) -> Floats:
        out = np.empty(values.shape, np.float32)
        pairs = zip(_flat_blocks(values), _flat_blocks(out), strict=True)
        self._fan_out(lambda pair: np.copyto(pair[1], fake_e4m3(pair[0], scale)), pairs)
        return out

    def rms_norm(self, values: Floats, weight: NDArray[Any], eps: float) -> Floats:
        variance = np.mean(np.square(values), axis=-1, keepdims=True)
        normed: Floats = values / np.sqrt(variance + np.float32(eps)) * _widened(weight)
        return normed

    def linear(
        self,
        values: Floats,
        weight: NDArray[Any],
        bias: NDArray[Any] | None = None,
        weight_scale: np.float32 | None = None,
    ) -> Floats:
        out = np.empty((len(values), len(weight)), np.float32)
        step = max(1, _WEIGHT_BLOCK_ELEMENTS // weight.shape[1])

        def multiply(start: int) -> None:
            rows = slice(start, start + step)
            block = _widened(weight[rows])
            if weight_scale is not None:
                block = fake_e4m3(block, weight_scale)
            np.matmul(values, block.T, out=out[:, rows])

        self._fan_out(multiply, range(0, len(weight), step))
        if bias is not None:
            out += _widened(bias)
        return out

    def rotate(self, heads: Floats, lengths: Sequence[int], config: DecoderConfig) -> Floats:
        """Half-split layout: element i is paired with element i + head_dim / 2."""
        exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
        frequencies = np.float32(1) / np.float32(config.rope_theta) ** exponents
        positions = np.concatenate([np.arange(length, dtype=np.float32) for length in lengths])
        angles = (positions[:, None] * frequencies)[:, None, :]
        cos, sin = np.cos(angles), np.sin(angles)
        first, second = np.split(heads, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def attend(self, q: Floats, k: Floats, v: Floats, lengths: Sequence[int]) -> Floats:
        out = np.empty(q.shape, np.float32)

        def work(part: AttentionPart) -> None:
            for queries, keys, scores in scored(q, k, part):
                out[queries, part.q_heads] = mixed(softmax(scores), v[keys, part.kv_head])

        self._fan_out(work, attention_parts(q, k, lengths))
        return out

    def attention_error(
        self, q: Floats, k: Floats, v: Floats, other_k: Floats, other_v: Floats, lengths: Sequence[int]
    ) -> AttentionError:
        def work(part: AttentionPart) -> AttentionError:
            found = AttentionError()
            pairs = zip(scored(q, k, part), scored(q, other_k, part), strict=True)
            for (_, keys, scores), (_, _, other_scores) in pairs:
                visible = np.isfinite(scores[0])
                change = np.where(visible, other_scores - np.where(visible, scores, 0), 0)
                change -= np.where(visible, change.sum(axis=-1, keepdims=True) / visible.sum(axis=-1, keepdims=True), 0)
                exact = mixed(softmax(scores), v[keys, part.kv_head])
                other = mixed(softmax(other_scores), other_v[keys, part.kv_head])
                found += AttentionError(
                    self.energy(change),
                    int(visible.sum()) * len(scores),
                    self.energy(other - exact),
                    self.energy(exact),
                )
            return found

        # Summed in the parts' order, whichever thread is done first.
        return sum(self._fan_out(work, attention_parts(q, k, lengths)), AttentionError())

    def silu_product(self, gate: Floats, up: Floats) -> Floats:
        def work(pair: tuple[Floats, Floats]) -> None:
            own, other = pair
            own /= 1 + np.exp(-own)  # exp of a large negative gate overflows to infinity: the gate is then zero
            own *= other

        self._fan_out(work, zip(_flat_blocks(gate), _flat_blocks(up), strict=True))
        return gate

    def _fan_out(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        return list(self._pool.map(work, items))


def fake_e4m3(values: Floats, scale: np.float32) -> Floats:
    """``fp8.restore(fp8.quantize(values, scale), scale)`` without leaving float32, at memory speed; NaN stays NaN."""
    with np.errstate(over="ignore"):
        quotient = values / np.float32(scale)
    np.clip(quotient, -fp8.E4M3_MAX, fp8.E4M3_MAX, out=quotient)
    small = np.abs(quotient) < _SMALLEST_NORMAL
    subnormal = quotient[small]
    subnormal += _SUBNORMAL_ROUNDER
    subnormal -= _SUBNORMAL_ROUNDER
    # Three of float32's 23 mantissa bits stay, ties to even; a carry into the exponent is the right next number.
    bits = quotient.view(np.uint32)
    bits += ((bits >> np.uint32(20)) & np.uint32(1)) + np.uint32(0x7FFFF)
    bits &= np.uint32(0xFFF00000)
    quotient[small] = subnormal
    quotient *= np.float32(scale)
    return quotient


def _widened(stored: NDArray[Any]) -> Floats:
    """To float32, exactly. Of bfloat16 by its bits: float32's upper half, and a shift lets other threads run."""
    if stored.dtype == ml_dtypes.bfloat16:
        return (stored.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)


def _flat_blocks(values: Floats) -> Iterator[Floats]:
    """Views of a contiguous array, copies of parts of any other."""
    flat = values.reshape(-1)
    for start in range(0, flat.size, _BLOCK_ELEMENTS):
        yield flat[start : start + _BLOCK_ELEMENTS]


def _blas_threads() -> int:
    return max((lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"), default=1)
