"""Which of Megatron-Core's tensors make which of the release's: names, stages and rules.

Vision tower, projector and embedding lie in the first pipeline stage, the final norm and the output layer in the last;
each stage numbers its layers from zero. The norms before the decoder's linears, and before the projector, are stored
inside the linear they are fused with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nvlm_trt.checkpoint.megatron.rule import Rule
from nvlm_trt.model.config import NvlmConfig

__all__ = ["DECODER_LAYER", "Source", "sources"]

DECODER_LAYER = "language_model.decoder.layers."


@dataclass(frozen=True, slots=True)
class Source:
    """``name`` is Megatron-Core's, in the files of pipeline stage ``stage``."""

    name: str
    stage: int
    rule: Rule


def sources(config: NvlmConfig, layers_per_stage: Sequence[int]) -> dict[str, Source]:
    """The release's name to its source. ``layers_per_stage`` counts the decoder's layers."""
    found: dict[str, Source] = {}
    found.update((hf, Source(name, 0, rule)) for hf, name, rule in _first_stage(config))
    layer = 0
    for stage, count in enumerate(layers_per_stage):
        for local in range(count):
            here = f"language_model.model.layers.{layer}.", f"{DECODER_LAYER}{local}."
            found.update(
                (here[0] + hf, Source(here[1] + name, stage, rule)) for hf, name, rule in _decoder_layer(config)
            )
            layer += 1
    last = len(layers_per_stage) - 1
    found.update((hf, Source(name, last, rule)) for hf, name, rule in _last_stage(config))
    return found


_Entry = tuple[str, str, Rule]


def _first_stage(config: NvlmConfig) -> Iterator[_Entry]:
    vision, decoder = config.vision, config.decoder
    hidden, shuffled, inner = vision.hidden_size, vision.shuffled_width, vision.projector_hidden_size
    fc1, fc2 = "vision_projection.encoder.linear_fc1", "vision_projection.encoder.linear_fc2"
    yield "mlp1.0.weight", f"{fc1}.layer_norm_weight", Rule.replicated((shuffled,))
    yield "mlp1.0.bias", f"{fc1}.layer_norm_bias", Rule.replicated((shuffled,))
    yield "mlp1.1.weight", f"{fc1}.weight", Rule.along(0, (inner, shuffled))
    yield "mlp1.3.weight", f"{fc2}.weight", Rule.along(1, (vision.output_size, inner))

    embedding = "language_model.embedding.word_embeddings.weight"
    rows = (decoder.vocab_size, decoder.hidden_size)
    yield "language_model.model.embed_tokens.weight", embedding, Rule.vocabulary(rows)

    hf = "vision_model.embeddings."
    patch = (hidden, 3, vision.patch_size, vision.patch_size)
    yield f"{hf}class_embedding", "vision_model.class_token", Rule.replicated((1, 1, hidden))
    yield f"{hf}patch_embedding.weight", "vision_model.conv1.weight", Rule.replicated(patch)
    yield f"{hf}patch_embedding.bias", "vision_model.conv1.bias", Rule.replicated((hidden,))
    # The release's has a leading axis of one.
    positions = Rule.replicated((vision.num_positions, hidden))
    yield f"{hf}position_embedding", "vision_model.position_embeddings.weight", positions
    for layer in range(vision.num_layers):
        for name, megatron, rule in _vision_layer(config):
            yield f"vision_model.encoder.layers.{layer}.{name}", f"vision_model.decoder.layers.{layer}.{megatron}", rule


def _vision_layer(config: NvlmConfig) -> Iterator[_Entry]:
    vision = config.vision
    hidden, inner, padded, head_dim = vision.hidden_size, vision.intermediate_size, vision.padded_width, vision.head_dim
    heads = (vision.num_heads, vision.num_heads + vision.num_dummy_heads)
    qkv = Rule.vision_heads(0, (3, head_dim), *heads, (3 * padded, hidden))
    qk_norm = Rule.vision_heads(0, (head_dim,), *heads, (padded,))
    projection = Rule.vision_heads(1, (head_dim,), *heads, (hidden, padded))
    vector = Rule.replicated((hidden,))
    yield "norm1.weight", "input_layernorm.weight", vector
    yield "attn.qkv.weight", "self_attention.linear_qkv.weight", qkv
    yield "attn.q_norm.weight", "self_attention.q_layernorm.weight", qk_norm
    yield "attn.k_norm.weight", "self_attention.k_layernorm.weight", qk_norm
    yield "attn.proj.weight", "self_attention.linear_proj.weight", projection
    yield "attn.proj.bias", "self_attention.linear_proj.bias", vector
    yield "ls1", "ls1", vector
    yield "norm2.weight", "pre_mlp_layernorm.weight", vector
    yield "mlp.fc1.weight", "mlp.linear_fc1.weight", Rule.along(0, (inner, hidden))
    yield "mlp.fc1.bias", "mlp.linear_fc1.bias", Rule.along(0, (inner,))
    yield "mlp.fc2.weight", "mlp.linear_fc2.weight", Rule.along(1, (hidden, inner))
    yield "mlp.fc2.bias", "mlp.linear_fc2.bias", vector
    yield "ls2", "ls2", vector


def _decoder_layer(config: NvlmConfig) -> Iterator[_Entry]:
    decoder = config.decoder
    hidden, inner = decoder.hidden_size, decoder.intermediate_size
    queries = decoder.num_heads // decoder.num_kv_heads
    qkv, fc1 = "self_attention.linear_qkv", "mlp.linear_fc1"
    yield "input_layernorm.weight", f"{qkv}.layer_norm_weight", Rule.replicated((hidden,))
    for part, slots in (
        ("q", slice(0, queries)),
        ("k", slice(queries, queries + 1)),
        ("v", slice(queries + 1, queries + 2)),
    ):
        for kind, whole in (("weight", (decoder.qkv_size, hidden)), ("bias", (decoder.qkv_size,))):
            rule = Rule.kv_group(slots, queries + 2, decoder.head_dim, whole)
            yield f"self_attn.{part}_proj.{kind}", f"{qkv}.{kind}", rule
    yield "self_attn.o_proj.weight", "self_attention.linear_proj.weight", Rule.along(1, (hidden, decoder.q_size))
    yield "post_attention_layernorm.weight", f"{fc1}.layer_norm_weight", Rule.replicated((hidden,))
    for index, part in enumerate(("gate", "up")):
        yield f"mlp.{part}_proj.weight", f"{fc1}.weight", Rule.half(index, (2 * inner, hidden))
    yield "mlp.down_proj.weight", "mlp.linear_fc2.weight", Rule.along(1, (hidden, inner))


def _last_stage(config: NvlmConfig) -> Iterator[_Entry]:
    decoder = config.decoder
    rows = (decoder.vocab_size, decoder.hidden_size)
    norm = "language_model.decoder.final_layernorm.weight"
    yield "language_model.model.norm.weight", norm, Rule.replicated((decoder.hidden_size,))
    yield "language_model.lm_head.weight", "language_model.output_layer.weight", Rule.vocabulary(rows)
