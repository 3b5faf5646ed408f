"""The written checkpoint: bytes against ModelOpt's exporter, shapes against the format, and what damaged weights do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.safetensors_file import SafetensorsFile
from nvlm_trt.decoder import fp8
from nvlm_trt.decoder.calibration import Calibration
from nvlm_trt.decoder.trtllm_checkpoint import ConversionReport, write_trtllm_checkpoint
from nvlm_trt.decoder.trtllm_format import Mapping, tensor_rules
from nvlm_trt.errors import ArtefactError, CheckpointError, UsageError
from tests.decoder.altered import Altered
from tests.decoder.modelopt_oracle import export_with_modelopt
from tests.decoder.writing import DTYPES, LAYER, Write, digests, tensors_of


@pytest.fixture(scope="module")
def modelopt_folders(
    checkpoint: Checkpoint, samples: list[NDArray[np.float32]], tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    folders = {tp: tmp_path_factory.mktemp("modelopt") / f"tp{tp}" for tp in (1, 2)}
    export_with_modelopt(checkpoint, samples, folders)
    return folders


@pytest.mark.parametrize("tp", [1, 2])
def test_weights_and_scales_are_bit_for_bit_those_of_modelopt(
    write: Write, modelopt_folders: dict[int, Path], tp: int
) -> None:
    folder, _ = write(tp=tp)
    for rank in range(tp):
        ours = tensors_of(folder / f"rank{rank}.safetensors")
        theirs = tensors_of(modelopt_folders[tp] / f"rank{rank}.safetensors")
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            if name.endswith("activation_scaling_factor"):
                # Measured by two float32 forward passes whose sums run in different orders.
                assert ours[name] == pytest.approx(tensor, rel=1e-5)
                continue
            own = ours[name]
            if name == "transformer.vocab_embedding.weight":
                own = np.split(own, tp)[rank]  # theirs is always split by rows, ours whole on every rank
            assert own.dtype == tensor.dtype
            assert own.shape == tensor.shape
            assert own.tobytes() == tensor.tobytes(), name


def test_config_differs_from_modelopts_in_the_listed_keys_only(write: Write, modelopt_folders: dict[int, Path]) -> None:
    ours = json.loads((write()[0] / "config.json").read_text(encoding="utf-8"))
    theirs = json.loads((modelopt_folders[1] / "config.json").read_text(encoding="utf-8"))
    common = ours.keys() & theirs.keys()
    assert {key: (ours[key], theirs[key]) for key in common if ours[key] != theirs[key]} == {
        "producer": (ours["producer"], {"name": "modelopt", "version": "0.47.0"}),
        "logits_dtype": ("float32", "float16"),  # theirs says so for every model
        "use_parallel_embedding": (False, True),
        "mapping": ({**theirs["mapping"], "gpus_per_node": 8}, theirs["mapping"]),
    }
    # Theirs leaves these to a later tool, or to defaults that are wrong for this model (rotary_base).
    assert ours.keys() - theirs.keys() == {
        "attn_bias",
        "disable_weight_only_quant_plugin",
        "mlp_bias",
        "qwen_type",
        "rotary_base",
        "rotary_scaling",
        "seq_length",
        "tie_word_embeddings",
        "use_logn_attn",
    }
    # Keys the Qwen2 model does not read.
    assert theirs.keys() - ours.keys() == {
        "bias",
        "decoder",
        "lm_head_bias",
        "rank",
        "residual_mlp",
        "rmsnorm",
        "rotary_pct",
        "share_embedding_table",
    }


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_files_hold_exactly_what_the_layout_says(write: Write, checkpoint: Checkpoint, tp: int, pp: int) -> None:
    folder, report = write(tp=tp, pp=pp)
    ranks = [f"rank{rank}.safetensors" for rank in range(tp * pp)]
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", *ranks]
    written = 0
    for rank, name in enumerate(ranks):
        rules = tensor_rules(checkpoint.config.decoder, Mapping(tp, pp), rank // tp)
        opened = SafetensorsFile(folder / name)
        seen = {tensor: (opened.info(tensor).dtype, opened.info(tensor).shape) for tensor in opened.names()}
        assert seen == {rule.name: (DTYPES[rule.kind], rule.shape) for rule in rules}
        written += sum(opened.info(tensor).nbytes for tensor in opened.names())
    decoder = [name for name in checkpoint.names() if name.startswith("language_model.")]
    read = sum(checkpoint.info(name).nbytes for name in decoder)
    assert report == ConversionReport(bytes_read=read, bytes_written=written, notes=())


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 2)])
def test_every_tensor_is_read_once_and_let_go(write: Write, checkpoint: Checkpoint, tp: int, pp: int) -> None:
    """Tensors without a place in a file, as a reader that puts them together has: all come through ``read``."""
    decoder = {name: checkpoint.read(name) for name in checkpoint.names() if name.startswith("language_model.")}
    scattered = Altered(checkpoint, decoder)
    folder, _ = write("scattered", source=scattered, tp=tp, pp=pp)
    assert sorted(scattered.reads) == sorted(scattered.dropped) == sorted(decoder)
    placed, _ = write("placed", tp=tp, pp=pp)
    assert digests(folder) == digests(placed)


def test_ranks_put_together_are_the_whole(write: Write, checkpoint: Checkpoint) -> None:
    decoder = checkpoint.config.decoder
    whole = tensors_of(write("whole")[0] / "rank0.safetensors")
    folder, _ = write("halves", tp=2)
    halves = [tensors_of(folder / f"rank{rank}.safetensors") for rank in range(2)]
    for name, tensor in whole.items():
        parts = [half[name] for half in halves]
        if name.endswith((".qkv.weight", ".qkv.bias")):
            q, kv = decoder.q_size // 2, decoder.kv_size // 2
            thirds = [np.split(part, [q, q + kv]) for part in parts]
            joined = np.concatenate([third[index] for index in range(3) for third in thirds])
        elif name.endswith(("fc.weight", "gate.weight", "lm_head.weight")):
            joined = np.concatenate(parts)
        elif name.endswith(("dense.weight", "proj.weight")):
            joined = np.concatenate(parts, axis=1)
        else:
            assert parts[0].tobytes() == parts[1].tobytes()
            joined = parts[0]
        assert joined.tobytes() == tensor.tobytes(), name


def test_restored_weights_are_near_the_release_in_the_right_places(write: Write, checkpoint: Checkpoint) -> None:
    """Reads the file as an engine would: fc is the branch through SiLU, qkv stands in the order q, k, v."""
    tensors = tensors_of(write()[0] / "rank0.safetensors")
    places = {
        "mlp.fc": ["mlp.gate_proj"],
        "mlp.gate": ["mlp.up_proj"],
        "mlp.proj": ["mlp.down_proj"],
        "attention.dense": ["self_attn.o_proj"],
        "attention.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    }
    for linear, sources in places.items():
        scale = tensors[f"transformer.layers.1.{linear}.weights_scaling_factor"]
        restored = fp8.restore(tensors[f"transformer.layers.1.{linear}.weight"], scale[0])
        release = np.concatenate([checkpoint.read(f"{LAYER}{name}.weight").astype(np.float32) for name in sources])
        error = np.linalg.norm(restored - release) / np.linalg.norm(release)
        assert error < 0.04, linear  # three mantissa bits: 2^-4 at most, about 2.6 % on average


def test_writing_twice_gives_the_same_bytes(write: Write) -> None:
    assert digests(write("one")[0]) == digests(write("two")[0])


def test_progress_counts_bytes_up_to_all_of_them(write: Write) -> None:
    calls: list[tuple[int, int]] = []
    _, report = write(tp=2, progress=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert {total for _, total in calls} == {report.bytes_written}
    assert calls[-1] == (report.bytes_written, report.bytes_written)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["mlp.up_proj.weight", "self_attn.k_proj.bias", "input_layernorm.weight"])
def test_a_weight_that_is_not_finite_is_refused_and_leaves_the_old_folder(
    write: Write, checkpoint: Checkpoint, name: str, poison: float
) -> None:
    folder, _ = write()
    before = digests(folder)
    tensor = checkpoint.read(LAYER + name).copy()
    tensor.flat[-1] = poison
    with pytest.raises(CheckpointError) as caught:
        write(source=Altered(checkpoint, {LAYER + name: tensor}))
    assert caught.value.code == "E-CKPT-NAN"
    assert LAYER + name in caught.value.what
    assert digests(folder) == before


def test_weights_of_zeros_get_a_scale_of_one_and_a_note(write: Write, checkpoint: Checkpoint) -> None:
    name = f"{LAYER}mlp.down_proj.weight"
    folder, report = write(source=Altered(checkpoint, {name: np.zeros_like(checkpoint.read(name))}))
    tensors = tensors_of(folder / "rank0.safetensors")
    assert tensors["transformer.layers.1.mlp.proj.weights_scaling_factor"].tolist() == [1.0]
    assert not tensors["transformer.layers.1.mlp.proj.weight"].view(np.uint8).any()
    assert report.notes == ("transformer.layers.1.mlp.proj: weights or inputs are all zero; their scale is 1.",)


def test_a_float32_bias_that_bfloat16_cannot_hold_is_rounded_and_noted(write: Write, checkpoint: Checkpoint) -> None:
    name = f"{LAYER}self_attn.k_proj.bias"
    bias = checkpoint.read(name).astype(np.float32) + np.float32(1e-6)
    folder, report = write(source=Altered(checkpoint, {name: bias}))
    decoder = checkpoint.config.decoder
    written = tensors_of(folder / "rank0.safetensors")["transformer.layers.1.attention.qkv.bias"]
    own = written[decoder.q_size : decoder.q_size + decoder.kv_size]
    assert np.array_equal(own, bias.astype(ml_dtypes.bfloat16))
    assert report.notes == (f"{name}: some values were rounded to bfloat16.",)


def test_a_weight_beyond_the_model_s_range_is_refused_and_not_written_as_infinite(
    write: Write, checkpoint: Checkpoint
) -> None:
    name = f"{LAYER}input_layernorm.weight"
    norm = checkpoint.read(name).astype(np.float32)
    norm[0] = 1e5
    with pytest.raises(CheckpointError, match=f"E-CKPT-RANGE: {name}"):
        write(source=Altered(checkpoint, {name: norm}, dtype="float16"))


def test_a_calibration_of_another_depth_is_refused(
    checkpoint: Checkpoint, calibration: Calibration, tmp_path: Path
) -> None:
    shorter = dataclasses.replace(calibration, layers=calibration.layers[1:])
    with pytest.raises(ArtefactError) as caught:
        write_trtllm_checkpoint(checkpoint, shorter, tmp_path / "out")
    assert caught.value.code == "E-ARTEFACT-CALIBRATION"
    assert not (tmp_path / "out").exists()


def test_a_split_the_decoder_does_not_allow_is_refused_before_anything_is_written(write: Write, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        write(tp=8)  # it has two key-value heads
    assert caught.value.code == "E-RECIPE-TP"
    assert not (tmp_path / "out").exists()
