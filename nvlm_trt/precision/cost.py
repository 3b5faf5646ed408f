"""What a comparison will cost, before it begins: bytes on disk and in memory, exact or as upper bounds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nvlm_trt.errors import BuildError
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.plan.weights import decoder_weights
from nvlm_trt.precision.layers import variants_per_pass
from nvlm_trt.precision.spec import DecoderPrecision

__all__ = ["StudyCost", "study_cost"]

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class StudyCost:
    """``checkpoint_bytes``, by precision, are exact; the other figures are upper bounds.

    ``memory_bytes`` is the size of the largest decoder as it is stored, since one is loaded at a time; the runner
    "onnxruntime" widens linears to float32 and takes up to four times as much. ``layer_passes`` counts passes over the
    decoder's weights; together they cost as much arithmetic as ``layer_variants`` calibrations on the layer questions.
    """

    questions: int
    checkpoint_bytes: dict[str, int]
    row_bytes: int
    logit_bytes: int
    hidden_bytes: int
    memory_bytes: int
    layer_questions: int
    layer_variants: int
    layer_passes: int

    @property
    def disk_bytes(self) -> int:
        return sum(self.checkpoint_bytes.values()) + self.row_bytes + self.logit_bytes + self.hidden_bytes

    def to_json(self) -> dict[str, Any]:
        return {"format": 1, **asdict(self), "disk_bytes": self.disk_bytes}

    def require_room(self, folder: Path) -> None:
        """Raises ``BuildError`` E-BUILD-SPACE if less than half of ``disk_bytes`` is free. Half, because some of it may
        be there already, and few pictures take the most tiles.
        """
        place = next(place for place in (folder, *folder.resolve().parents) if place.is_dir())
        free = shutil.disk_usage(place).free
        if free < self.disk_bytes / 2:
            raise BuildError(
                "E-BUILD-SPACE",
                f"The comparison writes up to {self.disk_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free.",
                "Make room, name fewer precisions, or fewer questions with --limit and --kl-questions.",
            )


def study_cost(
    config: NvlmConfig,
    recipe: Recipe,
    precisions: Sequence[DecoderPrecision],
    num_pictures: int,
    questions: int,
    max_tokens: int,
    kl_questions: int,
    layer_questions: int,
) -> StudyCost:
    """``num_pictures`` counts the pictures of all questions."""
    decoder, tiling = config.decoder, config.tiling
    rows = num_pictures * tiling.most_tiles_per_image * config.vision.tokens_per_tile
    weights = {one.name: decoder_weights(config, one.of(recipe.decoder))[0] for one in precisions}
    tokens = min(layer_questions, questions) * recipe.decoder.max_seq_len
    variants = 2 * decoder.num_layers + 1
    together = min(variants, variants_per_pass(max(1, tokens), decoder.hidden_size))
    return StudyCost(
        questions=questions,
        checkpoint_bytes={name: one.total_bytes for name, one in weights.items()},
        row_bytes=rows * decoder.hidden_size * _FLOAT_BYTES,
        logit_bytes=min(kl_questions, questions) * (max_tokens + 1) * decoder.vocab_size * _FLOAT_BYTES,
        hidden_bytes=2 * tokens * (together + 1) * decoder.hidden_size * _FLOAT_BYTES,
        memory_bytes=max(one.total_bytes for one in weights.values()),
        layer_questions=min(layer_questions, questions),
        layer_variants=variants if tokens else 0,
        layer_passes=-(-variants // together) if tokens else 0,
    )
