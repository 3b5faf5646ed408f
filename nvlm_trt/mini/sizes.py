"""The mini model's sizes: as small as it can read with, with every awkward ratio of the release that matters.

Fewer key-value heads than heads, dummy vision heads, more rows than tokens; multiples of 32 wherever FP8 needs them.
"""

from __future__ import annotations

from nvlm_trt.checkpoint.synthetic import CheckpointSize

__all__ = ["MINI"]

MINI = CheckpointSize(
    image_size=112,
    patch_size=14,
    vision_hidden_size=128,
    vision_intermediate_size=256,
    vision_layers=6,
    vision_heads=4,
    vision_dummy_heads=2,
    hidden_size=256,
    intermediate_size=768,
    layers=3,
    heads=8,
    kv_heads=4,
    base_vocab=2000,
    vocab_size=2048,
    max_positions=8192,
    max_tiles=6,
)
