"""The reference itself, against transformers' Qwen2 over the same restored weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from nvlm_trt.reference.decoder import ReferenceDecoder
from tests.embedded.decoder_folder import CONFIG, picture_prompt, write_decoder_folder
from tests.torch_threads import one_torch_thread


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_decoder_folder(tmp_path_factory.mktemp("decoder"), seed=5)


def transformers_twin(folder):
    config = Qwen2Config(
        vocab_size=CONFIG["vocab_size"],
        hidden_size=CONFIG["hidden_size"],
        intermediate_size=CONFIG["intermediate_size"],
        num_hidden_layers=CONFIG["num_hidden_layers"],
        num_attention_heads=CONFIG["num_attention_heads"],
        num_key_value_heads=CONFIG["num_key_value_heads"],
        rms_norm_eps=CONFIG["norm_epsilon"],
        rope_theta=CONFIG["rotary_base"],
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    stored = load_file(folder / "rank0.safetensors")
    q_size = CONFIG["num_attention_heads"] * CONFIG["head_size"]
    kv_size = CONFIG["num_key_value_heads"] * CONFIG["head_size"]
    weights = {
        "model.embed_tokens.weight": stored["transformer.vocab_embedding.weight"],
        "model.norm.weight": stored["transformer.ln_f.weight"],
        "lm_head.weight": stored["lm_head.weight"],
    }
    linears = {
        "attention.dense": "self_attn.o_proj",
        "mlp.fc": "mlp.gate_proj",
        "mlp.gate": "mlp.up_proj",
        "mlp.proj": "mlp.down_proj",
    }
    for index in range(CONFIG["num_hidden_layers"]):
        source, target = f"transformer.layers.{index}.", f"model.layers.{index}."

        def restored(name, source=source):
            return stored[f"{source}{name}.weight"].float() * stored[f"{source}{name}.weights_scaling_factor"]

        for theirs, ours in linears.items():
            weights[f"{target}{ours}.weight"] = restored(theirs)
        sizes = [q_size, kv_size, kv_size]
        for part, weight in zip("qkv", restored("attention.qkv").split(sizes), strict=True):
            weights[f"{target}self_attn.{part}_proj.weight"] = weight
        for part, bias in zip("qkv", stored[f"{source}attention.qkv.bias"].split(sizes), strict=True):
            weights[f"{target}self_attn.{part}_proj.bias"] = bias
        weights[f"{target}input_layernorm.weight"] = stored[f"{source}input_layernorm.weight"]
        weights[f"{target}post_attention_layernorm.weight"] = stored[f"{source}post_layernorm.weight"]
    model = Qwen2ForCausalLM(config).eval()
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    return model


@torch.inference_mode()
def test_it_is_qwen2(folder):
    reference, twin = ReferenceDecoder(folder, quantize_activations=False), transformers_twin(folder)
    ids, table = picture_prompt(0, 20, 12, CONFIG["vocab_size"], CONFIG["hidden_size"])
    rows = torch.cat([twin.model.embed_tokens.weight, torch.from_numpy(table)])[torch.from_numpy(ids).long()]
    expected = twin(inputs_embeds=rows[None]).logits[0]
    logits = reference.logits(ids.tolist(), torch.from_numpy(table))
    assert (logits - expected).abs().max() < 1e-5 * expected.std()


def test_float64_agrees_with_float32(folder):
    ids = list(range(30))
    narrow, wide = (ReferenceDecoder(folder, False, dtype).logits(ids) for dtype in (torch.float32, torch.float64))
    assert (narrow - wide).abs().max() < 1e-5 * wide.std()


def test_quantised_activations_differ_a_little(folder):
    ids = list(range(30))
    exact, rounded = (ReferenceDecoder(folder, quantize).logits(ids) for quantize in (False, True))
    assert 0.001 < (exact - rounded).std() / exact.std() < 0.3


def test_generation_is_greedy_and_stops_at_the_end_id(folder):
    reference = ReferenceDecoder(folder)
    tokens = reference.generate([1, 2, 3], 6)
    assert tokens[0] == int(reference.logits([1, 2, 3])[-1].argmax())
    assert tokens[3] == int(reference.logits([1, 2, 3, *tokens[:3]])[-1].argmax())
    assert reference.generate([1, 2, 3], 6, end_id=tokens[2]) == tokens[: tokens.index(tokens[2])]
