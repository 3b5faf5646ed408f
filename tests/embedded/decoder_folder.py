"""Writes a small FP8 decoder checkpoint with random weights; its own arithmetic, so that the exporter is not its own
judge.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

CONFIG: dict[str, Any] = {
    "architecture": "Qwen2ForCausalLM",
    "dtype": "bfloat16",
    "logits_dtype": "float32",
    "vocab_size": 512,
    "max_position_embeddings": 2048,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_size": 16,
    "intermediate_size": 160,
    "hidden_act": "silu",
    "norm_epsilon": 1e-6,
    "position_embedding_type": "rope_gpt_neox",
    "rotary_base": 1000000.0,
    "rotary_scaling": None,
    "qwen_type": "qwen2",
    "seq_length": 8192,
    "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
    "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]},
}


def write_decoder_folder(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """``changes`` are config keys. Weights keep the residual stream near 1; activation scales cover about 6
    deviations.
    """
    config = {**CONFIG, **changes}
    dtype = getattr(torch, config["dtype"])
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * std

    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    q_size = config["num_attention_heads"] * config["head_size"]
    qkv_size = q_size + 2 * config["num_key_value_heads"] * config["head_size"]
    tensors = {
        "transformer.vocab_embedding.weight": normal(vocab, hidden, std=1).to(dtype),
        "transformer.ln_f.weight": (1 + normal(hidden, std=0.1)).to(dtype),
        "lm_head.weight": normal(vocab, hidden, std=hidden**-0.5).to(dtype),
    }
    linears = {
        "attention.qkv": (qkv_size, hidden, 6.0),
        "attention.dense": (hidden, q_size, 4.0),
        "mlp.fc": (inner, hidden, 6.0),
        "mlp.gate": (inner, hidden, 6.0),
        "mlp.proj": (hidden, inner, 8.0),
    }
    for index in range(config["num_hidden_layers"]):
        layer = f"transformer.layers.{index}."
        tensors[f"{layer}input_layernorm.weight"] = (1 + normal(hidden, std=0.1)).to(dtype)
        tensors[f"{layer}post_layernorm.weight"] = (1 + normal(hidden, std=0.1)).to(dtype)
        tensors[f"{layer}attention.qkv.bias"] = normal(qkv_size, std=0.5).to(dtype)
        for name, (out_width, in_width, activation_amax) in linears.items():
            weight = normal(out_width, in_width, std=1.5 * in_width**-0.5)
            scale = weight.abs().max() / 448
            tensors[f"{layer}{name}.weight"] = (weight / scale).to(torch.float8_e4m3fn)
            tensors[f"{layer}{name}.weights_scaling_factor"] = scale.reshape(1)
            tensors[f"{layer}{name}.activation_scaling_factor"] = torch.tensor([activation_amax / 448])
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "rank0.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def with_raised_scales(folder: Path, *names: str) -> Path:
    """A decoder folder in which these linears of the first layer take in three times as much."""
    file = write_decoder_folder(folder) / "rank0.safetensors"
    tensors = load_file(file)
    for name in names:
        tensors[f"transformer.layers.0.mlp.{name}.activation_scaling_factor"] *= 3
    save_file(tensors, file)
    return folder


def picture_prompt(
    seed: int, num_text: int, num_rows: int, vocab_size: int, hidden_size: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Ids with a picture's virtual ids in their middle, and the picture's rows."""
    rng = np.random.default_rng(seed)
    text = rng.integers(0, vocab_size, num_text).astype(np.int32)
    rows = np.arange(vocab_size, vocab_size + num_rows, dtype=np.int32)
    ids = np.concatenate([text[: num_text // 2], rows, text[num_text // 2 :]])
    return ids, rng.standard_normal((num_rows, hidden_size)).astype(np.float32)
