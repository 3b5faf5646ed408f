from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from nvlm_trt.deploy.model_config import read_model_config
from nvlm_trt.deploy.repository import MODELS
from nvlm_trt.deploy.staging import make_work_folder, stage_repository
from nvlm_trt.errors import ArtefactError, ServerError


@pytest.fixture
def deployment(tmp_path, embedded_repository) -> Path:
    folder: Path = tmp_path / "a deployment"
    folder.mkdir()
    (folder / "triton_repo").symlink_to(embedded_repository)
    return folder


def test_staged_models_name_the_real_folders(deployment, tmp_path):
    checkpoint = tmp_path / "a checkpoint"
    stage_repository(deployment, checkpoint, tmp_path / "staged")
    assert sorted(folder.name for folder in (tmp_path / "staged").iterdir()) == sorted(MODELS)
    configs = {name: read_model_config(tmp_path / "staged" / name / "config.pbtxt") for name in MODELS}
    assert configs["preprocessing"].parameters["model_dir"].string_value == str(deployment / "model")
    assert configs["vision_encoder"].parameters["checkpoint_dir"].string_value == str(checkpoint)
    texts = [(tmp_path / "staged" / name / "config.pbtxt").read_text(encoding="utf-8") for name in MODELS]
    assert not any('"/deployment' in text or '"/checkpoint' in text for text in texts)


def test_only_folders_are_replaced(tmp_path, deployment, embedded_repository):
    source = embedded_repository / "preprocessing" / "config.pbtxt"
    before = read_model_config(source).parameters["system"].string_value
    stage_repository(deployment, tmp_path, tmp_path / "staged")
    after = read_model_config(tmp_path / "staged" / "preprocessing" / "config.pbtxt")
    assert after.parameters["system"].string_value == before


def test_the_deployment_is_not_touched(tmp_path, deployment, embedded_repository):
    before = {file: file.read_bytes() for file in embedded_repository.rglob("*") if file.is_file()}
    stage_repository(deployment, tmp_path, tmp_path / "staged")
    assert {file: file.read_bytes() for file in embedded_repository.rglob("*") if file.is_file()} == before


def test_a_model_that_is_missing_is_an_artefact_error(tmp_path):
    (tmp_path / "triton_repo").mkdir()
    with pytest.raises(ArtefactError, match=r"E-ARTEFACT-TRITON: .* ensemble"):
        stage_repository(tmp_path, tmp_path, tmp_path / "staged")


def test_a_temporary_folder_with_a_blank_is_not_used(monkeypatch, tmp_path):
    blank = tmp_path / "with blank"
    blank.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(blank))
    folder = make_work_folder()
    assert " " not in str(folder)
    folder.rmdir()


def test_no_plain_temporary_folder_at_all_is_an_error(monkeypatch):
    def mkdtemp(**_):
        raise PermissionError

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with pytest.raises(ServerError, match=r"E-SERVER-PATH: .*TMPDIR"):
        make_work_folder()
