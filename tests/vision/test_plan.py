from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.errors import ArtefactError
from nvlm_trt.vision.plan import PlanInfo, read_plan_info

INFO = PlanInfo("tensorrt", "10.14.1.48", ("9.0",), (1, 7, 28), 448, 256, 8192, "bfloat16", 4)


@settings(deadline=None)
@given(info=st.builds(PlanInfo, plan_bytes=st.integers(0, 2**40)))
def test_json_and_back(info: PlanInfo):
    assert PlanInfo.from_json(info.to_json()) == info


@pytest.mark.parametrize("text", ["", "{}", "[]", INFO.to_json().replace("448", '"wide"')])
def test_other_json_is_refused(text: str):
    with pytest.raises(ArtefactError, match="E-ARTEFACT-PLAN"):
        PlanInfo.from_json(text)


def test_a_plan_runs_where_it_was_built_for():
    INFO.require("tensorrt", "10.14.1.48", "9.0", 28)
    dataclasses.replace(INFO, compute_capabilities=()).require("tensorrt", "10.14.1.48", "12.0", 1)


@pytest.mark.parametrize(
    ("module", "version", "compute_capability", "max_tiles", "code", "seen"),
    [
        ("tensorrt", "10.13.0", "9.0", 7, "E-ENGINE-VERSION", "tensorrt 10.13.0"),
        ("tensorrt_rtx", "10.14.1.48", "9.0", 7, "E-ENGINE-VERSION", "tensorrt_rtx 10.14.1.48"),
        ("tensorrt", "10.14.1.48", "8.9", 7, "E-ENGINE-SM", "this GPU has 8.9"),
        ("tensorrt", "10.14.1.48", "9.0", 29, "E-ENGINE-PROFILE", "29 are asked for"),
    ],
)
def test_anywhere_else_it_says_what_to_do(
    module: str, version: str, compute_capability: str, max_tiles: int, code: str, seen: str
):
    with pytest.raises(ArtefactError) as caught:
        INFO.require(module, version, compute_capability, max_tiles)
    assert caught.value.code == code
    assert seen in caught.value.what
    assert "build" in caught.value.fix


def test_a_plan_and_its_description_belong_together(tmp_path: Path):
    with pytest.raises(ArtefactError, match=r"E-ARTEFACT-MISSING.*vision\.plan\.json"):
        read_plan_info(tmp_path)
    (tmp_path / "vision.plan.json").write_text(INFO.to_json())
    with pytest.raises(ArtefactError, match=r"E-ARTEFACT-PLAN.* 0 bytes; 4 "):
        read_plan_info(tmp_path)
    (tmp_path / "vision.plan").write_bytes(b"plan")
    assert read_plan_info(tmp_path) == INFO
