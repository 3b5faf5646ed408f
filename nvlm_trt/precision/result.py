"""What a comparison of precisions leaves: ``precisions.json``, of this form.

    PrecisionStudy             circumstances, the model, what was asked
    ├── precisions             one each, the reference first: its score, and how far it is from the reference
    └── layers                 what FP8 in each layer does, where that was asked for

Scores are in the benchmark's unit, KL in nats a token. Intervals are of 95 %, percentile bootstrap over questions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pydantic

from nvlm_trt.errors import UsageError
from nvlm_trt.load.form import BadForm, Form, read_form
from nvlm_trt.load.provenance import Circumstances

__all__ = [
    "Agreement",
    "Difference",
    "Figure",
    "LayerCost",
    "Layers",
    "PrecisionResult",
    "PrecisionStudy",
    "StudiedModel",
    "load_study",
]


class Figure(Form):
    value: float
    low: float
    high: float


class Difference(Figure):
    """From the reference's score, paired. Questions on which this precision is ``better``, ``worse``."""

    better: int
    worse: int


class Agreement(Form):
    """With the reference's answers, over ``questions``. ``equal`` are the same token for token; of the others
    ``first_difference`` counts how many tokens come before they part.

    The rest is over the answers that were followed token by token: at each of ``positions``, ``same`` is the share in
    percent of largest logits that are the reference's token, and ``kl`` the divergence from the reference's
    distribution; ``largest_kl`` is that of the worst position, and of which question.
    """

    questions: int
    equal: int
    first_difference: dict[int, int]
    forced_questions: int
    positions: int
    same: Figure
    kl: Figure
    largest_kl: float
    largest_kl_of: int | str

    @property
    def shared_tokens(self) -> float | None:
        """Before answers part, on average over those that do."""
        parted = sum(self.first_difference.values())
        return sum(place * count for place, count in self.first_difference.items()) / parted if parted else None


class PrecisionResult(Form):
    """``name`` is what ``--precision`` takes; ``quantization``, ``kv_cache`` and ``exclude`` are a recipe's words."""

    name: str
    quantization: Literal["fp8", "none"]
    kv_cache: Literal["fp8", "bf16"]
    exclude: tuple[str, ...]
    checkpoint_bytes: int
    score: Figure
    groups: dict[str, tuple[float, int]]
    difference: Difference | None
    agreement: Agreement | None


class LayerCost(Form):
    """KL from the exact model with this layer alone rounded, and with all layers but this."""

    alone: Figure
    without: Figure


class Layers(Form):
    """``everything``: KL with every linear of every layer rounded."""

    questions: int
    positions: int
    everything: Figure
    layers: tuple[LayerCost, ...]


class StudiedModel(Form):
    """``dtype`` is what "bf16" stands for; ``max_tiles`` bounds a picture's grid, its thumbnail not counted."""

    name: str
    fingerprint: str
    dtype: str
    layers: int
    decoder_engine: str
    vision_engine: str
    vision_precision: str
    max_tiles: int
    tile_size: int


class PrecisionStudy(Form):
    """``errors`` counts questions that could not be asked, by code; they score nothing. ``tiles`` is the mean."""

    format: Literal["nvlm-trt precision"] = "nvlm-trt precision"
    version: Literal[1] = 1
    circumstances: Circumstances
    model: StudiedModel
    task: str
    strict: bool
    data_sha256: str
    questions: int
    errors: dict[str, int]
    max_tokens: int
    tiles: float
    precisions: tuple[PrecisionResult, ...] = pydantic.Field(min_length=1)
    layers: Layers | None


def load_study(file: Path) -> PrecisionStudy:
    """Raises ``UsageError`` E-EVAL-OUTPUT."""
    try:
        return read_form(PrecisionStudy, file)
    except BadForm as why:
        raise UsageError(
            "E-EVAL-OUTPUT",
            f"{file.name} is not a comparison of precisions of this version: {why}.",
            "Compare again: nvlm-trt eval precisions",
        ) from None
