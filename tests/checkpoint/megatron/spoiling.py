"""A Megatron checkpoint to be spoiled, and ways to do it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nvlm_trt.checkpoint.registry import open_checkpoint
from tests.checkpoint.megatron_writer import State, rank_folder, rank_states, save_rank

__all__ = [
    "FC2",
    "ITERATION",
    "NORM",
    "QKV",
    "TRACKER",
    "VISION_QKV",
    "WORDS",
    "Spoil",
    "both",
    "config",
    "copy",
    "move",
    "overwrite",
    "remove",
    "saved",
    "tensors",
]

TRACKER = "latest_checkpointed_iteration.txt"
ITERATION = "iter_0031500"
NORM = "language_model.model.layers.1.input_layernorm.weight"
FC2 = "language_model.decoder.layers.0.mlp.linear_fc2.weight"
QKV = "language_model.decoder.layers.0.self_attention.linear_qkv.weight"
VISION_QKV = "vision_model.decoder.layers.0.self_attention.linear_qkv.weight"
WORDS = "language_model.embedding.word_embeddings.weight"


Spoil = Callable[[Path], object]


def config(change: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        data = json.loads((folder / "config.json").read_text())
        change(data)
        (folder / "config.json").write_text(json.dumps(data))

    return spoil


def overwrite(name: str, content: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content)


def remove(name: str) -> Spoil:
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def copy(source: str, target: str) -> Spoil:
    return lambda folder: shutil.copytree(folder / source, folder / target)


def move(source: str, target: str) -> Spoil:
    return lambda folder: (folder / source).rename(folder / target)


def saved(change: Callable[[State], object], *ranks: tuple[int, int]) -> Spoil:
    """The files of these ranks and stages, as torch writes them with their content changed."""

    def spoil(folder: Path) -> None:
        states = rank_states(open_checkpoint(folder), 2, 2, 31500, None)
        for rank, stage in ranks or ((1, 1),):
            change(states[rank, stage])
            place = folder / ITERATION / rank_folder(rank, stage, 2)
            shutil.rmtree(place)
            save_rank(states[rank, stage], place)

    return spoil


def tensors(change: Callable[[dict[str, Any]], object], *ranks: tuple[int, int]) -> Spoil:
    return saved(lambda state: change(state["model"]), *ranks)


def both(*spoils: Spoil) -> Spoil:
    return lambda folder: [spoil(folder) for spoil in spoils]
