"""Writes a synthetic checkpoint's folder: beside its place, then renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nvlm_trt.checkpoint.disk import sync_folder, writing
from nvlm_trt.checkpoint.layout import expected_tensors
from nvlm_trt.checkpoint.safetensors_writer import write_safetensors
from nvlm_trt.checkpoint.synthetic.config_json import config_json, preprocessor_json
from nvlm_trt.checkpoint.synthetic.size import CheckpointSize
from nvlm_trt.checkpoint.synthetic.tokenizer_files import ADDED_TOKENS, tokenizer_files
from nvlm_trt.checkpoint.synthetic.values import tensor_pieces
from nvlm_trt.checkpoint.tensor_spec import TensorSpec
from nvlm_trt.checkpoint.weight_index import INDEX_FILE
from nvlm_trt.errors import UsageError
from nvlm_trt.model.config import NvlmConfig

__all__ = ["split_into_shards", "write_checkpoint", "write_checkpoint_of"]

# A tensor's values: whole, or flat pieces in C order; in the dtype that the spec names.
Values = Callable[[TensorSpec, NvlmConfig], "NDArray[Any] | Iterator[NDArray[Any]]"]


def write_checkpoint(folder: str | Path, size: CheckpointSize, seed: int = 0, num_shards: int = 5) -> None:
    """Write a random checkpoint; the same arguments give the same bytes, and memory does not grow with ``size``.

    Raises as ``write_checkpoint_of`` does.
    """
    write_checkpoint_of(folder, size, lambda spec, config: tensor_pieces(spec, config, seed), num_shards)


def write_checkpoint_of(folder: str | Path, size: CheckpointSize, values: Values, num_shards: int = 1) -> None:
    """Write a checkpoint with ``values``, called once for each tensor.

    Raises ``UsageError`` E-USAGE-OUT where ``folder`` holds something, E-USAGE-SIZE for more tokens than rows or more
    shards than tensors, ``CheckpointError`` E-CONFIG-VALUE for sizes that contradict each other, ``BuildError``
    E-BUILD-SPACE where the disk is full, E-BUILD-WRITE where it may not be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("E-USAGE-OUT", f"{folder.name} already holds something.", "Name a new or an empty folder.")
    if size.vocab_size < size.base_vocab + len(ADDED_TOKENS):
        raise UsageError(
            "E-USAGE-SIZE", f"vocab_size is {size.vocab_size}; {size.base_vocab + len(ADDED_TOKENS)} tokens need rows."
        )
    config_data = config_json(size)
    config = NvlmConfig.from_json(config_data)
    texts = {
        **tokenizer_files(size.base_vocab),
        "config.json": _json(config_data),
        "preprocessor_config.json": _json(preprocessor_json(size)),
    }
    shards = split_into_shards(list(expected_tensors(config).values()), num_shards)

    staging = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)  # what a killed run left
    try:
        with writing(folder.name):
            staging.mkdir(parents=True)
        texts[INDEX_FILE] = _json(_write_shards(staging, shards, config, values))
        with writing(folder.name):
            for name, text in texts.items():
                _write_text(staging / name, text)
            sync_folder(staging)
            staging.replace(folder)
            sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def split_into_shards(specs: Sequence[TensorSpec], num_shards: int) -> list[list[TensorSpec]]:
    """Exactly ``num_shards`` runs of ``specs`` in order, the largest as small as it can be."""
    if not 1 <= num_shards <= len(specs):
        raise UsageError("E-USAGE-SIZE", f"shards is {num_shards}; 1 to {len(specs)} are possible.")
    low, high = max(spec.nbytes for spec in specs), sum(spec.nbytes for spec in specs)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_fill(specs, middle)) <= num_shards else (middle + 1, high)
    return _fill(specs, low, at_least=num_shards)


def _fill(specs: Sequence[TensorSpec], limit_bytes: int, at_least: int = 1) -> list[list[TensorSpec]]:
    """Fill shard after shard up to the limit; towards the end open new ones early where too few would come out."""
    shards: list[list[TensorSpec]] = [[]]
    filled_bytes = 0
    for index, spec in enumerate(specs):
        forced = len(specs) - index <= at_least - len(shards)
        if shards[-1] and (forced or filled_bytes + spec.nbytes > limit_bytes):
            shards.append([])
            filled_bytes = 0
        shards[-1].append(spec)
        filled_bytes += spec.nbytes
    return shards


def _write_shards(
    folder: Path, shards: Sequence[Sequence[TensorSpec]], config: NvlmConfig, values: Values
) -> dict[str, Any]:
    """Returns the index."""
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        by_name = {spec.name: spec for spec in shard}
        write_safetensors(
            folder / file_name,
            shard,
            lambda name, by_name=by_name: values(by_name[name], config),  # type: ignore[misc]
            # Loaders of the Hugging Face family refuse a file that does not say which framework wrote it.
            {"format": "pt"},
        )
        weight_map |= dict.fromkeys(by_name, file_name)
    total = sum(spec.nbytes for shard in shards for spec in shard)
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
