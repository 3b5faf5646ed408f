"""The sizes of a synthetic checkpoint, and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from nvlm_trt.errors import UsageError

__all__ = ["SIZES", "CheckpointSize"]


@dataclass(frozen=True, slots=True)
class CheckpointSize:
    """Everything that scales. Sizes are element counts, ``image_size`` and ``patch_size`` pixels of one tile's side.

    ``base_vocab`` counts the tokenizer's entries below the 22 added tokens, ``vocab_size`` the embedding's rows; as in
    the release there are more rows than tokens. Whether the sizes fit each other is checked where the config is read.
    """

    image_size: int
    patch_size: int
    vision_hidden_size: int
    vision_intermediate_size: int
    vision_layers: int
    vision_heads: int
    vision_dummy_heads: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    base_vocab: int
    vocab_size: int
    max_positions: int
    max_tiles: int

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 0 if field.name == "vision_dummy_heads" else 1
            if (value := getattr(self, field.name)) < least:
                raise UsageError("E-USAGE-SIZE", f"{field.name} is {value}; at least {least} is wanted.")


SIZES: Mapping[str, CheckpointSize] = MappingProxyType(
    {
        # 6.4 million parameters: a laptop's demo and the tests.
        "small": CheckpointSize(
            image_size=112,
            patch_size=14,
            vision_hidden_size=160,
            vision_intermediate_size=640,
            vision_layers=4,
            vision_heads=5,
            vision_dummy_heads=3,
            hidden_size=256,
            intermediate_size=768,
            layers=4,
            heads=4,
            kv_heads=2,
            base_vocab=2000,
            vocab_size=2048,
            max_positions=8192,
            max_tiles=6,
        ),
        # 150 million parameters: large enough that speed is a matter of arithmetic and bandwidth, not of overhead.
        "middle": CheckpointSize(
            image_size=224,
            patch_size=14,
            vision_hidden_size=320,
            vision_intermediate_size=1280,
            vision_layers=6,
            vision_heads=5,
            vision_dummy_heads=3,
            hidden_size=1024,
            intermediate_size=2816,
            layers=9,
            heads=16,
            kv_heads=4,
            base_vocab=16000,
            vocab_size=16384,
            max_positions=8192,
            max_tiles=6,
        ),
        # NVLM-D-72B's own sizes: 79,379,593,344 parameters in 177 GB.
        "full": CheckpointSize(
            image_size=448,
            patch_size=14,
            vision_hidden_size=3200,
            vision_intermediate_size=12800,
            vision_layers=45,
            vision_heads=25,
            vision_dummy_heads=7,
            hidden_size=8192,
            intermediate_size=29568,
            layers=80,
            heads=64,
            kv_heads=8,
            base_vocab=151643,
            vocab_size=152064,
            max_positions=32768,
            max_tiles=6,
        ),
    }
)
