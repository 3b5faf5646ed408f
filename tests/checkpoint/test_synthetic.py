from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.checkpoint.synthetic import SIZES, GeneratedCheckpoint, write_checkpoint
from nvlm_trt.checkpoint.synthetic.config_json import config_json
from nvlm_trt.checkpoint.synthetic.values import tensor_pieces
from nvlm_trt.checkpoint.synthetic.writer import split_into_shards
from nvlm_trt.checkpoint.tensor_spec import TensorSpec
from nvlm_trt.errors import BuildError, CheckpointError, UsageError
from nvlm_trt.model.config import NvlmConfig
from tests.release import RELEASE

SMALL = SIZES["small"]
CONFIG = NvlmConfig.from_json(config_json(SMALL))
ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkpoint(small_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(small_checkpoint)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_writing_twice_gives_the_same_bytes(small_checkpoint: Path, tmp_path: Path):
    write_checkpoint(tmp_path / "again", SMALL, seed=0)
    assert digests(tmp_path / "again") == digests(small_checkpoint)


def test_the_bytes_are_the_same_everywhere(checkpoint: Checkpoint):
    """Pins the generator: other bytes would make every recorded answer of a synthetic model stale."""
    name = "language_model.model.embed_tokens.weight"
    assert hashlib.sha256(checkpoint.read(name).tobytes()).hexdigest() == (
        "e1574664d214c08d19338bd06e512789f4a627b9939f219c56e9a497cea8caaf"
    )


def test_another_seed_gives_other_weights(small_checkpoint: Path, tmp_path: Path):
    write_checkpoint(tmp_path / "other", SMALL, seed=1)
    ours, other = digests(small_checkpoint), digests(tmp_path / "other")
    assert {name for name in ours if ours[name] != other[name]} == {
        name for name in ours if name.endswith(".safetensors")
    }


def test_the_folder_holds_what_the_releases_does(small_checkpoint: Path):
    assert sorted(path.name for path in small_checkpoint.iterdir()) == [
        *("config.json", "merges.txt"),
        *(f"model-0000{number}-of-00005.safetensors" for number in range(1, 6)),
        *("model.safetensors.index.json", "preprocessor_config.json", "tokenizer_config.json", "vocab.json"),
    ]


def test_the_config_keeps_the_releases_habits():
    data = config_json(SIZES["full"])
    assert NvlmConfig.from_json(data) == RELEASE
    assert data["architectures"] == ["NVLM_D"]
    assert data["llm_config"]["architectures"] == ["Qwen2ForCausalLM"]
    assert data["llm_config"]["model_type"] == "llama"
    assert data["llm_config"]["rope_scaling"] == {"type": "dynamic", "factor": 3.0}
    assert (data["llm_config"]["bos_token_id"], data["llm_config"]["eos_token_id"]) == (151643, 151645)
    assert data["vision_config"]["num_dummy_attention_heads"] == 7


@pytest.mark.parametrize("name", SIZES)
def test_every_preset_is_a_model_whose_matrices_fp8_can_multiply(name: str):
    config = NvlmConfig.from_json(config_json(SIZES[name]))
    decoder = config.decoder
    for width in (decoder.hidden_size, decoder.intermediate_size, decoder.q_size, decoder.kv_size, decoder.vocab_size):
        assert width % 16 == 0


def test_fp32_values_lose_nothing_in_bf16(checkpoint: Checkpoint):
    fp32 = [name for name in checkpoint.names() if checkpoint.info(name).dtype == "F32"]
    assert len(fp32) == 6 * CONFIG.decoder.num_layers + 4 * CONFIG.vision.num_layers
    for name in fp32:
        array = checkpoint.read(name)
        assert np.array_equal(array.astype(ml_dtypes.bfloat16).astype(np.float32), array)


def test_dummy_heads_are_zero_and_real_ones_are_not(checkpoint: Checkpoint):
    real, padded = CONFIG.vision.hidden_size, CONFIG.vision.padded_width
    for index in range(CONFIG.vision.num_layers):
        layer = f"vision_model.encoder.layers.{index}.attn"
        parts = [*checkpoint.read(f"{layer}.qkv.weight").reshape(3, padded, real)]
        parts += [checkpoint.read(f"{layer}.{norm}.weight") for norm in ("q_norm", "k_norm")]
        parts += [checkpoint.read(f"{layer}.proj.weight").T]
        for part in parts:
            assert not part[real:].any()
            assert np.count_nonzero(part[:real]) > 0.9 * part[:real].size


def test_no_two_tensors_share_their_values(checkpoint: Checkpoint):
    layers = [checkpoint.read(f"language_model.model.layers.{index}.mlp.up_proj.weight") for index in range(4)]
    assert len({layer.tobytes() for layer in layers}) == 4
    correlation = np.corrcoef([layer.astype(np.float32).reshape(-1) for layer in layers])
    assert np.abs(correlation - np.eye(4)).max() < 0.02


def test_values_have_the_spread_they_are_meant_to_have(checkpoint: Checkpoint):
    random = np.random.default_rng(0)
    unit = random.standard_normal((64, CONFIG.decoder.hidden_size)).astype(np.float32)
    head = checkpoint.read("language_model.lm_head.weight").astype(np.float32)
    logits = np.sort(unit @ head.T, axis=1)
    assert 1.8 < logits.std() < 2.2
    assert np.median(logits[:, -1] - logits[:, -2]) > 0.2

    embeddings = checkpoint.read("language_model.model.embed_tokens.weight").astype(np.float32)
    assert 0.48 < embeddings.std() < 0.52
    shuffled = random.standard_normal((64, CONFIG.vision.shuffled_width)).astype(np.float32)
    inner = shuffled @ checkpoint.read("mlp1.1.weight").astype(np.float32).T
    # The tanh form is near enough to erf for a spread.
    gelu = inner * 0.5 * (1 + np.tanh(0.7978846 * (inner + 0.044715 * inner**3)))
    rows = gelu @ checkpoint.read("mlp1.3.weight").astype(np.float32).T
    assert 0.4 < rows.std() < 0.6

    for name in checkpoint.names():
        if name.endswith(("layernorm.weight", "norm1.weight", "norm2.weight", "model.norm.weight")):
            assert abs(checkpoint.read(name).astype(np.float32).mean() - 1) < 0.05
        if name.endswith((".ls1", ".ls2")):
            scales = checkpoint.read(name).astype(np.float32)
            assert scales.min() > 0.1
            assert scales.max() < 0.5


def test_pieces_of_a_large_tensor_join_to_one_distribution():
    spec = TensorSpec("language_model.lm_head.weight", "BF16", (5000, 256))
    pieces = list(tensor_pieces(spec, CONFIG, seed=3))
    assert len(pieces) > 4
    assert sum(piece.size for piece in pieces) == spec.num_elements
    assert len({piece[:1000].tobytes() for piece in pieces}) == len(pieces)
    values = np.concatenate(pieces).astype(np.float32) / (2 / 16)
    assert abs(values.mean()) < 0.005
    assert abs(values.std() - 1) < 0.005
    assert abs((values**4).mean() - 2.7) < 0.05  # a sum of four uniforms; 3 for a normal


spec_lists = st.lists(
    st.builds(lambda size: TensorSpec("x", "U8", (size,)), st.integers(0, 1000)), min_size=1, max_size=30
)


@settings(deadline=None)
@given(spec_lists, st.data())
def test_shards_are_as_many_as_asked_and_as_even_as_order_allows(specs: list[TensorSpec], data: st.DataObject):
    num_shards = data.draw(st.integers(1, len(specs)))
    shards = split_into_shards(specs, num_shards)
    assert len(shards) == num_shards
    assert all(shards)
    assert [spec for shard in shards for spec in shard] == specs
    largest = max(sum(spec.nbytes for spec in shard) for shard in shards)
    assert largest <= max(spec.nbytes for spec in specs) + sum(spec.nbytes for spec in specs) / num_shards


def test_memory_does_not_grow_with_the_size(tmp_path: Path):
    code = (
        "import resource, sys\n"
        "from dataclasses import replace\n"
        "from nvlm_trt.checkpoint.synthetic import SIZES, write_checkpoint\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "size = replace(SIZES['small'], hidden_size=512, intermediate_size=16384, vocab_size=16384)\n"
        "write_checkpoint(sys.argv[1], size, num_shards=1)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    grown_kib = int(
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "wide")],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    written = sum(path.stat().st_size for path in (tmp_path / "wide").iterdir())
    assert written > 200e6
    assert grown_kib < 40_000


