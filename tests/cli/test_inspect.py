from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from nvlm_trt.checkpoint.synthetic import SIZES
from nvlm_trt.checkpoint.synthetic.config_json import config_json
from nvlm_trt.cli import main


def inspect(*arguments: object) -> dict[str, object]:
    result = CliRunner().invoke(main, ["inspect", "--json", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    data: dict[str, object] = json.loads(result.stdout)
    return data


def test_a_folder(small_checkpoint: Path) -> None:
    told = inspect(small_checkpoint)
    assert told["architecture"] == "NVLM_D"
    assert told["shards"] == 5
    assert told["tensors"] == 111
    parameters = told["parameters"]
    assert isinstance(parameters, dict)
    assert parameters["total"] == parameters["vision"] + parameters["projector"] + parameters["decoder"]
    assert told["tokenizer"] == {"vocab_len": 2022}


def test_the_full_size_from_its_config_alone(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config_json(SIZES["full"])), encoding="utf-8")
    told = inspect(file)
    assert told["parameters"] == {
        "vision": 6_052_672_640,
        "projector": 620_717_056,
        "decoder": 72_706_203_648,
        "total": 79_379_593_344,
    }
    assert told["bytes"] == 176_901_927_168
    assert told["shards"] == 0
    assert told["tokenizer"] is None
    tiling = told["tiling"]
    assert isinstance(tiling, dict)
    assert tiling["max_tokens_per_image"] == 7 * 256


def test_a_picture_of_one_tile_has_no_thumbnail(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config_json(SIZES["full"]) | {"max_dynamic_patch": 1}), encoding="utf-8")
    tiling = inspect(file)["tiling"]
    assert isinstance(tiling, dict)
    assert tiling["max_tokens_per_image"] == 256


def test_the_text_names_what_surprises(small_checkpoint: Path) -> None:
    text = CliRunner().invoke(main, ["inspect", str(small_checkpoint)]).stdout
    assert "6,475,872 parameters" in text
    assert "rope_scaling is ignored" in text
    assert "5 heads, stored padded to 8" in text
    assert "stored as BF16 and F32" in text


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda folder: (folder / "model-00002-of-00005.safetensors").unlink(), "E-CKPT-SHARD"),
        (lambda folder: (folder / "config.json").write_text("{"), "E-CONFIG-JSON"),
        (lambda folder: (folder / "vocab.json").unlink(), "E-TOKENIZER-MISSING"),
        (shutil.rmtree, "E-CKPT-FOLDER"),
    ],
)
def test_a_broken_folder_exits_5_with_its_code(small_checkpoint: Path, tmp_path: Path, spoil, code: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small_checkpoint, copy)
    spoil(copy)
    result = CliRunner().invoke(main, ["inspect", "--json", str(copy)])
    assert result.exit_code == 5
    assert json.loads(result.stdout)["error"]["code"] == code
    assert result.stderr.startswith(f"error: {code}: ")
    assert len(result.stderr.splitlines()) == 1
    assert str(tmp_path) not in result.stderr
