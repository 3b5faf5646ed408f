"""Megatron checkpoints that are broken: each is refused, and its fault named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.errors import CheckpointError
from tests.checkpoint.megatron.spoiling import (
    FC2,
    ITERATION,
    NORM,
    TRACKER,
    VISION_QKV,
    WORDS,
    Spoil,
    both,
    config,
    copy,
    move,
    overwrite,
    remove,
    saved,
    tensors,
)
from tests.checkpoint.megatron_writer import write_megatron

RANK = f"{ITERATION}/mp_rank_01_001"
FILE = f"{RANK}/model_optim_rng.pt"


def rows(name: str, count: int) -> Callable[[dict[str, Any]], object]:
    return lambda model: model.update({name: model[name][:count].clone()})


# Of a checkpoint of two ranks in two stages. What is wrong: how it comes about, the code, and what must be said.
FAULTS: dict[str, tuple[Spoil, str, str]] = {
    "no config": (remove("config.json"), "E-CKPT-CONFIG", "neither a config nor a tokenizer"),
    "config is not JSON": (overwrite("config.json", b"{"), "E-CONFIG-JSON", "config.json is not JSON"),
    "another architecture": (
        config(lambda data: data.update(architectures=["Other"])),
        "E-CONFIG-ARCH",
        "Other, not NVLM_D",
    ),
    "shards beside": (overwrite("model.safetensors", b""), "E-CKPT-LAYOUT", "two checkpoints lie in it"),
    "tracker is empty": (overwrite(TRACKER, b""), "E-CKPT-INDEX", "the number of an iteration is wanted"),
    "tracker leads out": (overwrite(TRACKER, b"../31500"), "E-CKPT-INDEX", "says ../31500;"),
    "tracker is binary": (overwrite(TRACKER, bytes(range(256))), "E-CKPT-INDEX", "the number of an iteration"),
    "tracker names another iteration": (
        overwrite(TRACKER, b"7"),
        "E-CKPT-INDEX",
        "names iter_0000007, which is missing",
    ),
    "tracker names a release": (overwrite(TRACKER, b"release"), "E-CKPT-INDEX", "names release, which is missing"),
    "missing rank": (
        remove(RANK),
        "E-CKPT-RANK",
        "2 tensor-parallel ranks in 2 stages by its highest numbers, and no mp_rank_01_001",
    ),
    "missing stage": (
        both(remove(RANK), remove(f"{ITERATION}/mp_rank_00_001")),
        "E-CKPT-TENSOR",
        "The pipeline stages hold 2 decoder layers; config.json asks for 4",
    ),
    "missing first stage": (
        both(remove(f"{ITERATION}/mp_rank_00_000"), remove(f"{ITERATION}/mp_rank_01_000")),
        "E-CKPT-RANK",
        "and no mp_rank_00_000",
    ),
    "three ranks": (
        both(*(copy(f"{ITERATION}/mp_rank_00_00{stage}", f"{ITERATION}/mp_rank_02_00{stage}") for stage in (0, 1))),
        "E-CKPT-RANK",
        "has 3 tensor-parallel ranks; 1, 2, 4 or 8 are possible",
    ),
    "sixteen ranks": (
        both(
            *(
                copy(f"{ITERATION}/mp_rank_00_00{stage}", f"{ITERATION}/mp_rank_{rank:02d}_00{stage}")
                for rank in range(2, 16)
                for stage in (0, 1)
            )
        ),
        "E-CKPT-RANK",
        "has 16 tensor-parallel ranks",
    ),
    "twice as many ranks": (
        both(
            *(
                copy(f"{ITERATION}/mp_rank_0{rank}_00{stage}", f"{ITERATION}/mp_rank_0{rank + 2}_00{stage}")
                for rank in (0, 1)
                for stage in (0, 1)
            )
        ),
        "E-CKPT-SHAPE",
        "one of 4 ranks holds",
    ),
    "half of the ranks": (
        both(remove(RANK), remove(f"{ITERATION}/mp_rank_01_000")),
        "E-CKPT-SHAPE",
        "one of 1 ranks holds",
    ),
    "a stage too many": (
        both(*(copy(f"{ITERATION}/mp_rank_0{rank}_001", f"{ITERATION}/mp_rank_0{rank}_002") for rank in (0, 1))),
        "E-CKPT-TENSOR",
        "hold 2 + 2 + 2 decoder layers",
    ),
    "an extra rank of one stage": (copy(RANK, f"{ITERATION}/mp_rank_02_001"), "E-CKPT-RANK", "and no mp_rank_02_000"),
    "an expert's rank": (
        copy(RANK, f"{ITERATION}/mp_rank_01_001_000"),
        "E-CKPT-RANK",
        "mp_rank_01_001_000 is not the folder",
    ),
    "a rank without its stage": (
        move(RANK, f"{ITERATION}/mp_rank_01"),
        "E-CKPT-RANK",
        "some ranks name a pipeline stage and others do not",
    ),
    "no ranks": (
        both(remove(ITERATION), lambda folder: (folder / ITERATION).mkdir()),
        "E-CKPT-RANK",
        "iter_0031500 has no mp_rank_ folders.",
    ),
    "another format": (
        both(
            remove(ITERATION),
            lambda folder: (folder / ITERATION).mkdir(),
            overwrite(f"{ITERATION}/__0_0.distcp", b""),
        ),
        "E-CKPT-RANK",
        "no mp_rank_ folders but .distcp files",
    ),
    "missing file": (remove(FILE), "E-CKPT-SHARD", "mp_rank_01_001/model_optim_rng.pt is missing"),
    "no archive": (overwrite(FILE, b"junk"), "E-CKPT-HEADER", "mp_rank_01_001/model_optim_rng.pt cannot be read"),
    "of another iteration": (
        saved(lambda state: state.update(iteration=4000)),
        "E-CKPT-RANK",
        "mp_rank_01_001/model_optim_rng.pt is of iteration 4000, mp_rank_00_000/model_optim_rng.pt of 31500",
    ),
    "all of another iteration": (
        both(move(ITERATION, "iter_0000007"), overwrite(TRACKER, b"7")),
        "E-CKPT-RANK",
        "is of iteration 31500, its folder of 7",
    ),
    "an old version": (
        saved(lambda state: state.update(checkpoint_version=2.0)),
        "E-CKPT-VERSION",
        "has checkpoint_version 2.0; 3.0 is read",
    ),
    "no version": (saved(lambda state: state.pop("checkpoint_version")), "E-CKPT-VERSION", "checkpoint_version None"),
    "no model": (saved(lambda state: state.pop("model")), "E-CKPT-TENSOR", "it holds no model"),
    "virtual stages": (
        saved(lambda state: state.update(model0=state.pop("model"))),
        "E-CKPT-TENSOR",
        "cut into virtual stages",
    ),
    "a nested model": (
        saved(lambda state: state.update(model={"language_model": state["model"]})),
        "E-CKPT-TENSOR",
        "language_model is not a tensor",
    ),
    "a key of another kind": (
        tensors(lambda model: model.update({("x", 1): torch.zeros(1)})),
        "E-CKPT-TENSOR",
        "a key that is not a text",
    ),
    "a missing tensor": (
        tensors(lambda model: model.pop(FC2)),
        "E-CKPT-TENSOR",
        f"mp_rank_01_001/model_optim_rng.pt lacks 1 of its 16 tensors, the first is {FC2}",
    ),
    "a tensor too many": (
        tensors(lambda model: model.update({"language_model.extra": torch.zeros(1)})),
        "E-CKPT-TENSOR",
        "1 tensors without a place in this model's stage, the first is language_model.extra",
    ),
    "a tensor of another stage": (
        tensors(lambda model: model.update({WORDS: torch.zeros(1024, 64)})),
        "E-CKPT-TENSOR",
        f"the first is {WORDS}",
    ),
    "config with more layers": (
        config(lambda data: data["llm_config"].update(num_hidden_layers=5)),
        "E-CKPT-TENSOR",
        "hold 2 + 2 decoder layers; config.json asks for 5",
    ),
    "config with fewer vision layers": (
        config(lambda data: data["vision_config"].update(num_hidden_layers=1)),
        "E-CKPT-TENSOR",
        "13 tensors without a place",
    ),
    "integers": (
        tensors(lambda model: model.update({FC2: model[FC2].short()})),
        "E-CKPT-DTYPE",
        f"{FC2} in mp_rank_01_001/model_optim_rng.pt has dtype I16",
    ),
    "ranks of two dtypes": (
        tensors(lambda model: model.update({FC2: model[FC2].float()})),
        "E-CKPT-DTYPE",
        "has dtype F32; the first rank's has BF16",
    ),
    "ranks of two shapes": (
        tensors(rows(FC2, 32)),
        "E-CKPT-SHAPE",
        f"{FC2} in mp_rank_01_001/model_optim_rng.pt has shape [32, 32]; the first rank's has [64, 32]",
    ),
    "a replicated tensor that is shared": (
        tensors(rows("language_model.decoder.final_layernorm.weight", 32)),
        "E-CKPT-SHAPE",
        "has shape [32]; every rank holds all of [64]",
    ),
    "words that are not padded enough": (
        tensors(rows(WORDS, 900), (0, 0), (1, 0)),
        "E-CKPT-SHAPE",
        "has shape [900, 64]; one of 2 ranks holds [at least 985, 64]",
    ),
    "fewer vision heads than real ones": (
        tensors(rows(VISION_QKV, 48), (0, 0), (1, 0)),
        "E-CKPT-SHAPE",
        "has shape [48, 40]; one of 2 ranks holds [72 to 96, 40]",
    ),
    "half a vision head": (
        tensors(rows(VISION_QKV, 84), (0, 0), (1, 0)),
        "E-CKPT-SHAPE",
        "has shape [84, 40]; one of 2 ranks holds [72 to 96, 40]",
    ),
    "a config that ranks cannot share": (
        config(lambda data: data["llm_config"].update(num_key_value_heads=1)),
        "E-CKPT-SHAPE",
        "cannot be shared by 2 ranks",
    ),
    "another config": (
        config(lambda data: data["llm_config"].update(intermediate_size=96)),
        "E-CKPT-SHAPE",
        "holds [48, 160]",
    ),
}


@pytest.fixture(scope="module")
def good(original: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_megatron(original, tmp_path_factory.mktemp("megatron") / "model", tp=2, pp=2)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_checkpoint_is_named(good: Path, tmp_path: Path, fault: str):
    spoil, code, said = FAULTS[fault]
    folder = Path(shutil.copytree(good, tmp_path / "model"))
    spoil(folder)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    assert caught.value.code == code
    assert said in caught.value.what
    assert caught.value.fix
    assert str(tmp_path) not in str(caught.value)


def test_a_missing_config_says_what_to_copy_and_from_where(good: Path, tmp_path: Path):
    folder = Path(shutil.copytree(good, tmp_path / "model"))
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    for name in ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json", "nvidia/NVLM-D-72B"):
        assert name in caught.value.fix


def test_ranks_that_should_be_equal_and_are_not_are_found_on_reading(good: Path, tmp_path: Path):
    folder = Path(shutil.copytree(good, tmp_path / "model"))
    name = "language_model.decoder.layers.0.self_attention.linear_qkv.layer_norm_weight"
    tensors(lambda model: model[name].add_(1), (1, 0))(folder)
    checkpoint = open_checkpoint(folder)
    checkpoint.read(NORM)
    with pytest.raises(CheckpointError, match=r"E-CKPT-RANK: .*layer_norm_weight in mp_rank_01_000/.* differs"):
        checkpoint.read("language_model.model.layers.0.input_layernorm.weight")
