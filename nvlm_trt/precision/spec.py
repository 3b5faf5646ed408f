"""A precision of the decoder, as a person writes it.

bf16                               everything in the model's own dtype
fp8                                all linears in FP8, as TensorRT-LLM will have them
fp8+kv                             and the KV cache
fp8,exclude=*.layers.0.*           but for the linears that the pattern names; several patterns, several times
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nvlm_trt.errors import UsageError
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.recipe import DecoderRecipe

__all__ = ["DecoderPrecision", "parse_precision", "parse_precisions"]

_HEADS: dict[str, tuple[Literal["fp8", "none"], Literal["fp8", "bf16"]]] = {
    "bf16": ("none", "bf16"),
    "bf16+kv": ("none", "fp8"),
    "fp8": ("fp8", "bf16"),
    "fp8+kv": ("fp8", "fp8"),
}
_EXCLUDE = "exclude="
_NAMED = 2


@dataclass(frozen=True, slots=True)
class DecoderPrecision:
    """The words of a recipe's ``decoder`` section. "bf16" stands for the model's dtype in all of them."""

    quantization: Literal["fp8", "none"]
    kv_cache: Literal["fp8", "bf16"]
    exclude: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What ``parse_precision`` reads."""
        head = next(name for name, words in _HEADS.items() if words == (self.quantization, self.kv_cache))
        return ",".join([head, *(f"{_EXCLUDE}{pattern}" for pattern in self.exclude)])

    @property
    def slug(self) -> str:
        """For names of files; no two precisions share one."""
        head = self.name.partition(",")[0]
        if not self.exclude:
            return head
        return f"{head}-without-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"

    @property
    def calibrated(self) -> bool:
        return self.quantization == "fp8" or self.kv_cache == "fp8"

    def of(self, decoder: DecoderRecipe) -> DecoderRecipe:
        """A recipe's decoder at this precision, whole on one device."""
        words = {"quantization": self.quantization, "kv_cache": self.kv_cache, "exclude": self.exclude}
        return decoder.model_copy(update={**words, "tp": 1, "pp": 1})


def parse_precision(text: str) -> DecoderPrecision:
    """Raises ``UsageError`` E-EVAL-PRECISION."""
    head, *options = (part.strip() for part in text.split(","))
    if head not in _HEADS:
        raise _refused(f"{text!r} begins with none of {', '.join(_HEADS)}")
    patterns = [option.removeprefix(_EXCLUDE) for option in options]
    if not all(option.startswith(_EXCLUDE) and pattern for option, pattern in zip(options, patterns, strict=True)):
        raise _refused(f"{text!r} has something after its comma that is not {_EXCLUDE}PATTERN")
    quantization, kv_cache = _HEADS[head]
    if patterns and quantization == "none":
        raise _refused(f"{text!r} excludes linears where none is quantised")
    return DecoderPrecision(quantization, kv_cache, tuple(dict.fromkeys(patterns)))


def parse_precisions(texts: Sequence[str], config: NvlmConfig) -> tuple[DecoderPrecision, ...]:
    """The first is the reference. Raises ``UsageError``: E-EVAL-PRECISION, E-RECIPE-EXCLUDE for a pattern that names
    none of the model's linears or half of a fusion."""
    from nvlm_trt.decoder.linear_groups import select_groups

    precisions = [parse_precision(text) for text in texts]
    if len(precisions) < _NAMED:
        raise _refused("one precision alone cannot be compared")
    for number, precision in enumerate(precisions):
        if precision in precisions[:number]:
            raise _refused(f"{precision.name!r} is named twice")
        select_groups(precision.exclude, config.decoder.num_layers)
    return tuple(precisions)


def _refused(why: str) -> UsageError:
    return UsageError(
        "E-EVAL-PRECISION", f"{why[0].upper()}{why[1:]}.", "Write bf16, fp8, fp8+kv or fp8,exclude=*.layers.0.*"
    )
