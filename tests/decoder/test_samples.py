"""The calibration set: what each line becomes, and how an invalid line is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.decoder.calibration import calibrate
from nvlm_trt.decoder.calibration_set import read_set, shipped_set
from nvlm_trt.decoder.samples import build_samples
from nvlm_trt.errors import UsageError
from nvlm_trt.model.picture import PictureLimits, decode_picture
from nvlm_trt.model.prompt import PromptStyle, build_prompt
from nvlm_trt.model.tiling import cut_tiles
from nvlm_trt.model.tokenizer import NvlmTokenizer
from nvlm_trt.plan.resolve import load_recipe
from nvlm_trt.vision.export import export_vision
from nvlm_trt.vision.registry import load_engine
from tests.release import RELEASE

RECIPE = load_recipe("embedded", RELEASE)
EMBEDDING = "language_model.model.embed_tokens.weight"


@pytest.fixture(scope="module")
def vision_folder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vision") / "vision"
    export_vision(checkpoint, folder, "bfloat16")
    return folder


def write_set(folder: Path, *lines: str) -> Path:
    shutil.copy(shipped_set().parent / "pictures" / "chelsea.jpg", folder / "cat.jpg")
    file = folder / "own.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_the_shipped_set_mixes_text_and_pictures() -> None:
    prompts = read_set(shipped_set())
    assert sum(not prompt.images for prompt in prompts) == 52
    assert sum(bool(prompt.images) for prompt in prompts) == 12
    shipped = {path.name for path in (shipped_set().parent / "pictures").iterdir()}
    assert {path.name for prompt in prompts for path in prompt.images} == shipped
    assert len({prompt.prompt for prompt in prompts}) == len(prompts)


def test_the_shipped_set_calibrates_the_small_checkpoint_alike_every_time(
    checkpoint: Checkpoint, vision_folder: Path
) -> None:
    samples = build_samples(checkpoint, vision_folder, RECIPE)
    assert len(samples) == 64
    calibration = calibrate(checkpoint, samples)
    assert calibration.num_tokens == sum(samples.lengths)
    assert all(layer.qkv > 0 and layer.proj > 0 for layer in calibration.layers)
    again = build_samples(checkpoint, vision_folder, RECIPE)
    assert again.key() == samples.key()
    assert calibrate(checkpoint, again) == calibration


def test_text_becomes_its_tokens_embedding_rows(checkpoint: Checkpoint, vision_folder: Path, tmp_path: Path) -> None:
    file = write_set(tmp_path, '{"prompt": "How tall is it?"}')
    sample = build_samples(checkpoint, vision_folder, RECIPE, file)[0]
    ids = _prompt_ids(checkpoint, "How tall is it?", [])
    assert np.array_equal(sample, checkpoint.read(EMBEDDING)[ids].astype(np.float32))


def test_pictures_become_the_vision_engines_rows_in_their_places(
    checkpoint: Checkpoint, vision_folder: Path, tmp_path: Path
) -> None:
    file = write_set(tmp_path, json.dumps({"prompt": "Which is larger?", "images": ["cat.jpg", "cat.jpg"]}))
    sample = build_samples(checkpoint, vision_folder, RECIPE, file)[0]
    image = decode_picture((tmp_path / "cat.jpg").read_bytes(), PictureLimits(), "Picture 1")
    tiles = cut_tiles(image, checkpoint.config.tiling)
    ids = _prompt_ids(checkpoint, "Which is larger?", [len(tiles)] * 2)
    engine = load_engine("onnxruntime", vision_folder, checkpoint.root, len(tiles))
    rows = engine.encode(tiles).reshape(-1, engine.output_size)
    engine.close()
    virtual = ids >= checkpoint.config.decoder.vocab_size
    assert virtual.sum() == 2 * len(rows)
    assert sample[virtual] == pytest.approx(np.concatenate([rows, rows]), rel=1e-4, abs=1e-5)
    assert np.array_equal(sample[~virtual], checkpoint.read(EMBEDDING)[ids[~virtual]].astype(np.float32))


def test_rows_are_made_when_asked_for_and_again_after_a_release(
    checkpoint: Checkpoint, vision_folder: Path, tmp_path: Path
) -> None:
    shutil.copy(shipped_set().parent / "pictures" / "coffee.jpg", tmp_path / "cup.jpg")
    lines = [{"prompt": "a", "images": ["cat.jpg"]}, {"prompt": "b"}, {"prompt": "c", "images": ["cup.jpg", "cat.jpg"]}]
    file = write_set(tmp_path, *map(json.dumps, lines))
    made: list[tuple[int, int]] = []
    samples = build_samples(checkpoint, vision_folder, RECIPE, file, lambda done, total: made.append((done, total)))
    assert made == []
    first = [samples[index] for index in range(3)]
    assert made == [(1, 3), (2, 3), (3, 3)]
    assert [len(rows) for rows in first] == list(samples.lengths)
    samples.release()
    for index in (2, 0, 1):  # and whichever pictures share a pass
        assert np.array_equal(samples[index], first[index])
    with pytest.raises(IndexError):
        samples[3]
    samples.release()


def test_the_key_tells_prompts_pictures_and_graphs_apart(
    checkpoint: Checkpoint, vision_folder: Path, tmp_path: Path
) -> None:
    file = write_set(tmp_path, '{"prompt": "a", "images": ["cat.jpg"]}')
    key = build_samples(checkpoint, vision_folder, RECIPE, file).key()
    other_graph = tmp_path / "vision"
    shutil.copytree(vision_folder, other_graph)
    (other_graph / "vision.onnx").write_bytes((vision_folder / "vision.onnx").read_bytes() + b" ")
    keys = {key, build_samples(checkpoint, other_graph, RECIPE, file).key()}
    shutil.copy(shipped_set().parent / "pictures" / "coffee.jpg", tmp_path / "cat.jpg")
    keys.add(build_samples(checkpoint, vision_folder, RECIPE, file).key())
    file.write_text('{"prompt": "b", "images": ["cat.jpg"]}', encoding="utf-8")
    keys.add(build_samples(checkpoint, vision_folder, RECIPE, file).key())
    assert len(keys) == 4


def _prompt_ids(checkpoint: Checkpoint, question: str, tiles_per_image: list[int]) -> NDArray[np.int32]:
    return build_prompt(
        question,
        tiles_per_image,
        tokenizer=NvlmTokenizer.from_folder(checkpoint.root),
        style=PromptStyle(RECIPE.prompt.style),
        system=RECIPE.prompt.system,
        tokens_per_tile=checkpoint.config.vision.tokens_per_tile,
        vocab_size=checkpoint.config.decoder.vocab_size,
    ).input_ids


def test_blank_lines_are_passed_over_and_line_separators_inside_texts_kept(tmp_path: Path) -> None:
    prompts = read_set(write_set(tmp_path, "", '{"prompt": "one\u2028two"}', "  ", '{"prompt": "b"}', ""))
    assert [(prompt.line, prompt.prompt) for prompt in prompts] == [(2, "one\u2028two"), (4, "b")]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "3",
        "null",
        "{}",
        '{"prompt": 3}',
        '{"prompt": "a", "image": "cat.jpg"}',
        '{"prompt": "a", "images": "cat.jpg"}',
        '{"prompt": "a", "images": [3]}',
        '{"prompt": "a", "images": [""]}',
        '{"prompt": "a", "images": ["dog.jpg"]}',
        '{"prompt": "a", "images": ["."]}',
        "[" * 100_000,
    ],
)
def test_a_line_that_cannot_be_meant_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    file = write_set(tmp_path, '{"prompt": "fine", "images": ["cat.jpg"]}', line)
    with pytest.raises(UsageError, match=r"own\.jsonl, line 2: ") as caught:
        read_set(file)
    assert caught.value.code == "E-USAGE-CALIBRATION"
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff\xfe"])
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "own.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=r"own\.jsonl") as caught:
        read_set(file)
    assert caught.value.code == "E-USAGE-CALIBRATION"


@pytest.mark.parametrize(
    "line", ['{"prompt": ""}', '{"prompt": "a", "images": ["own.jsonl"]}', json.dumps({"prompt": "word " * 9000})]
)
def test_a_prompt_the_model_cannot_take_is_named_by_its_line(
    checkpoint: Checkpoint, vision_folder: Path, tmp_path: Path, line: str
) -> None:
    file = write_set(tmp_path, '{"prompt": "fine"}', line)
    with pytest.raises(UsageError, match=r"own\.jsonl, line 2: cannot be asked: [A-Z].*[^.]\. Correct") as caught:
        build_samples(checkpoint, vision_folder, RECIPE, file)
    assert caught.value.code == "E-USAGE-CALIBRATION"
