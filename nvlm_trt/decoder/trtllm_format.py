"""The TensorRT-LLM 1.2.1 checkpoint as data: which tensors a rank's file holds, what they are made from, config.json.

Everything that could change with TensorRT-LLM's version is in this module: names, forms, keys, build flags. It follows
the checkpoint format, the Qwen2 model and the build command of TensorRT-LLM 1.2.1.

Each rank's file is a list of ``TensorRule``. A rule names the release's tensors it is made from and how tensor
parallelism splits them. Reading, splitting and quantising happen elsewhere, so a full-size layout is a cheap value that
can be compared with a table. Four facts about the format are easy to get wrong and build without an error:

* ``mlp.fc`` is the branch through SiLU, ``gate_proj``; ``mlp.gate`` is the multiplying branch, ``up_proj``.
* q, k and v are fused and share one weight scale, the largest of the three. Splitting fused tensors needs no special
  case: a rank's part of a fusion is the fusion of its parts of the sources.
* ``rotary_scaling`` must be null. The release's {dynamic, 3.0} means something else here, and changes nothing in the
  reference stack up to ``max_position_embeddings``.
* ``gpus_per_node`` is not about building: a rank takes the GPU of its number modulo this one, 8 where nothing is said,
  so that on machines with fewer the ranks of the second one would look for GPUs that are not there.

fc and gate share one weight scale as well: the engine fuses them, and with different scales would round one twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nvlm_trt import __version__
from nvlm_trt.decoder.linear_groups import GroupKind, LinearGroup, exclude_modules
from nvlm_trt.decoder.tensor_rule import Kind, Split, TensorRule
from nvlm_trt.errors import UsageError
from nvlm_trt.model.config import DecoderConfig, NvlmConfig

__all__ = [
    "FIXED_BUILD_FLAGS",
    "TRTLLM_VERSION",
    "Kind",
    "Mapping",
    "Precision",
    "Split",
    "TensorRule",
    "checkpoint_json",
    "engine_file_name",
    "excluded_modules",
    "rank_file_name",
    "stage_layers",
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


@dataclass(frozen=True, slots=True)
class Mapping:
    """Tensor parallel times pipeline parallel sizes; rank = pipeline stage * tp + position in the tensor group."""

    tp: int = 1
    pp: int = 1
    gpus_per_node: int = 8

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
class Precision:
    """What is FP8: the linears, but for those in ``excluded``, and the KV cache."""

    linears: bool = True
    kv_cache: bool = False
    excluded: frozenset[LinearGroup] = frozenset()

    def quantizes(self, group: LinearGroup) -> bool:
        return self.linears and group not in self.excluded


def stage_layers(decoder: DecoderConfig, pp: int, stage: int) -> range:
    """The decoder layers of one pipeline stage. If they do not divide evenly, the first stages get one more."""
    per_stage, longer = divmod(decoder.num_layers, pp)
    first = stage * per_stage + min(stage, longer)
    return range(first, first + per_stage + (stage < longer))


def tensor_rules(
    decoder: DecoderConfig, mapping: Mapping, stage: int = 0, precision: Precision = Precision()
) -> list[TensorRule]:
    """Every tensor in the file of any rank of one pipeline stage: ranks of a tensor group hold the same shapes."""
    hidden, vocab = decoder.hidden_size, decoder.vocab_size
    rules: list[TensorRule] = []
    if stage == 0:
        source = (f"{_PREFIX}model.embed_tokens.weight",)
        rules.append(TensorRule("transformer.vocab_embedding.weight", Kind.PLAIN, (vocab, hidden), source))
    for index, layer in enumerate(stage_layers(decoder, mapping.pp, stage)):
        rules.extend(_layer_rules(decoder, mapping.tp, layer, f"transformer.layers.{index}.", precision))
    if stage == mapping.pp - 1:
        rules.append(TensorRule("transformer.ln_f.weight", Kind.PLAIN, (hidden,), (f"{_PREFIX}model.norm.weight",)))
        head = (f"{_PREFIX}lm_head.weight",)
        rules.append(TensorRule("lm_head.weight", Kind.PLAIN, (vocab // mapping.tp, hidden), head, Split.ROWS))
    return rules


def _layer_rules(decoder: DecoderConfig, tp: int, layer: int, out: str, precision: Precision) -> Iterator[TensorRule]:
    source = f"{_PREFIX}model.layers.{layer}."
    hidden, inner, qkv = decoder.hidden_size, decoder.intermediate_size, decoder.qkv_size
    q_k_v = [f"{source}self_attn.{name}_proj." for name in "qkv"]
    gate, up = f"{source}mlp.gate_proj.weight", f"{source}mlp.up_proj.weight"

    def plain(name: str, shape: tuple[int, ...], sources: list[str], split: Split = Split.WHOLE) -> TensorRule:
        return TensorRule(out + name, Kind.PLAIN, shape, tuple(sources), split)

    def scale(name: str, kind: Kind, *amaxes: str) -> TensorRule:
        return TensorRule(out + name, kind, (1,), activation=(layer, amaxes))

    def linear(
        name: str, shape: tuple[int, int], sources: list[str], split: Split, group: GroupKind, scale_of: list[str]
    ) -> Iterator[TensorRule]:
        if not precision.quantizes(LinearGroup(layer, group)):
            yield plain(f"{name}.weight", shape, sources, split)
            return
        common = tuple(scale_of)
        yield TensorRule(f"{out}{name}.weight", Kind.WEIGHT, shape, tuple(sources), split, common)
        yield TensorRule(f"{out}{name}.weights_scaling_factor", Kind.WEIGHT_SCALE, (1,), scale_sources=common)
        yield scale(f"{name}.activation_scaling_factor", Kind.INPUT_SCALE, group.value)

    weights = [part + "weight" for part in q_k_v]
    output, down = [f"{source}self_attn.o_proj.weight"], [f"{source}mlp.down_proj.weight"]
    yield plain("input_layernorm.weight", (hidden,), [f"{source}input_layernorm.weight"])
    yield from linear("attention.qkv", (qkv // tp, hidden), weights, Split.ROWS, GroupKind.QKV, weights)
    yield plain("attention.qkv.bias", (qkv // tp,), [part + "bias" for part in q_k_v], Split.ROWS)
    if precision.kv_cache:
        yield scale("attention.kv_cache_scaling_factor", Kind.CACHE_SCALE, "k_cache", "v_cache")
    yield from linear("attention.dense", (hidden, decoder.q_size // tp), output, Split.COLUMNS, GroupKind.DENSE, output)
    yield plain("post_layernorm.weight", (hidden,), [f"{source}post_attention_layernorm.weight"])
    yield from linear("mlp.fc", (inner // tp, hidden), [gate], Split.ROWS, GroupKind.FC, [gate, up])
    yield from linear("mlp.gate", (inner // tp, hidden), [up], Split.ROWS, GroupKind.FC, [gate, up])
    yield from linear("mlp.proj", (hidden, inner // tp), down, Split.COLUMNS, GroupKind.PROJ, down)


def excluded_modules(decoder: DecoderConfig, mapping: Mapping, precision: Precision) -> list[str] | None:
    """The checkpoint's ``exclude_modules``; None where nothing is quantised.

    Names are spelt out: when the engine's builder fuses fc and gate it looks for fc's full name in this list, and a
    glob, which matches everywhere else, would not be found. Each pipeline stage counts its layers from zero but all
    read this one list, so an exclusion must hold at the same place of every stage.

    Raises ``UsageError`` E-RECIPE-EXCLUDE where it does not.
    """
    if not precision.linears:
        return None
    stages = [stage_layers(decoder, mapping.pp, stage) for stage in range(mapping.pp)]
    local = {
        LinearGroup(group.layer - layers[0], group.kind)
        for group in precision.excluded
        for layers in stages
        if group.layer in layers
    }
    for group in sorted(local, key=lambda group: (group.layer, group.kind.value)):
        for layers in stages:
            struck = LinearGroup(layers[0] + group.layer, group.kind)
            if struck.layer in layers and struck not in precision.excluded:
                raise UsageError(
                    "E-RECIPE-EXCLUDE",
                    f"With pp = {mapping.pp} each stage counts its layers from zero, and excluding "
                    f"{group.modules[0]} in one stage would exclude {struck.modules[0]} as well.",
                    "Exclude it too, or use pp = 1.",
                )
    return exclude_modules(local)


def checkpoint_json(config: NvlmConfig, mapping: Mapping, precision: Precision = Precision()) -> dict[str, Any]:
    """The checkpoint's config.json.

    ``qwen_type`` and ``seq_length`` are read by the model without a default (8192 is what the upstream converter falls
    back to; only logn attention, which is off, looks at it). ``exclude_modules`` is explicit because null means a
    built-in list; without quantisation there is nothing to exclude from.

    Raises ``UsageError`` E-RECIPE-EXCLUDE for exclusions that ``mapping`` does not allow.
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
        "mapping": {
            "world_size": mapping.world_size,
            "gpus_per_node": mapping.gpus_per_node,
            "tp_size": mapping.tp,
            "pp_size": mapping.pp,
        },
        "quantization": {
            "quant_algo": "FP8" if precision.linears else None,
            "kv_cache_quant_algo": "FP8" if precision.kv_cache else None,
            "exclude_modules": excluded_modules(decoder, mapping, precision),
        },
        "producer": {"name": "nvlm-trt", "version": __version__},
    }


def rank_file_name(rank: int) -> str:
    return f"rank{rank}.safetensors"


def engine_file_name(rank: int) -> str:
    return f"rank{rank}.engine"
