"""The simplest decoder in torch: BF16 weights and a contiguous cache, as one would write it first."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from nvlm_trt.model.config import DecoderConfig

__all__ = ["Bf16Loop"]


class Bf16Loop:
    """``num_layers`` with random weights, no embedding, no head. ``shapes`` are a layer's linears, (out, in)."""

    def __init__(
        self,
        config: DecoderConfig,
        shapes: Mapping[str, tuple[int, int]],
        *,
        num_layers: int,
        batch: int,
        length: int,
        device: torch.device,
    ) -> None:
        self._config = config
        self._layers = [
            {name: torch.randn(*shape, device=device, dtype=torch.bfloat16) * 0.01 for name, shape in shapes.items()}
            for _ in range(num_layers)
        ]
        self._norm = torch.ones(config.hidden_size, device=device, dtype=torch.bfloat16)
        cache = (num_layers, 2, batch, config.num_kv_heads, length, config.head_dim)
        self._cache = torch.zeros(cache, device=device, dtype=torch.bfloat16)
        angles = torch.outer(torch.arange(length), config.rope_theta ** -(torch.arange(0, 1, 2 / config.head_dim)))
        self._cos, self._sin = (part.to(device, torch.bfloat16) for part in (angles.cos(), angles.sin()))

    def __call__(self, hidden: Tensor, start: int) -> Tensor:
        """[batch, rows, hidden] at position ``start``."""
        config, (batch, rows, _) = self._config, hidden.shape
        span = slice(start, start + rows)
        for weights, cache in zip(self._layers, self._cache, strict=True):
            x = rms_norm(hidden, self._norm.shape, self._norm, config.norm_eps)
            heads = linear(x, weights["attention.qkv"]).view(batch, rows, -1, config.head_dim).transpose(1, 2)
            q, k, v = heads.split([config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
            cache[0, :, :, span], cache[1, :, :, span] = self._turned(k, span), v
            keys, values = cache[:, :, :, : start + rows]
            mixed = scaled_dot_product_attention(
                self._turned(q, span), keys, values, is_causal=rows > 1, enable_gqa=True
            )
            hidden = hidden + linear(mixed.transpose(1, 2).flatten(2), weights["attention.dense"])
            x = rms_norm(hidden, self._norm.shape, self._norm, config.norm_eps)
            hidden = hidden + linear(
                silu(linear(x, weights["mlp.fc"])) * linear(x, weights["mlp.gate"]), weights["mlp.proj"]
            )
        return hidden

    def _turned(self, heads: Tensor, span: slice) -> Tensor:
        cos, sin = self._cos[span], self._sin[span]
        first, second = heads.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
