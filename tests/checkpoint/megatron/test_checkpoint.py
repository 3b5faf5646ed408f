from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
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
from tests.checkpoint.megatron_writer import State, rank_folder, rank_states, save_rank, write_megatron

TRACKER = "latest_checkpointed_iteration.txt"
ITERATION = "iter_0031500"
NORM = "language_model.model.layers.1.input_layernorm.weight"
FC2 = "language_model.decoder.layers.0.mlp.linear_fc2.weight"
QKV = "language_model.decoder.layers.0.self_attention.linear_qkv.weight"
VISION_QKV = "vision_model.decoder.layers.0.self_attention.linear_qkv.weight"
WORDS = "language_model.embedding.word_embeddings.weight"


def in_bfloat16(array: NDArray[Any]) -> bytes:
    return array.astype(ml_dtypes.bfloat16).tobytes()


# ---- the same model ------------------------------------------------------------------------------------------------


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


# ---- not the same model --------------------------------------------------------------------------------------------

Spoil = Callable[[Path], object]
RANK = f"{ITERATION}/mp_rank_01_001"
FILE = f"{RANK}/model_optim_rng.pt"


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
        "language_model is no tensor",
    ),
    "a key of another kind": (
        tensors(lambda model: model.update({("x", 1): torch.zeros(1)})),
        "E-CKPT-TENSOR",
        "a key that is no text",
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
