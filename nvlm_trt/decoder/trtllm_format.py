"""The TensorRT-LLM 1.2.1 checkpoint as data: which tensors a rank's file holds, from what they are made, config.json.

Everything that could change with TensorRT-LLM's version stands in this module: names, forms, keys, build flags.
Source of all of it: the checkpoint format, the Qwen2 model and the build command of TensorRT-LLM 1.2.1.

Each rank's file is a list of ``TensorRule``. A rule names the release's tensors it is made from and how tensor
parallelism splits them; reading, splitting and quantising is somebody else's work, so a full-size layout is a cheap
value that can be compared with a table. Three facts about the format are easy to get wrong and build without an error:

* ``mlp.fc`` is the branch through SiLU, ``gate_proj``; ``mlp.gate`` is the multiplying branch, ``up_proj``.
* q, k and v are fused and share one weight scale, the largest of the three. Splitting fused tensors needs no special
  case: a rank's part of a fusion is the fusion of its parts of the sources.
* ``rotary_scaling`` must be null. The release's {dynamic, 3.0} means something else here, and changes nothing in the
  reference stack up to ``max_position_embeddings``.

fc and gate share one weight scale as well: the engine fuses them, and with different scales would round one twice.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nvlm_trt import __version__
from nvlm_trt.errors import UsageError
from nvlm_trt.model.config import DecoderConfig, NvlmConfig

__all__ = [
    "FIXED_BUILD_FLAGS",
    "TRTLLM_VERSION",
    "Kind",
    "Mapping",
    "Split",
    "TensorRule",
    "checkpoint_json",
    "engine_file_name",
    "rank_file_name",
    "tensor_rules",
]

TRTLLM_VERSION = "1.2.1"

# What in-flight batching with a prompt table over an FP8 checkpoint needs, each stated although some are defaults:
# defaults differ between the command line and the Python API, and between versions.
FIXED_BUILD_FLAGS = {
    "--gpt_attention_plugin": "auto",
    "--gemm_plugin": "disable",  # FP8 GEMMs are TensorRT's own; the plugin would take them away from it
    "--remove_input_padding": "enable",
    "--kv_cache_type": "paged",
    "--context_fmha": "enable",
    "--use_paged_context_fmha": "enable",  # reuse of KV blocks and chunked context stand on it
    "--use_fused_mlp": "enable",
    "--max_beam_width": "1",
    "--log_level": "info",
}

_GEMM_ALIGNMENT = 16  # FP8 GEMMs want both dimensions in multiples of 16 elements
_PREFIX = "language_model."


class Kind(enum.Enum):
    PLAIN = "plain"  # in the model's dtype
    WEIGHT = "weight"  # e4m3
    WEIGHT_SCALE = "weight_scale"  # float32 [1], restores the weight
    INPUT_SCALE = "input_scale"  # float32 [1], restores the activation that enters the linear


class Split(enum.Enum):
    WHOLE = "whole"
    ROWS = "rows"
    COLUMNS = "columns"


@dataclass(frozen=True, slots=True)
class Mapping:
    """Tensor parallel times pipeline parallel sizes; rank = pipeline stage * tp + position in the tensor group."""

    tp: int = 1
    pp: int = 1

    @property
    def world_size(self) -> int:
        return self.tp * self.pp

    def check(self, decoder: DecoderConfig) -> None:
        """Raises ``UsageError`` E-RECIPE-TP or E-RECIPE-PP when the decoder cannot be cut this way."""
        parts = {
            "key-value heads": (decoder.num_kv_heads, 1),
            "intermediate size": (decoder.intermediate_size, _GEMM_ALIGNMENT),
            "attention width": (decoder.q_size, _GEMM_ALIGNMENT),
            "vocabulary": (decoder.vocab_size, 1),
        }
        for what, (size, multiple) in parts.items():
            if self.tp < 1 or size % (self.tp * multiple):
                of = f" in multiples of {multiple}" if multiple > 1 else ""
                raise UsageError(
                    "E-RECIPE-TP",
                    f"tp = {self.tp} does not divide the decoder's {what}, {size}{of}.",
                    "Choose a smaller tp, a power of two.",
                )
        if not 1 <= self.pp <= decoder.num_layers:
            raise UsageError(
                "E-RECIPE-PP",
                f"pp = {self.pp}; 1 to {decoder.num_layers} is allowed.",
                "Use one stage per layer at most.",
            )


@dataclass(frozen=True, slots=True)
class TensorRule:
    """One tensor of a rank's file.

    ``shape`` is the rank's. ``sources`` are release names, stacked on the first axis after each is split.
    ``scale_sources`` are the tensors whose common amax gives the weight scale; ``activation`` is (layer, input name) in
    the calibration.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    sources: tuple[str, ...] = ()
    split: Split = Split.WHOLE
    scale_sources: tuple[str, ...] = ()
    activation: tuple[int, str] | None = None


