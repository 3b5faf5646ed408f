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
    # e4m3 as bytes: torch cannot join tensors of that type.
    tensors = {
        name: tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor
        for name, tensor in load_file(source / "rank0.safetensors").items()
    }
    for rank in range(tp):

        def part(tensor: Tensor, dim: int) -> Tensor:
            missing = -tensor.shape[dim] % tp
            if missing:
                tensor = torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])
            return tensor.chunk(tp, dim)[rank]

        def cut(name: str, tensor: Tensor) -> Tensor:
            if name.endswith("_scaling_factor") or "norm" in name or "ln_f" in name:
                return tensor
            if "attention.qkv" in name:
                return torch.cat([part(piece, 0) for piece in tensor.split([q, kv, kv])])
            if "vocab_embedding" in name:
                return tensor if embedding_dim is None else part(tensor, embedding_dim)
            return part(tensor, 1 if name.endswith(("dense.weight", "proj.weight")) else 0)

        cuts = {name: cut(name, tensor).contiguous() for name, tensor in tensors.items()}
        cuts = {
            name: tensor.view(torch.float8_e4m3fn) if tensor.dtype == torch.uint8 else tensor
            for name, tensor in cuts.items()
        }
        save_file(cuts, folder / f"rank{rank}.safetensors")
    return folder
