"""The unified FP8 Hugging Face checkpoint as data: the form that TensorRT-LLM from 1.3 on and vLLM load directly.

Names, files and the vision half stay as in the release. A quantised linear's weight is e4m3 and gets two neighbours,
0-d float32: ``weight_scale`` and ``input_scale``. Nothing is fused, so q, k and v, gate and up have weight scales of
their own; loaders merge them. What is quantised is listed twice, in ``hf_quant_config.json`` and in ``config.json``'s
``quantization_config``, because some loaders read the one and some the other.

Source: the checkpoints that NVIDIA ModelOpt's ``export_hf_checkpoint`` writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from nvlm_trt import __version__
from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.layout import expected_tensors
from nvlm_trt.decoder.linear_groups import GroupKind, LinearGroup
from nvlm_trt.decoder.tensor_rule import Kind, TensorRule
from nvlm_trt.decoder.trtllm_format import Precision

__all__ = ["QUOTIENT_DTYPES", "exclude_modules", "hf_quant_config", "quantization_config", "unified_rules"]

# This form's quantiser divides in the model's dtype: the quotient is rounded to it before it becomes e4m3.
QUOTIENT_DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}

_PREFIX = "language_model."
_LINEAR = re.compile(r"language_model\.model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)_proj\.weight")
_GROUPS = {
    **dict.fromkeys("qkv", GroupKind.QKV),
    "o": GroupKind.DENSE,
    **dict.fromkeys(("gate", "up"), GroupKind.FC),
    "down": GroupKind.PROJ,
}
# What enters the KV cache comes out of these two.
_CACHED = {"k": "k_scale", "v": "v_scale"}
# Loaders match these names in three ways: as globs, as whole names, and as parts of a name. So each prefix stands
# with and without its star.
_NEVER_QUANTIZED = (
    *("language_model.lm_head", "language_model.model.embed_tokens"),
    *("mlp1", "mlp1*", "vision_model", "vision_model*"),
)


def unified_rules(checkpoint: Checkpoint, precision: Precision) -> Iterator[TensorRule]:
    """Every tensor of the checkpoint in the release's order, each linear followed by its scales."""
    for name in expected_tensors(checkpoint.config):
        shape = checkpoint.info(name).shape
        found = _LINEAR.fullmatch(name)
        if found is None:
            kind = Kind.PLAIN if name.startswith(_PREFIX) else Kind.STORED
            yield TensorRule(name, kind, shape, (name,))
            continue
        module, layer, part = name.removesuffix(".weight"), int(found[1]), found[2]
        group = LinearGroup(layer, _GROUPS[part])
        if precision.quantizes(group):
            yield TensorRule(name, Kind.WEIGHT, shape, (name,), scale_sources=(name,))
            yield TensorRule(f"{module}.weight_scale", Kind.WEIGHT_SCALE, (), scale_sources=(name,))
            yield TensorRule(f"{module}.input_scale", Kind.INPUT_SCALE, (), activation=(layer, (group.kind.value,)))
        else:
            yield TensorRule(name, Kind.PLAIN, shape, (name,))
        if precision.kv_cache and part in _CACHED:
            cached = (layer, ("k_cache", "v_cache"))
            yield TensorRule(f"{module}.{_CACHED[part]}", Kind.CACHE_SCALE, (), activation=cached)


def exclude_modules(checkpoint: Checkpoint, precision: Precision) -> list[str]:
    """What is not quantised, as loaders match it: the linears that ``precision`` excludes one by one, sorted."""
    linears = [(name, found) for name in checkpoint.names() if (found := _LINEAR.fullmatch(name))]
    return sorted(
        [
            *_NEVER_QUANTIZED,
            *(
                name.removesuffix(".weight")
                for name, found in linears
                if not precision.quantizes(LinearGroup(int(found[1]), _GROUPS[found[2]]))
            ),
        ]
    )


def hf_quant_config(excluded: list[str], precision: Precision) -> dict[str, Any]:
    """``hf_quant_config.json``."""
    return {
        "producer": _producer(),
        "quantization": {
            "quant_algo": "FP8",
            "kv_cache_quant_algo": "FP8" if precision.kv_cache else None,
            "exclude_modules": excluded,
        },
    }


def quantization_config(excluded: list[str], precision: Precision) -> dict[str, Any]:
    """The key of that name in ``config.json``."""
    eight_bits = {"dynamic": False, "num_bits": 8, "type": "float"}
    group: Mapping[str, Any] = {"input_activations": eight_bits, "weights": eight_bits, "targets": ["Linear"]}
    config = {
        "config_groups": {"group_0": group},
        "ignore": excluded,
        "quant_algo": "FP8",
        "quant_method": "modelopt",
        "producer": _producer(),
    }
    return config | ({"kv_cache_scheme": eight_bits} if precision.kv_cache else {})


def _producer() -> dict[str, str]:
    return {"name": "nvlm-trt", "version": __version__}
