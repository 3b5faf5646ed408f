"""Our FP8 decoder checkpoint as an ordinary Qwen2 folder in float32: what other engines read, with the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint

__all__ = ["write_plain_checkpoint"]

_LINEARS = {"attention.dense": "self_attn.o_proj", "mlp.fc": "mlp.gate_proj", "mlp.gate": "mlp.up_proj"}
_LINEARS["mlp.proj"] = "mlp.down_proj"
_NORMS = {"input_layernorm": "input_layernorm", "post_layernorm": "post_attention_layernorm"}


def write_plain_checkpoint(checkpoint: DecoderCheckpoint, folder: Path) -> None:
    """A weight is its FP8 number times its scale, rounded to float32 once."""
    config, quantized = checkpoint.config.decoder, checkpoint.config.quantized

    def plain(name: str) -> NDArray[np.float32]:
        return checkpoint.read(name).astype(np.float32)

    def linear(module: str) -> NDArray[np.float32]:
        if module not in quantized:
            return plain(f"{module}.weight")
        return plain(f"{module}.weight") * checkpoint.scale(f"{module}.weights_scaling_factor")

    tensors = {
        "model.embed_tokens.weight": plain("transformer.vocab_embedding.weight"),
        "model.norm.weight": plain("transformer.ln_f.weight"),
        "lm_head.weight": plain("lm_head.weight"),
    }
    cuts = np.cumsum([config.q_size, config.num_kv_heads * config.head_dim])
    for index in range(config.num_layers):
        source, target = f"transformer.layers.{index}", f"model.layers.{index}"
        for kind, whole in (
            ("weight", linear(f"{source}.attention.qkv")),
            ("bias", plain(f"{source}.attention.qkv.bias")),
        ):
            for name, part in zip("qkv", np.split(whole, cuts), strict=True):
                tensors[f"{target}.self_attn.{name}_proj.{kind}"] = np.ascontiguousarray(part)
        for name, theirs in _LINEARS.items():
            tensors[f"{target}.{theirs}.weight"] = linear(f"{source}.{name}")
        for name, theirs in _NORMS.items():
            tensors[f"{target}.{theirs}.weight"] = plain(f"{source}.{name}.weight")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    facts: dict[str, Any] = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_positions,
        "vocab_size": config.vocab_size,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
