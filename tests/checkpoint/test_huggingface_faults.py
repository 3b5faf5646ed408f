"""Hugging Face checkpoints that are broken: each is refused, and its fault named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.checkpoint.safetensors_file import SafetensorsFile
from nvlm_trt.errors import CheckpointError
from tests.checkpoint.spoiling import (
    BIAS,
    FIRST,
    INDEX,
    LAST,
    Spoil,
    change_json,
    change_shard,
    overwrite,
    spoil_config,
    spoil_first,
    spoil_index,
)


def point_at(file_name: str) -> Spoil:
    return lambda folder: change_json(folder / INDEX, lambda index: index["weight_map"].update({BIAS: file_name}))


def remove(file_name: str) -> Spoil:
    return lambda folder: (folder / file_name).unlink()


def link_out(folder: Path) -> None:
    shutil.move(folder / FIRST, folder.parent / "elsewhere.safetensors")
    (folder / FIRST).symlink_to("../elsewhere.safetensors")


def link_in_a_circle(folder: Path) -> None:
    (folder / FIRST).unlink()
    (folder / FIRST).symlink_to(FIRST)


def link_folder_out(folder: Path) -> None:
    (folder / "inner.safetensors").symlink_to("..", target_is_directory=True)
    point_at("inner.safetensors/model/" + FIRST)(folder)


def index_twice(folder: Path) -> None:
    text = (folder / INDEX).read_text()
    (folder / INDEX).write_text(text.replace(f'"{BIAS}":', f'"{BIAS}": "{LAST}", "{BIAS}":'))


def both_forms(folder: Path) -> None:
    shutil.copy(folder / FIRST, folder / "model.safetensors")


def no_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def single_with_too_few(folder: Path) -> None:
    (folder / INDEX).unlink()
    (folder / FIRST).rename(folder / "model.safetensors")


def in_two_shards(folder: Path) -> None:
    bias = SafetensorsFile(folder / FIRST).read(BIAS).copy()
    change_shard(folder / LAST, lambda arrays: arrays.update({BIAS: bias}))


def swapped_shards(folder: Path) -> None:
    (folder / FIRST).rename(folder / "x")
    (folder / LAST).rename(folder / FIRST)
    (folder / "x").rename(folder / LAST)


def with_dtype(dtype: Any) -> Spoil:
    return spoil_first(lambda arrays: arrays.update({BIAS: arrays[BIAS].astype(dtype)}))


def quantise(folder: Path) -> None:
    spoil_index(lambda index: index.pop("metadata"))(folder)
    with_dtype(ml_dtypes.float8_e4m3fn)(folder)


def truncate(folder: Path) -> None:
    content = (folder / FIRST).read_bytes()
    (folder / FIRST).write_bytes(content[:-1])


# What is wrong: how it comes about, the code, and what the error must say.
FAULTS: dict[str, tuple[Spoil, str, str]] = {
    "no config": (remove("config.json"), "E-CKPT-LAYOUT", "or config.json (Hugging Face)"),
    "config is not JSON": (overwrite("config.json", b"{"), "E-CONFIG-JSON", "config.json is not JSON"),
    "config is a list": (overwrite("config.json", b"[]"), "E-CONFIG-JSON", "not a JSON object"),
    "config gives a key twice": (overwrite("config.json", b'{"a":1,"a":2}'), "E-CONFIG-JSON", "gives a twice"),
    "config of 65 MiB": (overwrite("config.json", b" " * (65 << 20)), "E-CONFIG-JSON", "more than 67108864 bytes"),
    "config is empty": (overwrite("config.json", b"{}"), "E-CONFIG-KEY", "architectures is missing"),
    "another model": (
        spoil_config(lambda config: config.update(architectures=["InternVLChatModel"])),
        "E-CONFIG-ARCH",
        "InternVLChatModel, not NVLM_D",
    ),
    "another decoder": (
        spoil_config(lambda config: config["llm_config"].update(architectures=["LlamaForCausalLM"])),
        "E-CONFIG-ARCH",
        "LlamaForCausalLM, not Qwen2ForCausalLM",
    ),
    "no weights": (no_index, "E-CKPT-SHARD", "neither model.safetensors.index.json nor model.safetensors"),
    "index is not JSON": (overwrite(INDEX, b"\xff"), "E-CKPT-INDEX", "is not JSON"),
    "index without a map": (spoil_index(lambda index: index.pop("weight_map")), "E-CKPT-INDEX", "weight_map"),
    "index of numbers": (spoil_index(lambda index: index.update(weight_map={BIAS: 1})), "E-CKPT-INDEX", "weight_map"),
    "index and single file": (both_forms, "E-CKPT-INDEX", "both there"),
    "index to the folder above": (point_at("../" + FIRST), "E-CKPT-INDEX", "points at ../model-00001"),
    "index to an absolute path": (point_at("/etc/x.safetensors"), "E-CKPT-INDEX", "points at /etc/x.safetensors"),
    "index to another drive": (point_at("C:\\x.safetensors"), "E-CKPT-INDEX", "points at"),
    "index to a null byte": (point_at("x\0.safetensors"), "E-CKPT-INDEX", "points at"),
    "index to half a surrogate": (point_at("\ud800.safetensors"), "E-CKPT-INDEX", r"points at \ud800.safetensors"),
    "index to a very long name": (point_at("x" * 300 + ".safetensors"), "E-CKPT-INDEX", "points at"),
    "index to another kind of file": (point_at("config.json"), "E-CKPT-INDEX", "points at config.json"),
    "index to nothing": (point_at(""), "E-CKPT-INDEX", "points at ;"),
    "index to a hidden file": (point_at(".safetensors"), "E-CKPT-INDEX", "points at .safetensors"),
    "link out of the folder": (link_out, "E-CKPT-INDEX", "leads out of the checkpoint"),
    "link through a folder": (link_folder_out, "E-CKPT-INDEX", "points at inner.safetensors/model"),
    "link in a circle": (link_in_a_circle, "E-CKPT-", FIRST),
    "index names a tensor twice": (index_twice, "E-CKPT-INDEX", f"gives {BIAS} twice"),
    "index promises other bytes": (
        spoil_index(lambda index: index["metadata"].update(total_size=1)),
        "E-CKPT-INDEX",
        "promises 1 bytes of weights, the shards hold 15319232",
    ),
    "index promises text": (
        spoil_index(lambda index: index["metadata"].update(total_size="1")),
        "E-CKPT-INDEX",
        "total_size is 1, not a whole number",
    ),
    "missing shard": (remove(FIRST), "E-CKPT-SHARD", f"{FIRST} is missing"),
    "cut shard": (truncate, "E-CKPT-HEADER", f"{FIRST} cannot be read"),
    "empty shard": (overwrite(FIRST, b""), "E-CKPT-HEADER", "has 0 bytes"),
    "shards swapped": (swapped_shards, "E-CKPT-TENSOR", "the index says"),
    "index lacks a tensor": (
        spoil_index(lambda index: index["weight_map"].pop(BIAS)),
        "E-CKPT-TENSOR",
        f"1 of 111 tensors are missing, the first is {BIAS}",
    ),
    "index has one more": (
        spoil_index(lambda index: index["weight_map"].update({"vision_model.extra": FIRST})),
        "E-CKPT-TENSOR",
        "1 tensors have no place in this model, the first is vision_model.extra",
    ),
    "single file with too few": (single_with_too_few, "E-CKPT-TENSOR", "of 111 tensors are missing"),
    "shard lacks a tensor": (
        spoil_first(lambda arrays: arrays.pop(BIAS)),
        "E-CKPT-TENSOR",
        f"{FIRST} does not hold {BIAS}",
    ),
    "shard has one more": (
        spoil_first(lambda arrays: arrays.update(extra=np.zeros(1, np.float32))),
        "E-CKPT-TENSOR",
        f"{FIRST} holds extra, which the index does not name",
    ),
    "tensor in two shards": (in_two_shards, "E-CKPT-TENSOR", f"{BIAS} lies in 2 shards"),
    "config with more layers": (
        spoil_config(lambda config: config["llm_config"].update(num_hidden_layers=5)),
        "E-CKPT-TENSOR",
        "12 of 123 tensors are missing",
    ),
    "config with fewer layers": (
        spoil_config(lambda config: config["llm_config"].update(num_hidden_layers=3)),
        "E-CKPT-TENSOR",
        "12 tensors have no place",
    ),
    "wrong shape": (
        spoil_first(lambda arrays: arrays.update({BIAS: arrays[BIAS].reshape(2, -1)})),
        "E-CKPT-SHAPE",
        f"{BIAS} has shape [2, 320]; config.json asks for [640]",
    ),
    "config of another width": (
        spoil_config(lambda config: config["llm_config"].update(vocab_size=4096)),
        "E-CKPT-SHAPE",
        "has shape [2048, 256]; config.json asks for [4096, 256]",
    ),
    "integers": (with_dtype(np.int16), "E-CKPT-DTYPE", f"{BIAS} has dtype I16"),
    "quantised": (
        quantise,
        "E-CKPT-DTYPE",
        "F8_E4M3; BF16, F32, F16 can be read",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_checkpoint_is_named(folder: Path, fault: str):
    spoil, code, said = FAULTS[fault]
    spoil(folder)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    assert caught.value.code.startswith(code)
    assert said in caught.value.what
    assert str(folder.parent) not in str(caught.value)
