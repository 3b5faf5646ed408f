"""The release's config, NVLM-D-72B, written out: what its config.json must come to."""

from __future__ import annotations

from nvlm_trt.model.config import DecoderConfig, NvlmConfig, TilingConfig, VisionConfig

__all__ = ["RELEASE"]

RELEASE = NvlmConfig(
    vision=VisionConfig(448, 14, 3200, 12800, 45, 25, 7, 1e-6, 29568, 1e-5, 8192),
    decoder=DecoderConfig(
        hidden_size=8192,
        intermediate_size=29568,
        num_layers=80,
        num_heads=64,
        num_kv_heads=8,
        head_dim=128,
        norm_eps=1e-6,
        rope_theta=1e6,
        max_positions=32768,
        vocab_size=152064,
    ),
    tiling=TilingConfig(448, 1, 6, True),
    dtype="bfloat16",
)
