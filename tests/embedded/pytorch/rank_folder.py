"""Cuts a decoder checkpoint of one rank into several: its own arithmetic, so that the exporter is not its own judge."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def write_rank_folder(source: Path, folder: Path, tp: int, embedding_dim: int | None = None) -> Path:
    """``embedding_dim`` is the axis of the embedding that is split, None for a whole one on each rank."""
    config = json.loads((source / "config.json").read_text())
    config["mapping"] = {"world_size": tp, "tp_size": tp, "pp_size": 1}
    config |= {"use_parallel_embedding": embedding_dim is not None, "embedding_sharding_dim": embedding_dim or 0}
    head = config["head_size"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(source / "rank0.safetensors")
    for rank in range(tp):
        parts = {name: _part(name, tensor, rank, tp, q, kv, embedding_dim) for name, tensor in tensors.items()}
        save_file(parts, folder / f"rank{rank}.safetensors")
    return folder


def _part(name: str, tensor: Tensor, rank: int, tp: int, q: int, kv: int, embedding_dim: int | None) -> Tensor:
    def cut(whole: Tensor, dim: int) -> Tensor:
        missing = -whole.shape[dim] % tp
        if missing:
            whole = torch.cat([whole, whole.new_zeros(missing, *whole.shape[1:])])
        return whole.chunk(tp, dim)[rank].contiguous()

    if name.endswith("_scaling_factor") or "norm" in name or "ln_f" in name:
        return tensor
    if "attention.qkv" in name:
        return torch.cat([cut(piece, 0) for piece in tensor.split([q, kv, kv])])
    if "vocab_embedding" in name:
        return tensor if embedding_dim is None else cut(tensor, embedding_dim)
    return cut(tensor, 1 if name.endswith(("dense.weight", "proj.weight")) else 0)
