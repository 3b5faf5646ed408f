from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.layout import expected_tensors
from nvlm_trt.checkpoint.megatron import MegatronCheckpoint
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.errors import CheckpointError
from tests.checkpoint.megatron.spoiling import FC2, ITERATION, NORM, QKV, TRACKER, WORDS
from tests.checkpoint.megatron_writer import State, rank_folder, write_megatron


def in_bfloat16(array: NDArray[Any]) -> bytes:
    return array.astype(ml_dtypes.bfloat16).tobytes()


@pytest.mark.parametrize("pp", [1, 2, 4])
@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_every_tensor_comes_back_bit_for_bit(original: Checkpoint, tmp_path: Path, tp: int, pp: int):
    checkpoint = open_checkpoint(write_megatron(original, tmp_path, tp=tp, pp=pp))
    assert isinstance(checkpoint, MegatronCheckpoint)
    assert checkpoint.names() == original.names()
    for name, spec in expected_tensors(original.config).items():
        array, info = checkpoint.read(name), checkpoint.info(name)
        assert (info.name, info.dtype, info.shape, info.nbytes) == (name, "BF16", spec.shape, array.nbytes)
        assert (array.shape, array.dtype, array.flags.writeable) == (spec.shape, ml_dtypes.bfloat16, False)
        assert array.tobytes() == in_bfloat16(original.read(name)), name
        checkpoint.drop_pages(name)
        assert array.tobytes() == checkpoint.read(name).tobytes()


def test_a_lone_rank_is_pointed_at_where_its_tensors_serve(original: Checkpoint, tmp_path: Path):
    checkpoint = open_checkpoint(write_megatron(original, tmp_path, tp=1, pp=2))
    without = set()
    for name in checkpoint.names():
        info = checkpoint.info(name)
        if info.place is None:
            without.add(name.partition("layers.")[2].partition(".")[2])
        else:
            content = info.place.file.read_bytes()
            assert content[info.place.offset : info.place.offset + info.nbytes] == checkpoint.read(name).tobytes()
            assert checkpoint.files(name) == (info.place.file,)
    qkv = {f"self_attn.{part}_proj.{kind}" for part in "qkv" for kind in ("weight", "bias")}
    assert without == qkv | {"attn.qkv.weight"}


def test_files_are_those_of_the_tensors_stage(original: Checkpoint, tmp_path: Path):
    checkpoint = open_checkpoint(write_megatron(original, tmp_path, tp=2, pp=4))
    for name, stage in (("mlp1.1.weight", 0), ("language_model.lm_head.weight", 3), (NORM, 1)):
        folders = [rank_folder(rank, stage, 4) for rank in (0, 1)]
        assert checkpoint.files(name) == tuple(
            tmp_path / ITERATION / folder / "model_optim_rng.pt" for folder in folders
        )
        assert checkpoint.info(name).place is None


@pytest.mark.parametrize(("tp", "heads"), [(1, 5), (2, 6), (4, 8), (1, 7)])
def test_dummy_heads_that_are_not_stored_are_zeros(original: Checkpoint, tmp_path: Path, tp: int, heads: int):
    """Megatron pads to what its ranks can share; the release always to eight of eight."""
    checkpoint = open_checkpoint(write_megatron(original, tmp_path, tp=tp, pp=1, vision_heads=heads))
    for name in ("qkv", "q_norm", "k_norm", "proj"):
        name = f"vision_model.encoder.layers.1.attn.{name}.weight"
        assert checkpoint.read(name).tobytes() == in_bfloat16(original.read(name))


def test_the_projector_has_megatrons_epsilon(original: Checkpoint, tmp_path: Path):
    config = open_checkpoint(write_megatron(original, tmp_path, tp=1, pp=1)).config
    assert (config.vision.projector_norm_eps, original.config.vision.projector_norm_eps) == (1e-6, 1e-5)
    assert config.decoder == original.config.decoder


def test_values_stay_as_they_are_stored(original: Checkpoint, tmp_path: Path):
    def widen(_rank: int, _stage: int, state: State) -> None:
        state["model"][FC2] = state["model"][FC2].float() + 2**-20

    checkpoint = open_checkpoint(write_megatron(original, tmp_path, tp=2, pp=1, change=widen))
    name = "language_model.model.layers.0.mlp.down_proj.weight"
    assert checkpoint.info(name).dtype == "F32"
    np.testing.assert_array_equal(checkpoint.read(name), original.read(name).astype(np.float32) + 2**-20)


def test_strided_tensors_are_read_as_they_are(original: Checkpoint, tmp_path: Path):
    """torch keeps strides: a transposed copy and a slice of a larger storage hold the same values."""

    def stride(_rank: int, _stage: int, state: State) -> None:
        model = state["model"]
        model[FC2] = model[FC2].T.contiguous().T
        model[QKV] = torch.cat([model[QKV], model[QKV]], dim=1)[:, : model[QKV].shape[1]]
        conv = "vision_model.conv1.weight"
        model[conv] = model[conv].to(memory_format=torch.channels_last)

    for tp in (1, 2):
        checkpoint = open_checkpoint(write_megatron(original, tmp_path / f"{tp}", tp=tp, pp=1, change=stride))
        for name in checkpoint.names():
            assert checkpoint.read(name).tobytes() == in_bfloat16(original.read(name)), name


def test_a_release_folder_counts_where_the_tracker_names_it(original: Checkpoint, tmp_path: Path):
    write_megatron(original, tmp_path, tp=1, pp=1, iteration=0)
    (tmp_path / "iter_0000000").rename(tmp_path / "release")
    (tmp_path / TRACKER).write_text("release\n")
    assert open_checkpoint(tmp_path).names() == original.names()


def test_other_iterations_and_files_do_not_matter(original: Checkpoint, tmp_path: Path):
    write_megatron(original, tmp_path, tp=1, pp=1)
    (tmp_path / "iter_0000001" / "mp_rank_07").mkdir(parents=True)
    (tmp_path / ITERATION / "mp_rank_00" / "distrib_optim.pt").write_bytes(b"")
    assert open_checkpoint(tmp_path).names() == original.names()


def test_opening_reads_no_weights(original: Checkpoint, tmp_path: Path):
    write_megatron(original, tmp_path, tp=8, pp=1)
    tracemalloc.start()
    try:
        open_checkpoint(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_the_fingerprint_stays_where_the_folder_moves_and_tells_models_apart(original: Checkpoint, tmp_path: Path):
    def retrain(rank: int, _stage: int, state: State) -> None:
        if rank == 1:
            state["model"][WORDS][0, 0] += 1

    prints = {
        open_checkpoint(write_megatron(original, tmp_path / "a", tp=2, pp=1)).fingerprint(),
        open_checkpoint(shutil.copytree(tmp_path / "a", tmp_path / "moved")).fingerprint(),
    }
    assert len(prints) == 1
    prints.add(open_checkpoint(write_megatron(original, tmp_path / "b", tp=2, pp=1, change=retrain)).fingerprint())
    (tmp_path / "moved" / "config.json").write_text((tmp_path / "a" / "config.json").read_text() + "\n")
    prints.add(open_checkpoint(tmp_path / "moved").fingerprint())
    assert len(prints) == 3


def test_an_unknown_name_is_said(original: Checkpoint, tmp_path: Path):
    checkpoint = open_checkpoint(write_megatron(original, tmp_path, tp=1, pp=1))
    for look_up in (checkpoint.read, checkpoint.info, checkpoint.files, checkpoint.drop_pages):
        with pytest.raises(CheckpointError, match=r"E-CKPT-TENSOR: The checkpoint holds no tensor mlp9"):
            look_up("mlp9")
