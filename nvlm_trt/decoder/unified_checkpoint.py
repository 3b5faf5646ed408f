"""Writes the unified FP8 Hugging Face checkpoint: the whole model, shards and index, documents copied."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.untrusted import read_object
from nvlm_trt.checkpoint.weight_index import INDEX_FILE
from nvlm_trt.decoder.calibration import Calibration
from nvlm_trt.decoder.conversion import ConversionReport, convert
from nvlm_trt.decoder.linear_groups import select_groups
from nvlm_trt.decoder.placement import OutputFile, output_spec
from nvlm_trt.decoder.tensor_rule import TensorRule
from nvlm_trt.decoder.trtllm_format import Precision
from nvlm_trt.decoder.unified_format import (
    QUOTIENT_DTYPES,
    exclude_modules,
    hf_quant_config,
    quantization_config,
    unified_rules,
)

__all__ = ["write_unified_checkpoint"]

CONFIG_FILE = "config.json"
QUANT_FILE = "hf_quant_config.json"
# The size that the release's own shards stay under.
_MAX_SHARD_BYTES = 5_000_000_000
# Loaders of the Hugging Face family refuse a file that does not say which framework wrote it.
_METADATA = {"format": "pt"}
# Everything that a model folder holds beside its weights: tokenizer, preprocessing, remote code, licence.
_DOCUMENT_SUFFIXES = (".json", ".txt", ".model", ".py", ".jinja", ".md")


def write_unified_checkpoint(
    checkpoint: Checkpoint,
    calibration: Calibration,
    out_folder: Path,
    *,
    model_folder: Path | None = None,
    kv_cache: Literal["bf16", "fp8"] = "bf16",
    exclude: Sequence[str] = (),
    max_shard_bytes: int = _MAX_SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Write the model with an FP8 decoder, in one pass over the checkpoint.

    ``model_folder`` holds the release's config.json and tokenizer; without it the checkpoint's own folder does.
    ``exclude`` are the patterns of ``write_trtllm_checkpoint``: TensorRT-LLM's module names. ``config.json`` appears
    last.

    Raises ``UsageError`` E-RECIPE-EXCLUDE, ``CheckpointError`` E-CONFIG-JSON for a ``config.json`` that cannot be read,
    and what ``convert`` raises.
    """
    model_folder = model_folder or checkpoint.root
    excluded_groups = select_groups(exclude, checkpoint.config.decoder.num_layers)
    precision = Precision(kv_cache=kv_cache == "fp8", excluded=excluded_groups)
    config, _ = read_object(model_folder / CONFIG_FILE, "E-CONFIG-JSON")
    shards = list(_shards(checkpoint, unified_rules(checkpoint, precision), max_shard_bytes))
    files = [
        # Loaders of the Hugging Face family refuse a file that does not say which framework wrote it.
        OutputFile(
            out_folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors", rules, metadata={"format": "pt"}
        )
        for number, rules in enumerate(shards, start=1)
    ]
    excluded = exclude_modules(checkpoint, precision)
    documents = {
        **{out_folder / file.name: file.read_bytes() for file in _documents(model_folder)},
        out_folder / INDEX_FILE: _json(_index(checkpoint, files)),
        out_folder / QUANT_FILE: _json(hf_quant_config(excluded, precision)),
        out_folder / CONFIG_FILE: _json(config | {"quantization_config": quantization_config(excluded, precision)}),
    }
    quotient_dtype = QUOTIENT_DTYPES[checkpoint.config.dtype]
    return convert(checkpoint, calibration, files, documents, quotient_dtype=quotient_dtype, progress=progress)


def _shards(checkpoint: Checkpoint, rules: Iterator[TensorRule], max_bytes: int) -> Iterator[list[TensorRule]]:
    shard: list[TensorRule] = []
    filled_bytes = 0
    for rule in rules:
        nbytes = output_spec(checkpoint, rule).nbytes
        if shard and filled_bytes + nbytes > max_bytes:
            yield shard
            shard, filled_bytes = [], 0
        shard.append(rule)
        filled_bytes += nbytes
    yield shard


def _index(checkpoint: Checkpoint, files: Sequence[OutputFile]) -> dict[str, Any]:
    total = sum(output_spec(checkpoint, rule).nbytes for file in files for rule in file.rules)
    shard_of = {rule.name: file.path.name for file in files for rule in file.rules}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(shard_of.items()))}


def _documents(model_folder: Path) -> list[Path]:
    own = {CONFIG_FILE, QUANT_FILE, INDEX_FILE}
    files = [file for file in model_folder.iterdir() if file.suffix in _DOCUMENT_SUFFIXES and file.name not in own]
    return sorted(file for file in files if file.is_file())


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