def test_a_folder_in_use_is_left_alone(tmp_path: Path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(UsageError, match="E-USAGE-OUT"):
        write_checkpoint(tmp_path, SMALL)
    with pytest.raises(UsageError, match="E-USAGE-OUT"):
        write_checkpoint(tmp_path / "note", SMALL)
    assert (tmp_path / "note").read_text() == "mine"


def test_an_empty_folder_and_a_killed_runs_leftover_are_taken(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "model-00001-of-00009.safetensors").write_bytes(b"half")
    write_checkpoint(tmp_path / "out", SMALL)
    open_checkpoint(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert not list((tmp_path / "out").glob("*-00009*"))


def test_a_disk_that_is_full_half_way_leaves_nothing(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        with pytest.raises(BuildError, match=r"E-BUILD-SPACE: model-00001.* no room is left"):
            write_checkpoint(tmp_path / "out", SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": 0}, "layers is 0; at least 1"),
        ({"vision_dummy_heads": -1}, "vision_dummy_heads is -1; at least 0"),
        ({"base_vocab": 300}, "base_vocab is 300; at least"),
        ({"base_vocab": 2027}, "vocab_size is 2048; 2049 tokens need rows"),
    ],
)
def test_sizes_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, int], said: str):
    with pytest.raises(UsageError, match="E-USAGE-SIZE") as caught:
        write_checkpoint(tmp_path / "out", replace(SMALL, **changes))
    assert said in caught.value.what


