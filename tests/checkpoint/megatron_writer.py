"""Writes Megatron-Core checkpoints, as training would leave them, from any checkpoint of ours.

The reader's counterpart, and nothing of the reader's is used: each of Megatron's tensors is laid out here, rank by
rank and row by row, from the layout's own rules, and saved by torch.
"""

from __future__ import annotations

import argparse
import io
import random
import shutil
import signal
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.synthetic import CheckpointSize

__all__ = ["SHAREABLE", "rank_folder", "rank_states", "save_rank", "write_megatron"]

# Tiny, and every count divides by eight ranks; the vocabulary does not, so it is padded.
SHAREABLE = CheckpointSize(
    image_size=56,
    patch_size=14,
    vision_hidden_size=40,
    vision_intermediate_size=64,
    vision_layers=2,
    vision_heads=5,
    vision_dummy_heads=3,
    hidden_size=64,
    intermediate_size=64,
    layers=4,
    heads=16,
    kv_heads=8,
    base_vocab=1940,
    vocab_size=1970,
    max_positions=8192,
    max_tiles=6,
)

State = dict[str, Any]
_DOCUMENTS = ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json")


def write_megatron(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    tp: int,
    pp: int,
    iteration: int = 31500,
    vision_heads: int | None = None,
    change: Callable[[int, int, State], None] = lambda _rank, _stage, _state: None,
) -> Path:
    """Write ``checkpoint`` in bfloat16 and return the folder, with config and tokenizer put beside.

    ``vision_heads`` of the vision tower are stored, dummies among them; all by default. ``change`` may alter what rank
    and stage save.
    """
    states = rank_states(checkpoint, tp, pp, iteration, vision_heads)
    for (rank, stage), state in states.items():
        change(rank, stage, state)
        save_rank(state, folder / f"iter_{iteration:07d}" / rank_folder(rank, stage, pp))
    (folder / "latest_checkpointed_iteration.txt").write_text(f"{iteration}")
    for name in _DOCUMENTS:
        shutil.copy(checkpoint.root / name, folder)
    return folder


def rank_folder(rank: int, stage: int, pp: int) -> str:
    return f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if pp > 1 else "")


def save_rank(state: State, folder: Path) -> None:
    folder.mkdir(parents=True)
    with _megatron_classes():
        torch.save(state, folder / "model_optim_rng.pt")


