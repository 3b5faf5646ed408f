"""The decoder as transformers' own Qwen2, with a checkpoint's weights: the oracle of the calibration tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint

__all__ = ["build_qwen2", "random_samples"]

_PREFIX = "language_model."


def build_qwen2(checkpoint: Checkpoint, dtype: Any) -> Any:
    """``Qwen2ForCausalLM`` in evaluation mode, eager attention, weights cast to ``dtype``."""
    decoder = checkpoint.config.decoder
    config = transformers.Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        hidden_size=decoder.hidden_size,
        intermediate_size=decoder.intermediate_size,
        num_hidden_layers=decoder.num_layers,
        num_attention_heads=decoder.num_heads,
        num_key_value_heads=decoder.num_kv_heads,
        rms_norm_eps=decoder.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": decoder.rope_theta},
        max_position_embeddings=decoder.max_positions,
        vocab_size=decoder.vocab_size,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    model = transformers.Qwen2ForCausalLM(config).to(dtype)
    state = {
        name.removeprefix(_PREFIX): torch.from_numpy(checkpoint.read(name).astype(np.float32)).to(dtype)
        for name in checkpoint.names()
        if name.startswith(_PREFIX)
    }
    model.load_state_dict(state, strict=True)
    return model.eval()


def random_samples(hidden_size: int, lengths: tuple[int, ...], seed: int = 0) -> list[NDArray[np.float32]]:
    """Rows of the size that the synthetic checkpoint's embeddings have."""
    generator = np.random.default_rng(seed)
    return [generator.normal(0, 0.5, (length, hidden_size)).astype(np.float32) for length in lengths]