@pytest.mark.parametrize("num_shards", [0, 112])
def test_impossible_shards_are_refused(tmp_path: Path, num_shards: int):
    with pytest.raises(UsageError, match="1 to 111 are possible"):
        write_checkpoint(tmp_path / "out", SMALL, num_shards=num_shards)


def test_sizes_that_contradict_each_other_are_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="E-CONFIG-VALUE"):
        write_checkpoint(tmp_path / "out", replace(SMALL, heads=3))
    assert list(tmp_path.iterdir()) == []


def test_odd_sizes_are_models_too(tmp_path: Path):
    size = replace(SMALL, vision_hidden_size=42, vision_heads=3, vision_dummy_heads=0, patch_size=8, image_size=48)
    write_checkpoint(tmp_path / "odd", size, num_shards=111)
    assert open_checkpoint(tmp_path / "odd").config.vision.tokens_per_tile == 9


def test_the_preprocessors_file_is_clips(small_checkpoint: Path):
    data = json.loads((small_checkpoint / "preprocessor_config.json").read_text())
    assert (data["size"], data["crop_size"], data["resample"]) == (112, 112, 3)
    assert data["image_mean"] == [0.485, 0.456, 0.406]


def test_a_checkpoint_without_files_holds_the_same_tensors(checkpoint: Checkpoint) -> None:
    generated = GeneratedCheckpoint(SMALL)
    assert generated.config == checkpoint.config
    assert generated.names() == checkpoint.names()
    for name in generated.names():
        info = checkpoint.info(name)
        assert generated.info(name) == replace(info, place=None)
        assert np.array_equal(generated.read(name), checkpoint.read(name)), name
    assert generated.fingerprint() == GeneratedCheckpoint(SMALL).fingerprint()
    assert generated.fingerprint() != GeneratedCheckpoint(SMALL, seed=1).fingerprint()