def rank_states(
    checkpoint: Checkpoint, tp: int, pp: int, iteration: int, vision_heads: int | None
) -> dict[tuple[int, int], State]:
    """What every (rank, stage) saves."""
    layers = checkpoint.config.decoder.num_layers
    states: dict[tuple[int, int], State] = {}
    for rank in range(tp):
        for stage in range(pp):
            model: dict[str, torch.Tensor | bytes | io.BytesIO | None] = OrderedDict()
            if stage == 0:
                _put_vision(model, checkpoint, rank, tp, vision_heads)
                _put_projector(model, checkpoint, rank, tp)
                model["language_model.embedding.word_embeddings.weight"] = _words(
                    checkpoint, "language_model.model.embed_tokens.weight", rank, tp
                )
            for local in range(layers // pp):
                _put_decoder_layer(model, checkpoint, local, stage * (layers // pp) + local, rank, tp)
            if stage == pp - 1:
                model["language_model.decoder.final_layernorm.weight"] = _whole(
                    checkpoint, "language_model.model.norm.weight"
                )
                model["language_model.output_layer.weight"] = _words(
                    checkpoint, "language_model.lm_head.weight", rank, tp
                )
            states[rank, stage] = {
                "args": _arguments(tp, pp),
                "checkpoint_version": 3.0,
                "iteration": iteration,
                "model": model,
                "opt_param_scheduler": {"max_lr": 2e-6, "num_steps": 128 * iteration},
                "rng_state": [_random_states()],
                "rerun_state_machine": {"mode": 1, "caller": {("a", 1): {2, 3}}},
            }
    return states


def _put_vision(model: State, checkpoint: Checkpoint, rank: int, tp: int, stored_heads: int | None) -> None:
    vision = checkpoint.config.vision
    padded = vision.num_heads + vision.num_dummy_heads
    heads = (stored_heads or padded) // tp
    mine = range(rank * heads, (rank + 1) * heads)
    hf = "vision_model.embeddings."
    model["vision_model.class_token"] = _whole(checkpoint, f"{hf}class_embedding")
    model["vision_model.conv1.weight"] = _whole(checkpoint, f"{hf}patch_embedding.weight")
    model["vision_model.conv1.bias"] = _whole(checkpoint, f"{hf}patch_embedding.bias")
    model["vision_model.position_embeddings.weight"] = _whole(checkpoint, f"{hf}position_embedding")[0]
    for layer in range(vision.num_layers):
        to, of = f"vision_model.decoder.layers.{layer}.", f"vision_model.encoder.layers.{layer}."
        qkv = _whole(checkpoint, f"{of}attn.qkv.weight")
        size = vision.head_dim
        rows = [
            qkv[kind * padded * size + head * size + row] for head in mine for kind in range(3) for row in range(size)
        ]
        model[f"{to}self_attention.linear_qkv.weight"] = torch.stack(rows)
        model[f"{to}self_attention.linear_qkv._extra_state"] = io.BytesIO(b"state of a linear")
        channels = slice(mine.start * size, mine.stop * size)
        for kind in "qk":
            norm = _whole(checkpoint, f"{of}attn.{kind}_norm.weight")
            model[f"{to}self_attention.{kind}_layernorm.weight"] = norm[channels].clone()
        projection = _whole(checkpoint, f"{of}attn.proj.weight")
        model[f"{to}self_attention.linear_proj.weight"] = projection[:, channels].contiguous()
        model[f"{to}self_attention.linear_proj.bias"] = _whole(checkpoint, f"{of}attn.proj.bias")
        model[f"{to}input_layernorm.weight"] = _whole(checkpoint, f"{of}norm1.weight")
        model[f"{to}pre_mlp_layernorm.weight"] = _whole(checkpoint, f"{of}norm2.weight")
        model[f"{to}ls1"], model[f"{to}ls2"] = _whole(checkpoint, f"{of}ls1"), _whole(checkpoint, f"{of}ls2")
        model[f"{to}mlp.linear_fc1.weight"] = _rows(_whole(checkpoint, f"{of}mlp.fc1.weight"), rank, tp)
        model[f"{to}mlp.linear_fc1.bias"] = _rows(_whole(checkpoint, f"{of}mlp.fc1.bias"), rank, tp)
        model[f"{to}mlp.linear_fc1._extra_state"] = None
        model[f"{to}mlp.linear_fc2.weight"] = _columns(_whole(checkpoint, f"{of}mlp.fc2.weight"), rank, tp)
        model[f"{to}mlp.linear_fc2.bias"] = _whole(checkpoint, f"{of}mlp.fc2.bias")


def _put_projector(model: State, checkpoint: Checkpoint, rank: int, tp: int) -> None:
    to = "vision_projection.encoder."
    model[f"{to}linear_fc1.layer_norm_weight"] = _whole(checkpoint, "mlp1.0.weight")
    model[f"{to}linear_fc1.layer_norm_bias"] = _whole(checkpoint, "mlp1.0.bias")
    model[f"{to}linear_fc1.weight"] = _rows(_whole(checkpoint, "mlp1.1.weight"), rank, tp)
    model[f"{to}linear_fc1._extra_state"] = torch.zeros(5, dtype=torch.uint8)
    model[f"{to}linear_fc2.weight"] = _columns(_whole(checkpoint, "mlp1.3.weight"), rank, tp)


def _put_decoder_layer(model: State, checkpoint: Checkpoint, local: int, layer: int, rank: int, tp: int) -> None:
    decoder = checkpoint.config.decoder
    to, of = f"language_model.decoder.layers.{local}.", f"language_model.model.layers.{layer}."
    size, queries = decoder.head_dim, decoder.num_heads // decoder.num_kv_heads
    groups = decoder.num_kv_heads // tp
    model[f"{to}self_attention.linear_qkv.layer_norm_weight"] = _whole(checkpoint, f"{of}input_layernorm.weight")
    for kind in ("weight", "bias"):
        q, k, v = (_whole(checkpoint, f"{of}self_attn.{part}_proj.{kind}") for part in "qkv")
        pieces = []
        for group in range(rank * groups, (rank + 1) * groups):
            pieces += [q[head * size : (head + 1) * size] for head in range(group * queries, (group + 1) * queries)]
            pieces += [k[group * size : (group + 1) * size], v[group * size : (group + 1) * size]]
        model[f"{to}self_attention.linear_qkv.{kind}"] = torch.cat(pieces)
    model[f"{to}self_attention.linear_qkv._extra_state"] = b"state of a linear"
    model[f"{to}self_attention.linear_proj.weight"] = _columns(
        _whole(checkpoint, f"{of}self_attn.o_proj.weight"), rank, tp
    )
    model[f"{to}mlp.linear_fc1.layer_norm_weight"] = _whole(checkpoint, f"{of}post_attention_layernorm.weight")
    model[f"{to}mlp.linear_fc1.weight"] = torch.cat(
        [_rows(_whole(checkpoint, f"{of}mlp.{part}_proj.weight"), rank, tp) for part in ("gate", "up")]
    )
    model[f"{to}mlp.linear_fc2.weight"] = _columns(_whole(checkpoint, f"{of}mlp.down_proj.weight"), rank, tp)


def _words(checkpoint: Checkpoint, name: str, rank: int, tp: int) -> torch.Tensor:
    """The rank's rows of a table that is padded with copies of its last row."""
    table = _whole(checkpoint, name)
    missing = -len(table) % (128 * tp)
    return _rows(torch.cat([table, table[-1:].expand(missing, -1)]), rank, tp)


def _whole(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    array: NDArray[Any] = checkpoint.read(name)
    return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)


def _rows(tensor: torch.Tensor, rank: int, tp: int) -> torch.Tensor:
    return tensor.chunk(tp)[rank].clone()


def _columns(tensor: torch.Tensor, rank: int, tp: int) -> torch.Tensor:
    return tensor.chunk(tp, dim=1)[rank].contiguous()


def _arguments(tp: int, pp: int) -> argparse.Namespace:
    return argparse.Namespace(
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        params_dtype=torch.bfloat16,
        attention_backend=_Backend.auto,
        exit_signal=signal.SIGTERM,
        save=Path("checkpoints"),
        norm_epsilon=1e-6,
        activation=torch.nn.functional.gelu,
        ratios={0.5, 1.0},
    )


def _random_states() -> State:
    return {
        "random_rng_state": random.Random(0).getstate(),
        "np_rng_state": np.random.RandomState(0).get_state(),
        "torch_rng_state": torch.Generator().get_state(),
        "rng_tracker_states": {"model-parallel-rng": torch.zeros(16, dtype=torch.uint8)},
    }


class _Backend(Enum):
    """Stands for a class of Megatron's own that the training arguments hold."""

    auto = 5


_Backend.__module__, _Backend.__qualname__ = "megatron.core.transformer.enums", "AttnBackend"


@contextmanager
def _megatron_classes() -> Iterator[None]:
    """Pickling looks a class up in its module; reading must do without."""
    module = types.ModuleType(_Backend.__module__)
    module.AttnBackend = _Backend  # type: ignore[attr-defined]
    names = ["megatron", "megatron.core", "megatron.core.transformer", _Backend.__module__]
    real = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules.update(dict.fromkeys(names, module))
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(real)
