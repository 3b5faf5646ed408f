"""A Qwen2 decoder over a TensorRT-LLM FP8 checkpoint folder, as plain as torch allows: the decoder tests' oracle.

It restores weights by their scale and has no cache, batch or chunks: each new token runs the whole sequence again. With
``quantize_activations`` every linear's input is rounded to e4m3 under its static scale, as the engine does. Rounding
makes one ulp of float32 visible now and then: a value at the border of two e4m3 numbers falls to one side here and to
the other there, and the logits differ by a few per cent. In float64 the reference says which side is right.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

__all__ = ["ReferenceDecoder"]


class ReferenceDecoder:
    """``folder`` holds config.json and rank0.safetensors, world size 1."""

    def __init__(
        self, folder: str | Path, quantize_activations: bool = True, dtype: torch.dtype = torch.float32
    ) -> None:
        folder = Path(folder)
        self._config = json.loads((folder / "config.json").read_text())
        self._tensors = {name: value.to(dtype) for name, value in load_file(folder / "rank0.safetensors").items()}
        self._dtype = dtype
        self._quantize = quantize_activations

    @property
    def vocab_size(self) -> int:
        return int(self._config["vocab_size"])

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def logits(self, input_ids: list[int], prompt_table: Tensor | None = None) -> Tensor:
        """[n, vocab]: the logits after each position. Ids from ``vocab_size`` up are rows of ``prompt_table``."""
        hidden = self._embed(input_ids, prompt_table)
        for index in range(self._config["num_hidden_layers"]):
            hidden = hidden + self._attention(self._norm(hidden, index, "input_layernorm"), index)
            hidden = hidden + self._mlp(self._norm(hidden, index, "post_layernorm"), index)
        weight = self._tensors["transformer.ln_f.weight"]
        hidden = rms_norm(hidden, weight.shape, weight, self._config["norm_epsilon"])
        return linear(hidden, self._tensors["lm_head.weight"])

    def generate(
        self, input_ids: list[int], max_tokens: int, prompt_table: Tensor | None = None, end_id: int | None = None
    ) -> list[int]:
        """The greedy continuation, without ``end_id``."""
        tokens: list[int] = []
        while len(tokens) < max_tokens:
            token = int(self.logits([*input_ids, *tokens], prompt_table)[-1].argmax())
            if token == end_id:
                break
            tokens.append(token)
        return tokens

    def _embed(self, input_ids: list[int], prompt_table: Tensor | None) -> Tensor:
        table = self._tensors["transformer.vocab_embedding.weight"]
        if prompt_table is not None:
            table = torch.cat([table, prompt_table.to(self._dtype)])
        return table[torch.tensor(input_ids)]

    def _norm(self, hidden: Tensor, index: int, name: str) -> Tensor:
        weight = self._tensors[f"transformer.layers.{index}.{name}.weight"]
        return rms_norm(hidden, weight.shape, weight, self._config["norm_epsilon"])

    def _linear(self, hidden: Tensor, index: int, name: str) -> Tensor:
        prefix = f"transformer.layers.{index}.{name}."
        if f"{prefix}weights_scaling_factor" not in self._tensors:  # a linear that was excluded from quantisation
            return linear(hidden, self._tensors[f"{prefix}weight"])
        if self._quantize:
            scale = self._tensors[f"{prefix}activation_scaling_factor"]
            hidden = (hidden / scale).clamp(-448, 448).to(torch.float8_e4m3fn).to(self._dtype) * scale
        weight = self._tensors[f"{prefix}weight"] * self._tensors[f"{prefix}weights_scaling_factor"]
        return linear(hidden, weight)

    def _attention(self, hidden: Tensor, index: int) -> Tensor:
        heads, kv_heads = self._config["num_attention_heads"], self._config["num_key_value_heads"]
        width, length = self._config["head_size"], len(hidden)
        qkv = self._linear(hidden, index, "attention.qkv")
        qkv = qkv + self._tensors[f"transformer.layers.{index}.attention.qkv.bias"]
        rows = qkv.view(length, heads + 2 * kv_heads, width).transpose(0, 1)
        query, key, value = rows.split([heads, kv_heads, kv_heads])
        query, key = self._rotate(query), self._rotate(key)
        scale = self._tensors.get(f"transformer.layers.{index}.attention.kv_cache_scaling_factor")
        if scale is not None:
            key, value = (
                (part / scale).clamp(-448, 448).to(torch.float8_e4m3fn).to(self._dtype) * scale for part in (key, value)
            )
        key, value = (part.repeat_interleave(heads // kv_heads, dim=0) for part in (key, value))
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        return self._linear(mixed.transpose(0, 1).reshape(length, heads * width), index, "attention.dense")

    def _rotate(self, heads: Tensor) -> Tensor:
        """Rotary embedding over half-split channels: channel i turns with channel i + width / 2."""
        _, length, width = heads.shape
        frequencies = self._config["rotary_base"] ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
        cos, sin = angles.cos().to(self._dtype), angles.sin().to(self._dtype)
        first, second = heads.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def _mlp(self, hidden: Tensor, index: int) -> Tensor:
        fc, gate = self._linear(hidden, index, "mlp.fc"), self._linear(hidden, index, "mlp.gate")
        return self._linear(silu(fc) * gate, index, "mlp.proj")
