"""What a model folder holds, reported before anything is built from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvlm_trt.checkpoint.layout import expected_tensors
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.model.json_file import read_json_object
from nvlm_trt.model.tokenizer import NvlmTokenizer

__all__ = ["Inspection", "inspect_model"]

_PARTS = {"vision_model.": "vision", "mlp1.": "projector", "language_model.": "decoder"}


@dataclass(frozen=True, slots=True)
class Inspection:
    """``dtypes`` maps a safetensors tag to tensors and bytes.

    For a bare config ``num_shards`` is 0 and ``vocab_len`` None.
    """

    config: NvlmConfig
    parameters: Mapping[str, int]
    num_tensors: int
    num_bytes: int
    dtypes: Mapping[str, tuple[int, int]]
    num_shards: int
    vocab_len: int | None
    quirks: tuple[str, ...]

    @property
    def num_parameters(self) -> int:
        return sum(self.parameters.values())

    def to_json(self) -> dict[str, Any]:
        vision, decoder, tiling = self.config.vision, self.config.decoder, self.config.tiling
        return {
            "format": 1,
            "architecture": "NVLM_D",
            "dtype": self.config.dtype,
            "parameters": {**self.parameters, "total": self.num_parameters},
            "tensors": self.num_tensors,
            "bytes": self.num_bytes,
            "dtypes": {tag: {"tensors": n, "bytes": size} for tag, (n, size) in sorted(self.dtypes.items())},
            "shards": self.num_shards,
            "vision": {
                "layers": vision.num_layers,
                "hidden_size": vision.hidden_size,
                "intermediate_size": vision.intermediate_size,
                "heads": vision.num_heads,
                "dummy_heads": vision.num_dummy_heads,
                "image_size": vision.image_size,
                "patch_size": vision.patch_size,
                "tokens_per_tile": vision.tokens_per_tile,
            },
            "decoder": {
                "layers": decoder.num_layers,
                "hidden_size": decoder.hidden_size,
                "intermediate_size": decoder.intermediate_size,
                "heads": decoder.num_heads,
                "kv_heads": decoder.num_kv_heads,
                "max_positions": decoder.max_positions,
                "vocab_size": decoder.vocab_size,
            },
            "tiling": {
                "tile_size": tiling.tile_size,
                "min_tiles": tiling.min_tiles,
                "max_tiles": tiling.max_tiles,
                "thumbnail": tiling.use_thumbnail,
                "max_tokens_per_image": tiling.most_tiles_per_image * vision.tokens_per_tile,
            },
            "tokenizer": None if self.vocab_len is None else {"vocab_len": self.vocab_len},
            "quirks": list(self.quirks),
        }


def inspect_model(path: Path) -> Inspection:
    """A model folder, checked completely except for its weights' values, or a bare ``config.json``.

    Raises ``CheckpointError`` for what is wrong with it.
    """
    if path.is_file():
        data = read_json_object(path, "CONFIG")
        config = NvlmConfig.from_json(data)
        tensors = {name: (spec.dtype, spec.shape, spec.nbytes) for name, spec in expected_tensors(config).items()}
        num_shards, vocab_len = 0, None
    else:
        checkpoint = open_checkpoint(path)
        data = read_json_object(path / "config.json", "CONFIG")
        config = checkpoint.config
        infos = [checkpoint.info(name) for name in checkpoint.names()]
        tensors = {info.name: (info.dtype, info.shape, info.nbytes) for info in infos}
        num_shards = len({file for info in infos for file in checkpoint.files(info.name)})
        vocab_len = NvlmTokenizer.from_folder(path).vocab_len
    return _inspection(config, data, tensors, num_shards, vocab_len)


def _inspection(
    config: NvlmConfig,
    data: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, tuple[int, ...], int]],
    num_shards: int,
    vocab_len: int | None,
) -> Inspection:
    parameters = Counter(dict.fromkeys(_PARTS.values(), 0))
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for name, (dtype, shape, nbytes) in tensors.items():
        part = next(part for prefix, part in _PARTS.items() if name.startswith(prefix))
        parameters[part] += math.prod(shape)
        counts[dtype] += 1
        sizes[dtype] += nbytes
    return Inspection(
        config=config,
        parameters=dict(parameters),
        num_tensors=len(tensors),
        num_bytes=sum(sizes.values()),
        dtypes={tag: (counts[tag], sizes[tag]) for tag in counts},
        num_shards=num_shards,
        vocab_len=vocab_len,
        quirks=tuple(_quirks(config, data, counts)),
    )


def _quirks(config: NvlmConfig, data: Mapping[str, Any], counts: Mapping[str, int]) -> Iterator[str]:
    """What would surprise a reader of the config, and what is done about it."""
    llm = data.get("llm_config", {})
    if llm.get("model_type") != "qwen2":
        yield f"llm_config.model_type says {llm.get('model_type')!r}; the decoder is Qwen2, as architectures says."
    if llm.get("rope_scaling"):
        yield (
            f"llm_config.rope_scaling is ignored: it changes nothing up to {config.decoder.max_positions} positions, "
            "and TensorRT-LLM must not see it."
        )
    if config.vision.num_dummy_heads:
        yield (
            f"The vision tower has {config.vision.num_heads} heads, stored padded to "
            f"{config.vision.num_heads + config.vision.num_dummy_heads}; the padding is stripped."
        )
    if len(counts) > 1:
        yield f"Tensors are stored as {' and '.join(sorted(counts))}; the engines compute in {config.dtype}."
    if not config.tiling.use_thumbnail:
        yield "use_thumbnail is off: it cannot be built, since the prompt names the last tile as the thumbnail."
