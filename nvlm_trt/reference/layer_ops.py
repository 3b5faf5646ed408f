"""A decoder layer's arithmetic in torch: what ``decoder/numpy_ops.py`` computes, on one CUDA device.

Products are true float32: torch's default, no TF32. Sums have another order than on the CPU, so amaxes agree to a few
units of float32's last place, not bit for bit. The tests run it on torch's CPU device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nvlm_trt.decoder.layer_ops import HISTOGRAM_CODES, AttentionError
from nvlm_trt.model.config import DecoderConfig

__all__ = ["TorchOps"]

_E4M3_MAX = 448.0
_WEIGHT_BLOCK_ELEMENTS = 1 << 25  # of float32: 128 MiB
_BLOCK_ELEMENTS = 1 << 24
_QUERY_ROWS = 256


class TorchOps:
    """``LayerOps`` on a torch device. On leaving it cached device memory goes back."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)

    def __enter__(self) -> Self:
        self._guard = torch.inference_mode()
        self._guard.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guard.__exit__(kind, error, trace)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def put(self, values: NDArray[Any]) -> Tensor:
        # A copy, because torch takes no read-only arrays; by its bits, because it does not know numpy's bfloat16.
        if values.dtype.name == "bfloat16":
            return torch.from_numpy(values.view(np.int16).copy()).view(torch.bfloat16).to(self._device)
        return torch.from_numpy(values.copy()).to(self._device)

    def get(self, values: Tensor) -> NDArray[np.float32]:
        return np.asarray(values.cpu().numpy(), np.float32)

    def amax(self, values: Tensor) -> float:
        low, high = values.aminmax()
        return float(torch.maximum(low.float().abs(), high.float().abs()))

    def histogram(self, values: Tensor) -> NDArray[np.int64]:
        counts = torch.zeros(HISTOGRAM_CODES, dtype=torch.int64, device=self._device)
        for block in values.reshape(-1).split(_BLOCK_ELEMENTS):
            counts += torch.bincount((block.view(torch.int32) & 0x7FFFFFFF) >> 16, minlength=HISTOGRAM_CODES)
        return np.asarray(counts.cpu().numpy(), np.int64)

    def energy(self, values: Tensor) -> float:
        return float(sum(block.double().square().sum() for block in values.reshape(-1).split(_BLOCK_ELEMENTS)))

    def fake_fp8(self, values: Tensor, scale: np.float32) -> Tensor:
        # As a tensor: torch would divide by a Python number in its own way, and the quotient must be float32's.
        divisor = torch.tensor(float(scale), dtype=torch.float32, device=self._device)
        stored = (values / divisor).clamp_(-_E4M3_MAX, _E4M3_MAX).to(torch.float8_e4m3fn)
        return stored.float() * divisor

    def rms_norm(self, values: Tensor, weight: Tensor, eps: float) -> Tensor:
        variance = values.square().mean(dim=-1, keepdim=True)
        return values / torch.sqrt(variance + eps) * weight.float()

    def linear(
        self, values: Tensor, weight: Tensor, bias: Tensor | None = None, weight_scale: np.float32 | None = None
    ) -> Tensor:
        out = torch.empty((len(values), len(weight)), dtype=torch.float32, device=self._device)
        step = max(1, _WEIGHT_BLOCK_ELEMENTS // weight.shape[1])
        for start in range(0, len(weight), step):
            block = weight[start : start + step].float()
            if weight_scale is not None:
                block = self.fake_fp8(block, weight_scale)
            out[:, start : start + step] = values @ block.T
        return out if bias is None else out.add_(bias.float())

    def rotate(self, heads: Tensor, lengths: Sequence[int], config: DecoderConfig) -> Tensor:
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=self._device) / config.head_dim
        frequencies = 1 / config.rope_theta**exponents
        positions = torch.cat([torch.arange(n, dtype=torch.float32, device=self._device) for n in lengths])
        angles = (positions[:, None] * frequencies)[:, None, :]
        cos, sin = angles.cos(), angles.sin()
        first, second = heads.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
        out = torch.empty_like(q)
        for queries, keys in _blocks(lengths):
            scores, _ = _scores(q[queries], k[keys])
            out[queries] = _mixed(scores, v[keys])
        return out

    def attention_error(
        self, q: Tensor, k: Tensor, v: Tensor, other_k: Tensor, other_v: Tensor, lengths: Sequence[int]
    ) -> AttentionError:
        found = AttentionError()
        for queries, keys in _blocks(lengths):
            scores, visible = _scores(q[queries], k[keys])
            other_scores, _ = _scores(q[queries], other_k[keys])
            change = torch.where(visible, other_scores - scores, 0)
            change -= torch.where(visible, change.sum(-1, keepdim=True) / visible.sum(-1, keepdim=True), 0)
            exact = _mixed(scores, v[keys])
            other = _mixed(other_scores, other_v[keys])
            found += AttentionError(
                self.energy(change),
                int(visible.sum()) * q.shape[1],
                self.energy(other - exact),
                self.energy(exact),
            )
        return found

    def silu_product(self, gate: Tensor, up: Tensor) -> Tensor:
        return torch.nn.functional.silu(gate).mul_(up)


def _blocks(lengths: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Queries of one sequence, and the keys up to the last of them."""
    first = 0
    for length in lengths:
        for start in range(first, first + length, _QUERY_ROWS):
            end = min(start + _QUERY_ROWS, first + length)
            yield slice(start, end), slice(first, end)
        first += length


def _scores(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [kv heads, group, queries, keys], the future at minus infinity, and which are visible [queries, keys]."""
    queries, heads, head_dim = q.shape
    keys, kv_heads, _ = k.shape
    rows = (q / head_dim**0.5).reshape(queries, kv_heads, heads // kv_heads, head_dim).permute(1, 2, 0, 3)
    scores = rows @ k.permute(1, 2, 0)[:, None]
    seen = torch.ones((queries, keys), dtype=torch.bool, device=q.device).tril(keys - queries)
    return scores.masked_fill(~seen, float("-inf")), seen


def _mixed(scores: Tensor, v: Tensor) -> Tensor:
    """[queries, heads, head_dim]."""
    mixed = scores.softmax(dim=-1) @ v.transpose(0, 1)[:, None]
    kv_heads, group, queries, head_dim = mixed.shape
    return mixed.permute(2, 0, 1, 3).reshape(queries, kv_heads * group, head_dim)
