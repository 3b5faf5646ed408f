"""The operations of ``ops`` as Triton kernels, for a CUDA device.

They run on the CPU too, in Triton's interpreter (``TRITON_INTERPRET=1``), so the very kernels are tested where there is
no GPU. Tile sizes were chosen from the shapes and have not been tuned on a device.
"""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from nvlm_trt.embedded.pytorch import triton_kernels as kernels
from nvlm_trt.embedded.pytorch.ops import Fp8Input, Step
from nvlm_trt.model.config import DecoderConfig

__all__ = ["TritonOps"]

_PROMPT_TILE = 128  # queries times heads of a program over a prompt
_LEAST_TILE = 16  # tl.dot's own limit
_POSITIONS = 64  # of a tile
_MOST_SPLITS = 32
_GATED_BLOCK = 1024
# Programs in flight that generation aims at: two for each of Hopper's 132 multiprocessors.
_PROGRAMS = 264


class TritonOps:
    """``config`` is of one rank. ``rotary`` as ``ops.rotary_tables`` makes it."""

    def __init__(self, config: DecoderConfig, rotary: tuple[Tensor, Tensor]) -> None:
        self._config = config
        self._cos, self._sin = rotary

    def add_norm(
        self, hidden: Tensor, branch: Tensor | None, weight: Tensor, into: Fp8Input | None
    ) -> tuple[Tensor, Tensor]:
        rows, width = hidden.shape
        out = _result(hidden, (rows, width), into)
        kernels.add_norm_kernel[(rows,)](
            hidden, hidden if branch is None else branch, weight, _scale(into, weight), out, width,
            self._config.norm_eps, ADD=branch is not None, QUANTISE=into is not None,
            BLOCK=triton.next_power_of_2(width), num_warps=8,
        )  # fmt: skip
        return hidden, out

    def rotate_and_store(self, qkv: Tensor, bias: Tensor, cache: Tensor, step: Step) -> Tensor:
        config = self._config
        query = torch.empty(len(qkv), config.num_heads, config.head_dim, dtype=qkv.dtype, device=qkv.device)
        kernels.rotate_and_store_kernel[(len(qkv), config.num_heads + 2 * config.num_kv_heads)](
            qkv, bias, self._cos, self._sin, step.positions, step.tables, query, cache,
            step.tables.stride(0), cache.stride(0),
            HEADS=config.num_heads, KV_HEADS=config.num_kv_heads, DIM=config.head_dim, BLOCK_SIZE=cache.shape[3],
            HALF=triton.next_power_of_2(config.head_dim // 2), num_warps=1,
        )  # fmt: skip
        return query

    def attend(self, query: Tensor, cache: Tensor, step: Step, into: Fp8Input | None) -> Tensor:
        config, rows = self._config, len(query)
        heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
        group = heads // kv_heads
        if step.together:
            tile_rows, splits = max(1, _PROMPT_TILE // group), 1
        else:
            tile_rows, splits = 1, min(_MOST_SPLITS, -(-_PROGRAMS // (rows * kv_heads)))
        shares = torch.empty(rows, heads, splits, dim, dtype=torch.float32, device=query.device)
        weights = torch.empty(rows, heads, splits, dtype=torch.float32, device=query.device)
        kernels.attend_kernel[(triton.cdiv(rows, tile_rows), kv_heads, splits)](
            query, cache, step.tables, step.positions, shares, weights, step.tables.stride(0), cache.stride(0), rows,
            math.log2(math.e) * dim**-0.5,
            HEADS=heads, KV_HEADS=kv_heads, DIM=dim, BLOCK_SIZE=cache.shape[3], ROWS=tile_rows, SPLITS=splits,
            M=max(_LEAST_TILE, triton.next_power_of_2(tile_rows * group)), N=_POSITIONS,
            D=max(_LEAST_TILE, triton.next_power_of_2(dim)), num_warps=8 if step.together else 4,
        )  # fmt: skip
        out = _result(query, (rows, heads * dim), into)
        kernels.join_kernel[(rows * heads,)](
            shares, weights, _scale(into, shares), out, DIM=dim, SPLITS=splits, QUANTISE=into is not None,
            S=triton.next_power_of_2(splits), D=triton.next_power_of_2(dim), num_warps=1,
        )  # fmt: skip
        return out

    def gated(self, fc_gate: Tensor, into: Fp8Input | None) -> Tensor:
        rows, width = len(fc_gate), fc_gate.shape[1] // 2
        out = _result(fc_gate, (rows, width), into)
        kernels.gated_kernel[(rows, triton.cdiv(width, _GATED_BLOCK))](
            fc_gate, _scale(into, fc_gate), out, width, QUANTISE=into is not None, BLOCK=_GATED_BLOCK, num_warps=4
        )
        return out


def _result(like: Tensor, shape: tuple[int, ...], into: Fp8Input | None) -> Tensor:
    return torch.empty(shape, dtype=into.dtype if into else like.dtype, device=like.device)


def _scale(into: Fp8Input | None, unread: Tensor) -> Tensor:
    """A kernel's argument has to be some tensor, also where it is not read."""
    return into.scale if into else unread
