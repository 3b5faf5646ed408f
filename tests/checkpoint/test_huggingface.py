from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from nvlm_trt.checkpoint.layout import expected_tensors
from nvlm_trt.checkpoint.registry import LAYOUTS, open_checkpoint
from nvlm_trt.checkpoint.safetensors_writer import write_safetensors
from nvlm_trt.errors import CheckpointError
from tests.checkpoint.spoiling import (
    BIAS,
    FIRST,
    INDEX,
    LAST,
    Spoil,
    change_json,
    change_shard,
    spoil_config,
    spoil_first,
    spoil_index,
)


def test_every_tensor_is_found_with_its_bytes(small_checkpoint: Path):
    checkpoint = open_checkpoint(small_checkpoint)
    expected = expected_tensors(checkpoint.config)
    assert checkpoint.names() == sorted(expected)
    for name, spec in expected.items():
        info, array = checkpoint.info(name), checkpoint.read(name)
        assert (info.name, info.dtype, info.shape, info.nbytes) == (name, spec.dtype, spec.shape, spec.nbytes)
        assert (array.shape, array.dtype) == (spec.shape, spec.numpy_dtype)
        assert info.place is not None
        offset = info.place.offset
        assert array.tobytes() == info.place.file.read_bytes()[offset : offset + info.nbytes]
        assert checkpoint.files(name) == (info.place.file,)
    assert checkpoint.root == small_checkpoint


def test_opening_reads_no_weights(small_checkpoint: Path):
    tracemalloc.start()
    try:
        open_checkpoint(small_checkpoint)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_the_library_reads_the_same_values(small_checkpoint: Path):
    checkpoint = open_checkpoint(small_checkpoint)
    with safetensors.safe_open(small_checkpoint / LAST, framework="np") as theirs:
        name = next(name for name in theirs.keys() if name.endswith("qkv.weight"))  # noqa: SIM118
        assert np.array_equal(theirs.get_tensor(name), checkpoint.read(name))


def test_one_file_without_an_index_is_a_checkpoint(folder: Path):
    sharded = open_checkpoint(folder)
    specs = list(expected_tensors(sharded.config).values())
    write_safetensors(folder / "model.safetensors", specs, sharded.read)
    for path in (*folder.glob("model-*.safetensors"), folder / INDEX):
        path.unlink()
    single = open_checkpoint(folder)
    assert single.names() == sharded.names()
    assert single.read(BIAS).dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_any_float_of_16_or_32_bits_is_accepted(folder: Path, dtype: Any):
    change_json(folder / INDEX, lambda index: index.pop("metadata"))
    change_shard(folder / FIRST, lambda arrays: arrays.update({BIAS: arrays[BIAS].astype(dtype)}))
    assert open_checkpoint(folder).read(BIAS).dtype == dtype


def test_a_missing_folder_is_said(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"E-CKPT-FOLDER: gone is not a folder"):
        open_checkpoint(tmp_path / "gone")


def test_an_unknown_name_is_said(small_checkpoint: Path):
    with pytest.raises(CheckpointError, match=r"E-CKPT-TENSOR: The checkpoint holds no tensor mlp9"):
        open_checkpoint(small_checkpoint).read("mlp9")


def test_links_into_the_hugging_face_cache_are_followed(small_checkpoint: Path, tmp_path: Path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0a1b"
    shutil.copytree(small_checkpoint, blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    assert open_checkpoint(snapshot).fingerprint() == open_checkpoint(small_checkpoint).fingerprint()


def test_links_within_the_folder_are_followed(folder: Path):
    (folder / FIRST).rename(folder / "renamed")
    (folder / FIRST).symlink_to("renamed")
    open_checkpoint(folder)


def test_the_fingerprint_stays_where_the_folder_moves(folder: Path, small_checkpoint: Path):
    assert open_checkpoint(folder).fingerprint() == open_checkpoint(small_checkpoint).fingerprint()


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_config(lambda config: config.update(template="other")),
        spoil_index(lambda index: index["metadata"].update(note="other")),
        spoil_first(lambda arrays: arrays.update({BIAS: arrays[BIAS] + arrays[BIAS].dtype.type(1)})),
    ],
    ids=["config", "index", "weights"],
)
def test_the_fingerprint_tells_models_apart(folder: Path, small_checkpoint: Path, spoil: Spoil):
    spoil(folder)
    assert open_checkpoint(folder).fingerprint() != open_checkpoint(small_checkpoint).fingerprint()


def test_layouts_are_registered_by_name():
    assert [layout.name for layout in LAYOUTS] == ["Megatron-Core", "Hugging Face"]