def tensor_rules(decoder: DecoderConfig, mapping: Mapping, stage: int = 0) -> list[TensorRule]:
    """Every tensor in the file of any rank of one pipeline stage: ranks of a tensor group hold the same shapes."""
    per_stage, longer = divmod(decoder.num_layers, mapping.pp)
    first = stage * per_stage + min(stage, longer)
    layers = range(first, first + per_stage + (stage < longer))
    hidden, vocab = decoder.hidden_size, decoder.vocab_size
    rules: list[TensorRule] = []
    if stage == 0:
        source = (f"{_PREFIX}model.embed_tokens.weight",)
        rules.append(TensorRule("transformer.vocab_embedding.weight", Kind.PLAIN, (vocab, hidden), source))
    for index, layer in enumerate(layers):
        rules.extend(_layer_rules(decoder, mapping.tp, layer, f"transformer.layers.{index}."))
    if stage == mapping.pp - 1:
        rules.append(TensorRule("transformer.ln_f.weight", Kind.PLAIN, (hidden,), (f"{_PREFIX}model.norm.weight",)))
        head = (f"{_PREFIX}lm_head.weight",)
        rules.append(TensorRule("lm_head.weight", Kind.PLAIN, (vocab // mapping.tp, hidden), head, Split.ROWS))
    return rules


def _layer_rules(decoder: DecoderConfig, tp: int, layer: int, out: str) -> Iterator[TensorRule]:
    source = f"{_PREFIX}model.layers.{layer}."
    hidden, inner, qkv = decoder.hidden_size, decoder.intermediate_size, decoder.qkv_size
    q_k_v = [f"{source}self_attn.{name}_proj." for name in "qkv"]
    gate, up = f"{source}mlp.gate_proj.weight", f"{source}mlp.up_proj.weight"

    def plain(name: str, shape: tuple[int, ...], sources: list[str], split: Split = Split.WHOLE) -> TensorRule:
        return TensorRule(out + name, Kind.PLAIN, shape, tuple(sources), split)

    def linear(
        name: str, shape: tuple[int, int], sources: list[str], split: Split, entering: str, scale_of: list[str]
    ) -> Iterator[TensorRule]:
        scale_sources = tuple(scale_of)
        yield TensorRule(f"{out}{name}.weight", Kind.WEIGHT, shape, tuple(sources), split, scale_sources)
        yield TensorRule(f"{out}{name}.weights_scaling_factor", Kind.WEIGHT_SCALE, (1,), scale_sources=scale_sources)
        yield TensorRule(f"{out}{name}.activation_scaling_factor", Kind.INPUT_SCALE, (1,), activation=(layer, entering))

    weights = [part + "weight" for part in q_k_v]
    output, down = [f"{source}self_attn.o_proj.weight"], [f"{source}mlp.down_proj.weight"]
    yield plain("input_layernorm.weight", (hidden,), [f"{source}input_layernorm.weight"])
    yield from linear("attention.qkv", (qkv // tp, hidden), weights, Split.ROWS, "qkv", weights)
    yield plain("attention.qkv.bias", (qkv // tp,), [part + "bias" for part in q_k_v], Split.ROWS)
    yield from linear("attention.dense", (hidden, decoder.q_size // tp), output, Split.COLUMNS, "dense", output)
    yield plain("post_layernorm.weight", (hidden,), [f"{source}post_attention_layernorm.weight"])
    yield from linear("mlp.fc", (inner // tp, hidden), [gate], Split.ROWS, "fc", [gate, up])
    yield from linear("mlp.gate", (inner // tp, hidden), [up], Split.ROWS, "fc", [gate, up])
    yield from linear("mlp.proj", (hidden, inner // tp), down, Split.COLUMNS, "proj", down)


def checkpoint_json(config: NvlmConfig, mapping: Mapping) -> dict[str, Any]:
    """The checkpoint's config.json.

    ``qwen_type`` and ``seq_length`` are read by the model without a default (8192 is what the upstream converter falls
    back to; only logn attention, which is off, looks at it). ``exclude_modules`` is explicit because null means a
    built-in list.
    """
    decoder = config.decoder
    return {
        "architecture": "Qwen2ForCausalLM",
        "dtype": config.dtype,
        "logits_dtype": "float32",
        "vocab_size": decoder.vocab_size,
        "max_position_embeddings": decoder.max_positions,
        "hidden_size": decoder.hidden_size,
        "num_hidden_layers": decoder.num_layers,
        "num_attention_heads": decoder.num_heads,
        "num_key_value_heads": decoder.num_kv_heads,
        "head_size": decoder.head_dim,
        "intermediate_size": decoder.intermediate_size,
        "hidden_act": "silu",
        "norm_epsilon": decoder.norm_eps,
        "position_embedding_type": "rope_gpt_neox",
        "rotary_base": decoder.rope_theta,
        "rotary_scaling": None,
        "qwen_type": "qwen2",
        "seq_length": 8192,
        "attn_bias": True,
        "mlp_bias": False,
        "use_logn_attn": False,
        "disable_weight_only_quant_plugin": False,
        "tie_word_embeddings": False,
        "use_parallel_embedding": False,
        "embedding_sharding_dim": 0,
        "mapping": {"world_size": mapping.world_size, "tp_size": mapping.tp, "pp_size": mapping.pp},
        "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]},
        "producer": {"name": "nvlm-trt", "version": __version__},
    }


def rank_file_name(rank: int) -> str:
    return f"rank{rank}.safetensors"


def engine_file_name(rank: int) -> str:
    return f"rank{rank}.engine"
