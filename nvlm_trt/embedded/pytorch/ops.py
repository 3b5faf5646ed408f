"""The operations between the matrix products of a layer, and their plain form.

Every operation rounds once, at its end: to the compute dtype, or to e4m3 as the linear that reads the result needs it.
The plain form is written to be read. It runs on the CPU and is the reference for the kernels of ``triton_ops``.

A layer's cache is [2, blocks, kv_heads, block_size, head_dim], keys and values. Position i of a sequence lies in block
``table[i // block_size]`` at ``i % block_size``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from nvlm_trt.model.config import DecoderConfig

__all__ = ["Fp8Input", "Ops", "PlainOps", "Step", "rotary_tables"]

_E4M3_MAX = 448


@dataclass(frozen=True, slots=True)
class Fp8Input:
    """e4m3 numbers under ``scale``, float32 []. They are stored in ``dtype``, which may be a wider one."""

    scale: Tensor
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Step:
    """Where each row of a step belongs: ``positions`` int32 [rows], ``tables`` int32 [rows, width].

    Either each row is the newest of a sequence of its own, or all are successive rows of one sequence, ``together``.
    """

    positions: Tensor
    tables: Tensor
    together: bool


class Ops(Protocol):
    """``into`` None asks for a result in the compute dtype."""

    def add_norm(
        self, hidden: Tensor, branch: Tensor | None, weight: Tensor, into: Fp8Input | None
    ) -> tuple[Tensor, Tensor]:
        """``hidden`` plus ``branch`` [rows, hidden], and the root-mean-square norm of it. ``hidden`` may be reused."""

    def rotate_and_store(self, qkv: Tensor, bias: Tensor, cache: Tensor, step: Step) -> Tensor:
        """Add the bias, turn queries and keys to their positions, put keys and values into a layer's cache.

        ``qkv`` [rows, (heads + 2 kv_heads) * head_dim]; the queries, [rows, heads, head_dim].
        """

    def attend(self, query: Tensor, cache: Tensor, step: Step, into: Fp8Input | None) -> Tensor:
        """Each row over its sequence up to itself; [rows, heads * head_dim]."""

    def gated(self, fc_gate: Tensor, into: Fp8Input | None) -> Tensor:
        """SiLU of the left half times the right one."""


class PlainOps:
    def __init__(self, config: DecoderConfig, rotary: tuple[Tensor, Tensor]) -> None:
        self._config = config
        self._cos, self._sin = rotary

    def add_norm(
        self, hidden: Tensor, branch: Tensor | None, weight: Tensor, into: Fp8Input | None
    ) -> tuple[Tensor, Tensor]:
        if branch is not None:
            hidden = hidden + branch
        normed = rms_norm(hidden.float(), weight.shape, weight, self._config.norm_eps)
        return hidden, _rounded(normed, into, hidden.dtype)

    def rotate_and_store(self, qkv: Tensor, bias: Tensor, cache: Tensor, step: Step) -> Tensor:
        config, block_size = self._config, cache.shape[3]
        heads = (qkv.float() + bias.float()).view(len(qkv), -1, config.head_dim)
        query, key, value = heads.split([config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
        positions = step.positions.long()
        block = step.tables.gather(1, (positions // block_size)[:, None])[:, 0]
        for kind, rows in enumerate((self._rotate(key, positions), value)):
            cache[kind][block, :, positions % block_size] = rows.to(cache.dtype)
        return self._rotate(query, positions).to(qkv.dtype)

    def attend(self, query: Tensor, cache: Tensor, step: Step, into: Fp8Input | None) -> Tensor:
        block_size, mixed = cache.shape[3], torch.empty_like(query)
        size = len(query) if step.together else 1
        for start in range(0, len(query), size):
            rows = slice(start, start + size)
            length = int(step.positions[rows][-1]) + 1
            blocks = step.tables[start, : -(-length // block_size)].long()
            # [2, blocks, kv_heads, block_size, head_dim] to [2, 1, kv_heads, length, head_dim]
            keys, values = cache[:, blocks].transpose(1, 2).flatten(2, 3)[:, None, :, :length]
            mask = torch.ones(size, length, dtype=torch.bool, device=query.device).tril(length - size)
            mixed[rows] = scaled_dot_product_attention(
                query[rows].transpose(0, 1)[None], keys, values, mask, enable_gqa=True
            )[0].transpose(0, 1)
        return _rounded(mixed.flatten(1).float(), into, query.dtype)

    def gated(self, fc_gate: Tensor, into: Fp8Input | None) -> Tensor:
        fc, gate = fc_gate.float().chunk(2, dim=-1)
        return _rounded(silu(fc) * gate, into, fc_gate.dtype)

    def _rotate(self, heads: Tensor, positions: Tensor) -> Tensor:
        """Over half-split channels: channel i turns with channel i + head_dim / 2."""
        cos, sin = self._cos[positions][:, None], self._sin[positions][:, None]
        first, second = heads.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _rounded(values: Tensor, into: Fp8Input | None, dtype: torch.dtype) -> Tensor:
    """float32 to ``dtype``, or to the nearest e4m3 numbers under a scale: ties to even, saturating."""
    if into is None:
        return values.to(dtype)
    return (values / into.scale).clamp(-_E4M3_MAX, _E4M3_MAX).to(torch.float8_e4m3fn).to(into.dtype)


def rotary_tables(config: DecoderConfig, max_seq_len: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [max_seq_len, head_dim / 2], rounded from float64."""
    channels = torch.arange(0, config.head_dim, 2, dtype=torch.float64)
    frequencies = config.rope_theta ** -(channels / config.head_dim)
    angles = torch.outer(torch.arange(max_seq_len, dtype=torch.float64), frequencies)
    return angles.cos().float().to(device), angles.sin().float().to(device)
