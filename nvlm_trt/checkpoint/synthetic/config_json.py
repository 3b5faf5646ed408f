"""The ``config.json`` and ``preprocessor_config.json`` of a synthetic checkpoint, with the release's keys and habits.

Two habits are kept on purpose, because readers must survive them: ``llm_config.model_type`` says "llama" although the
decoder is Qwen2, and ``rope_scaling`` asks for a scaling that the reference stack does not apply.
"""

from __future__ import annotations

from typing import Any

from nvlm_trt.checkpoint.synthetic.size import CheckpointSize
from nvlm_trt.checkpoint.synthetic.tokenizer_files import added_token_ids

__all__ = ["config_json", "preprocessor_json"]


def config_json(size: CheckpointSize) -> dict[str, Any]:
    return {
        "architectures": ["NVLM_D"],
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": size.image_size,
        "llm_config": _llm_config(size),
        "max_dynamic_patch": size.max_tiles,
        "min_dynamic_patch": 1,
        "model_type": "NVLM_D",
        "ps_version": "v2",
        "select_layer": -1,
        "template": "chatml",
        "torch_dtype": "bfloat16",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "vision_config": _vision_config(size),
    }


def _llm_config(size: CheckpointSize) -> dict[str, Any]:
    ids = added_token_ids(size.base_vocab)
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "bos_token_id": ids["<|endoftext|>"],
        "do_sample": False,
        "eos_token_id": ids["<|im_end|>"],
        "hidden_act": "silu",
        "hidden_size": size.hidden_size,
        "intermediate_size": size.intermediate_size,
        "max_position_embeddings": size.max_positions,
        "model_type": "llama",
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": size.kv_heads,
        "pad_token_id": None,
        "repetition_penalty": 1.0,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"factor": 3.0, "type": "dynamic"},
        "rope_theta": 1000000.0,
        "temperature": 1.0,
        "tie_word_embeddings": False,
        "top_k": 1,
        "top_p": 0,
        "torch_dtype": "bfloat16",
        "vocab_size": size.vocab_size,
    }


def _vision_config(size: CheckpointSize) -> dict[str, Any]:
    return {
        "architectures": ["InternVisionModel"],
        "attention_dropout": 0.0,
        "drop_path_rate": 0.0,
        "dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": size.vision_hidden_size,
        "image_size": size.image_size,
        "initializer_factor": 0.1,
        "intermediate_size": size.vision_intermediate_size,
        "layer_norm_eps": 1e-06,
        "model_type": "intern_vit_6b",
        "norm_type": "rms_norm",
        "num_attention_heads": size.vision_heads,
        "num_channels": 3,
        "num_dummy_attention_heads": size.vision_dummy_heads,
        "num_hidden_layers": size.vision_layers,
        "patch_size": size.patch_size,
        "qk_normalization": True,
        "qkv_bias": False,
        "torch_dtype": "bfloat16",
    }


def preprocessor_json(size: CheckpointSize) -> dict[str, Any]:
    """In CLIP's form; the release carries it and its chat path does not read it. Mean and std are ImageNet's."""
    return {
        "crop_size": size.image_size,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "size": size.image_size,
    }
