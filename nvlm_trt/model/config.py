"""What an NVLM-D checkpoint says about itself, checked once and then trusted.

``NvlmConfig.from_json`` reads the release's ``config.json`` and corrects two of its habits, so that nothing else has to
know them. ``llm_config.model_type`` says "llama" although the decoder is Qwen2; ``architectures`` decides.
``rope_scaling {dynamic, 3.0}`` changes nothing up to ``max_position_embeddings`` in the reference stack, so it is
dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nvlm_trt.errors import CheckpointError

__all__ = ["DecoderConfig", "NvlmConfig", "TilingConfig", "VisionConfig"]


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """InternViT with its pixel shuffle and projector. Sizes are element counts, image and patch sizes are pixels."""

    image_size: int
    patch_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_dummy_heads: int
    norm_eps: float
    projector_hidden_size: int
    projector_norm_eps: float
    output_size: int

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def padded_width(self) -> int:
        """Width of q, k and v in the checkpoint, dummy heads included (4096 in the release)."""
        return (self.num_heads + self.num_dummy_heads) * self.head_dim

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def num_positions(self) -> int:
        """Patches of one tile and the class token (1025 in the release)."""
        return self.patches_per_side**2 + 1

    @property
    def shuffled_width(self) -> int:
        """Width after pixel shuffle by two on each side: four patches concatenated (12800 in the release)."""
        return 4 * self.hidden_size

    @property
    def tokens_per_tile(self) -> int:
        """Rows the decoder sees for one tile (256 in the release)."""
        return (self.patches_per_side // 2) ** 2


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The Qwen2 decoder."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float
    max_positions: int
    vocab_size: int

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def qkv_size(self) -> int:
        return self.q_size + 2 * self.kv_size


@dataclass(frozen=True, slots=True)
class TilingConfig:
    """How a picture is cut: ``tile_size`` in pixels, ``max_tiles`` without the thumbnail."""

    tile_size: int
    min_tiles: int
    max_tiles: int
    use_thumbnail: bool

    @property
    def most_tiles_per_image(self) -> int:
        """Tiles of the largest grid with its thumbnail (7 in the release); a picture of one tile has no thumbnail."""
        return self.max_tiles + int(self.use_thumbnail and self.max_tiles > 1)

    def limited(self, max_tiles: int | None) -> TilingConfig:
        """The same tiling with at most ``max_tiles`` tiles; None changes nothing."""
        if max_tiles is None:
            return self
        return dataclasses.replace(self, max_tiles=max(self.min_tiles, min(self.max_tiles, max_tiles)))


@dataclass(frozen=True, slots=True)
class NvlmConfig:
    vision: VisionConfig
    decoder: DecoderConfig
    tiling: TilingConfig
    dtype: str

    def limited(self, max_tiles: int | None) -> NvlmConfig:
        """The same config with at most ``max_tiles`` tiles for a picture; None changes nothing."""
        return dataclasses.replace(self, tiling=self.tiling.limited(max_tiles))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NvlmConfig:
        """Read a parsed ``config.json``.

        Raises ``CheckpointError``: E-CONFIG-KEY for a missing or mistyped key, E-CONFIG-ARCH for another architecture,
        E-CONFIG-VALUE for sizes that contradict each other.
        """
        top = _Section(data, "")
        if top.text_list("architectures") != ["NVLM_D"]:
            raise CheckpointError(
                "E-CONFIG-ARCH",
                f"The model's architecture is {', '.join(top.text_list('architectures')) or 'not given'}, not NVLM_D.",
                "Only NVLM-D checkpoints can be built.",
            )
        vision, llm = top.section("vision_config"), top.section("llm_config")
        if llm.text_list("architectures") != ["Qwen2ForCausalLM"]:
            raise CheckpointError(
                "E-CONFIG-ARCH",
                f"The decoder is {', '.join(llm.text_list('architectures')) or 'not given'}, not Qwen2ForCausalLM.",
                "Only NVLM-D with a Qwen2 decoder can be built.",
            )
        _require(top.text("ps_version") == "v2", f"ps_version is {top.text('ps_version')!r}; only v2 is known.")
        _require(top.number("downsample_ratio") == 0.5, "downsample_ratio is not 0.5.")
        _require(top.integer("select_layer", least=-1) == -1, "select_layer is not -1, the last layer.")
        _require(vision.text("norm_type") == "rms_norm", "vision_config.norm_type is not rms_norm.")
        _require(vision.flag("qk_normalization"), "vision_config.qk_normalization is off.")
        _require(not llm.flag("tie_word_embeddings"), "llm_config.tie_word_embeddings is on.")
        config = cls(
            vision=VisionConfig(
                image_size=vision.integer("image_size"),
                patch_size=vision.integer("patch_size"),
                hidden_size=vision.integer("hidden_size"),
                intermediate_size=vision.integer("intermediate_size"),
                num_layers=vision.integer("num_hidden_layers"),
                num_heads=vision.integer("num_attention_heads"),
                num_dummy_heads=vision.integer("num_dummy_attention_heads", least=0),
                norm_eps=vision.number("layer_norm_eps"),
                # The release builds the projector's inner width from the decoder's (29568 for both).
                projector_hidden_size=llm.integer("intermediate_size"),
                # torch's LayerNorm default, which the release's module uses; Megatron checkpoints carry 1e-6.
                projector_norm_eps=1e-5,
                output_size=llm.integer("hidden_size"),
            ),
            decoder=DecoderConfig(
                hidden_size=llm.integer("hidden_size"),
                intermediate_size=llm.integer("intermediate_size"),
                num_layers=llm.integer("num_hidden_layers"),
                num_heads=llm.integer("num_attention_heads"),
                num_kv_heads=llm.integer("num_key_value_heads"),
                head_dim=llm.integer("hidden_size") // llm.integer("num_attention_heads"),
                norm_eps=llm.number("rms_norm_eps"),
                rope_theta=llm.number("rope_theta"),
                max_positions=llm.integer("max_position_embeddings"),
                vocab_size=llm.integer("vocab_size"),
            ),
            tiling=TilingConfig(
                tile_size=top.integer("force_image_size"),
                min_tiles=top.integer("min_dynamic_patch"),
                max_tiles=top.integer("max_dynamic_patch"),
                use_thumbnail=top.flag("use_thumbnail"),
            ),
            dtype=top.text("torch_dtype"),
        )
        _check(config)
        return config


def _check(config: NvlmConfig) -> None:
    vision, decoder, tiling = config.vision, config.decoder, config.tiling
    _require(vision.hidden_size % vision.num_heads == 0, "vision hidden_size is not a multiple of its heads.")
    _require(vision.image_size % (2 * vision.patch_size) == 0, "image_size is not an even number of patches.")
    _require(tiling.tile_size == vision.image_size, "force_image_size differs from vision_config.image_size.")
    _require(tiling.min_tiles <= tiling.max_tiles <= 12, "max_dynamic_patch is not in min_dynamic_patch..12.")
    _require(decoder.hidden_size % decoder.num_heads == 0, "hidden_size is not a multiple of the heads.")
    _require(decoder.num_heads % decoder.num_kv_heads == 0, "heads are not a multiple of the key-value heads.")
    _require(decoder.head_dim % 2 == 0, "an odd head size cannot be rotated.")
    _require(config.dtype in ("bfloat16", "float16"), f"torch_dtype is {config.dtype!r}.")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckpointError(
            "E-CONFIG-VALUE", f"config.json: {otherwise}", "Check that the file is the release's own."
        )


class _Section:
    """Typed access to one JSON object; names the full key in its errors."""

    def __init__(self, data: Mapping[str, Any], prefix: str) -> None:
        self._data = data
        self._prefix = prefix

    def _get(self, key: str, kind: str, accepts: type | tuple[type, ...]) -> Any:
        value = self._data.get(key) if isinstance(self._data, Mapping) else None
        if not isinstance(value, accepts) or (isinstance(value, bool) and accepts is not bool):
            seen = "missing" if value is None else f"of type {type(value).__name__}"
            raise CheckpointError(
                "E-CONFIG-KEY",
                f"config.json: {self._prefix}{key} is {seen}; {kind} is wanted.",
                "Check that the file is the release's own.",
            )
        return value

    def section(self, key: str) -> _Section:
        return _Section(self._get(key, "an object", Mapping), f"{self._prefix}{key}.")

    def integer(self, key: str, least: int = 1) -> int:
        value: int = self._get(key, "a whole number", int)
        _require(least <= value < 2**31, f"{self._prefix}{key} is {value}; at least {least} is wanted.")
        return value

    def number(self, key: str) -> float:
        value = float(self._get(key, "a number", (int, float)))
        _require(0 < value < float("inf"), f"{self._prefix}{key} is {value}; a positive number is wanted.")
        return value

    def text(self, key: str) -> str:
        value: str = self._get(key, "a text", str)
        return value

    def text_list(self, key: str) -> list[str]:
        return [str(item) for item in self._get(key, "a list", list)]

    def flag(self, key: str) -> bool:
        value: bool = self._get(key, "true or false", bool)
        return value
