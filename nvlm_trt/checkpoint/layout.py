"""Every tensor of an NVLM-D checkpoint: name, dtype and shape, from the config alone.

The order is the release's own from shard to shard: projector and embedding, decoder layers, head, vision embeddings,
vision layers. The release mixes dtypes: what its converter re-packed (the decoder's q, k and v, the vision tower's
attention) was left in fp32, everything else is bf16. The vision tower's attention is stored padded by dummy heads.
"""

from __future__ import annotations

from collections.abc import Iterator

from nvlm_trt.checkpoint.tensor_spec import TensorSpec
from nvlm_trt.model.config import NvlmConfig

__all__ = ["expected_tensors"]

_Entry = tuple[str, str, tuple[int, ...]]


def expected_tensors(config: NvlmConfig) -> dict[str, TensorSpec]:
    """Name to spec in the release's order; 1556 tensors, 176,901,927,168 bytes for NVLM-D-72B."""
    parts = (_projector, _decoder, _vision)
    return {name: TensorSpec(name, dtype, shape) for part in parts for name, dtype, shape in part(config)}


def _projector(config: NvlmConfig) -> Iterator[_Entry]:
    vision = config.vision
    yield "mlp1.0.weight", "BF16", (vision.shuffled_width,)
    yield "mlp1.0.bias", "BF16", (vision.shuffled_width,)
    yield "mlp1.1.weight", "BF16", (vision.projector_hidden_size, vision.shuffled_width)
    yield "mlp1.3.weight", "BF16", (vision.output_size, vision.projector_hidden_size)


def _decoder(config: NvlmConfig) -> Iterator[_Entry]:
    decoder = config.decoder
    hidden, inner = decoder.hidden_size, decoder.intermediate_size
    yield "language_model.model.embed_tokens.weight", "BF16", (decoder.vocab_size, hidden)
    for index in range(decoder.num_layers):
        layer = f"language_model.model.layers.{index}"
        for part, rows in (("q", decoder.q_size), ("k", decoder.kv_size), ("v", decoder.kv_size)):
            yield f"{layer}.self_attn.{part}_proj.weight", "F32", (rows, hidden)
            yield f"{layer}.self_attn.{part}_proj.bias", "F32", (rows,)
        yield f"{layer}.self_attn.o_proj.weight", "BF16", (hidden, decoder.q_size)
        yield f"{layer}.mlp.gate_proj.weight", "BF16", (inner, hidden)
        yield f"{layer}.mlp.up_proj.weight", "BF16", (inner, hidden)
        yield f"{layer}.mlp.down_proj.weight", "BF16", (hidden, inner)
        yield f"{layer}.input_layernorm.weight", "BF16", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", "BF16", (hidden,)
    yield "language_model.model.norm.weight", "BF16", (hidden,)
    yield "language_model.lm_head.weight", "BF16", (decoder.vocab_size, hidden)


def _vision(config: NvlmConfig) -> Iterator[_Entry]:
    vision = config.vision
    hidden, inner, padded = vision.hidden_size, vision.intermediate_size, vision.padded_width
    yield "vision_model.embeddings.class_embedding", "BF16", (1, 1, hidden)
    yield "vision_model.embeddings.patch_embedding.weight", "BF16", (hidden, 3, vision.patch_size, vision.patch_size)
    yield "vision_model.embeddings.patch_embedding.bias", "BF16", (hidden,)
    yield "vision_model.embeddings.position_embedding", "BF16", (1, vision.num_positions, hidden)
    for index in range(vision.num_layers):
        layer = f"vision_model.encoder.layers.{index}"
        yield f"{layer}.attn.qkv.weight", "F32", (3 * padded, hidden)
        yield f"{layer}.attn.q_norm.weight", "F32", (padded,)
        yield f"{layer}.attn.k_norm.weight", "F32", (padded,)
        yield f"{layer}.attn.proj.weight", "F32", (hidden, padded)
        yield f"{layer}.attn.proj.bias", "BF16", (hidden,)
        yield f"{layer}.mlp.fc1.weight", "BF16", (inner, hidden)
        yield f"{layer}.mlp.fc1.bias", "BF16", (inner,)
        yield f"{layer}.mlp.fc2.weight", "BF16", (hidden, inner)
        yield f"{layer}.mlp.fc2.bias", "BF16", (hidden,)
        for vector in ("norm1.weight", "norm2.weight", "ls1", "ls2"):
            yield f"{layer}.{vector}", "BF16", (hidden,)
