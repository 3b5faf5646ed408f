"""The decoder checkpoint's config.json, in the form of TensorRT-LLM 1.2.1, and the tensors that follow from it.

A checkpoint for several GPUs has a file per rank. Tensor parallelism cuts heads, the MLP's inner width and the
vocabulary, so one rank holds the tensors of a smaller decoder, ``part``, and the hidden size stays whole.
"""

from __future__ import annotations

import dataclasses
import enum
import fnmatch
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nvlm_trt.checkpoint.tensor_spec import TensorSpec
from nvlm_trt.errors import ArtefactError
from nvlm_trt.model.config import DecoderConfig

__all__ = ["CheckpointConfig", "EmbeddingSplit", "linear_shapes"]

_DTYPE_TAGS = {"bfloat16": "BF16", "float16": "F16"}

# What the graph computes, in the checkpoint's words; anything else there would give wrong answers without a sound.
_FIXED = {
    "architecture": "Qwen2ForCausalLM",
    "hidden_act": "silu",
    "position_embedding_type": "rope_gpt_neox",
    "rotary_scaling": None,
}
_REBUILD = "Build the decoder checkpoint again."


class EmbeddingSplit(enum.Enum):
    """How ranks share the embedding table: each has all of it, its rows (ids), or its columns (channels)."""

    WHOLE = "whole"
    ROWS = 0
    COLUMNS = 1


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """``dtype`` is the safetensors tag of whatever is not quantised: embedding, norms, biases, lm_head, and all linears
    but those in ``quantized``, full module names. ``tp`` is the number of ranks. With ``fp8_cache`` keys and values are
    cached as e4m3 under a scale of each layer.
    """

    decoder: DecoderConfig
    dtype: str
    quantized: frozenset[str]
    tp: int = 1
    embedding: EmbeddingSplit = EmbeddingSplit.WHOLE
    fp8_cache: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CheckpointConfig:
        """Raises ``ArtefactError``: E-ARTEFACT-RANKS for pipeline stages, E-ARTEFACT-DECODER otherwise."""
        ranks, tp = (_integer(_get(data, "mapping"), key, "mapping.") for key in ("world_size", "tp_size"))
        if ranks != tp:
            raise ArtefactError(
                "E-ARTEFACT-RANKS",
                f"The decoder checkpoint has {ranks} ranks in tensor groups of {tp}; the embedded engine knows no "
                "pipeline stages.",
                "Build it with pp = 1, or serve it with TensorRT-LLM.",
            )
        for key, wanted in _FIXED.items():
            if _get(data, key) != wanted:
                raise _wrong(key, _get(data, key), wanted)
        cache = _get(data, "quantization.kv_cache_quant_algo")
        if cache not in (None, "FP8"):
            raise _wrong("quantization.kv_cache_quant_algo", cache, "FP8 or null")
        if str(_get(data, "dtype")) not in _DTYPE_TAGS:
            raise _wrong("dtype", _get(data, "dtype"), " or ".join(_DTYPE_TAGS))
        decoder = DecoderConfig(
            hidden_size=_integer(data, "hidden_size"),
            intermediate_size=_integer(data, "intermediate_size"),
            num_layers=_integer(data, "num_hidden_layers"),
            num_heads=_integer(data, "num_attention_heads"),
            num_kv_heads=_integer(data, "num_key_value_heads"),
            head_dim=_integer(data, "head_size"),
            norm_eps=_number(data, "norm_epsilon"),
            rope_theta=_number(data, "rotary_base"),
            max_positions=_integer(data, "max_position_embeddings"),
            vocab_size=_integer(data, "vocab_size"),
        )
        if decoder.num_heads % decoder.num_kv_heads:
            raise _wrong("num_key_value_heads", decoder.num_kv_heads, f"a divisor of {decoder.num_heads}")
        if decoder.head_dim % 8:  # GroupQueryAttention's own limit
            raise _wrong("head_size", decoder.head_dim, "a multiple of 8")
        embedding = _embedding_split(data)
        split = {decoder.num_kv_heads, decoder.intermediate_size}
        if embedding is EmbeddingSplit.COLUMNS:
            split.add(decoder.hidden_size)
        for size in sorted(split):
            if size % tp:
                raise _wrong("mapping.tp_size", tp, f"a divisor of {size}")
        dtype = _DTYPE_TAGS[str(data["dtype"])]
        return cls(decoder, dtype, _quantized(data, decoder), tp, embedding, cache == "FP8")

    def require_one_rank(self) -> None:
        """Raises ``ArtefactError`` E-ARTEFACT-RANKS for a checkpoint that is split; the CPU runners read whole ones."""
        if self.tp != 1:
            raise ArtefactError(
                "E-ARTEFACT-RANKS",
                f"The decoder checkpoint is split over {self.tp} ranks; a CPU runner reads one.",
                'Build it with tp = 1, or serve it with decoder.runner = "torch" or with TensorRT-LLM.',
            )

    @property
    def dtype_name(self) -> str:
        return next(name for name, tag in _DTYPE_TAGS.items() if tag == self.dtype)

    @property
    def part(self) -> DecoderConfig:
        """What one rank computes. Its ``vocab_size`` rows of lm_head are padded where the vocabulary does not divide
        evenly."""
        decoder, tp = self.decoder, self.tp
        return dataclasses.replace(
            decoder,
            num_heads=decoder.num_heads // tp,
            num_kv_heads=decoder.num_kv_heads // tp,
            intermediate_size=decoder.intermediate_size // tp,
            vocab_size=-(-decoder.vocab_size // tp),
        )

    def tensors(self) -> Iterator[TensorSpec]:
        """Every tensor that any rank's file must hold."""
        part, hidden = self.part, self.decoder.hidden_size
        embedding = {
            EmbeddingSplit.WHOLE: (self.decoder.vocab_size, hidden),
            EmbeddingSplit.ROWS: (part.vocab_size, hidden),
            EmbeddingSplit.COLUMNS: (self.decoder.vocab_size, hidden // self.tp),
        }[self.embedding]
        yield TensorSpec("transformer.vocab_embedding.weight", self.dtype, embedding)
        yield TensorSpec("transformer.ln_f.weight", self.dtype, (hidden,))
        yield TensorSpec("lm_head.weight", self.dtype, (part.vocab_size, hidden))
        for index in range(self.decoder.num_layers):
            layer = f"transformer.layers.{index}."
            yield TensorSpec(f"{layer}input_layernorm.weight", self.dtype, (hidden,))
            yield TensorSpec(f"{layer}post_layernorm.weight", self.dtype, (hidden,))
            yield TensorSpec(f"{layer}attention.qkv.bias", self.dtype, (part.qkv_size,))
            if self.fp8_cache:
                yield TensorSpec(f"{layer}attention.kv_cache_scaling_factor", "F32", (1,))
            for linear, shape in linear_shapes(part).items():
                if f"{layer}{linear}" not in self.quantized:
                    yield TensorSpec(f"{layer}{linear}.weight", self.dtype, shape)
                    continue
                yield TensorSpec(f"{layer}{linear}.weight", "F8_E4M3", shape)
                yield TensorSpec(f"{layer}{linear}.weights_scaling_factor", "F32", (1,))
                yield TensorSpec(f"{layer}{linear}.activation_scaling_factor", "F32", (1,))


def linear_shapes(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """A layer's linears by name, each (out, in). ``fc`` is the branch through SiLU, ``gate`` the other."""
    hidden, inner = config.hidden_size, config.intermediate_size
    return {
        "attention.qkv": (config.qkv_size, hidden),
        "attention.dense": (hidden, config.q_size),
        "mlp.fc": (inner, hidden),
        "mlp.gate": (inner, hidden),
        "mlp.proj": (hidden, inner),
    }


def _quantized(data: Mapping[str, Any], decoder: DecoderConfig) -> frozenset[str]:
    """Exclusions are globs on full module names; null stands for a built-in list that names none of the linears."""
    algorithm = _get(data, "quantization.quant_algo")
    if algorithm is None:
        return frozenset()
    if algorithm != "FP8":
        raise _wrong("quantization.quant_algo", algorithm, "FP8 or null")
    patterns = _get(data, "quantization.exclude_modules") or []
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise _wrong("quantization.exclude_modules", patterns, "a list of module names")
    layers = [f"transformer.layers.{index}" for index in range(decoder.num_layers)]
    modules = [f"{layer}.{linear}" for layer in layers for linear in linear_shapes(decoder)]
    quantized = frozenset(
        module for module in modules if not any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns)
    )
    for layer in layers:
        if (f"{layer}.mlp.fc" in quantized) != (f"{layer}.mlp.gate" in quantized):
            raise _wrong("quantization.exclude_modules", patterns, f"both or neither of fc and gate in {layer}")
    return quantized


def _embedding_split(data: Mapping[str, Any]) -> EmbeddingSplit:
    """Both keys may be missing: older writers leave them out, and the default is a whole table."""
    if not data.get("use_parallel_embedding", False):
        return EmbeddingSplit.WHOLE
    axis = data.get("embedding_sharding_dim", 0)
    if isinstance(axis, bool) or axis not in (0, 1):
        raise _wrong("embedding_sharding_dim", axis, "0 or 1")
    return EmbeddingSplit(axis)


def _get(data: Mapping[str, Any], path: str) -> Any:
    value: Any = data
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise _wrong(path, "missing", "a value")
        value = value[key]
    return value


def _integer(data: Mapping[str, Any], key: str, where: str = "") -> int:
    value = _get(data, key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
        raise _wrong(where + key, value, "a positive whole number")
    return int(value)


def _number(data: Mapping[str, Any], key: str) -> float:
    value = _get(data, key)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise _wrong(key, value, "a positive number")
    return float(value)


def _wrong(key: str, seen: object, wanted: object) -> ArtefactError:
    shown = repr(seen)[:40]
    return ArtefactError(
        "E-ARTEFACT-DECODER", f"The decoder's config.json: {key} is {shown}; {wanted} is wanted.", _REBUILD
    )
