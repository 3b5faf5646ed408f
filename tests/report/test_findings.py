"""Every file is read, or named with the reason why it was not."""

from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner

from nvlm_trt.cli import main
from nvlm_trt.errors import UsageError
from nvlm_trt.report.findings import find_results
from tests.report.samples import GOLDEN, measurement, put, study


@pytest.fixture
def folder(tmp_path):
    put(tmp_path / "a" / "latency.json", measurement("bf16", 6, {1: 9}).dump())
    put(tmp_path / "precisions.json", study(6, {"bf16": 50, "fp8": 50}).dump())
    return tmp_path


def reasons(folder) -> dict[str, tuple[str, bool]]:
    return {one.file: (one.reason, one.broken) for one in find_results(folder).passed_over}


def test_results_are_found_at_any_depth(folder):
    found = find_results(folder)
    assert (list(found.measurements), list(found.studies), list(found.scores)) == (
        ["a/latency.json"],
        ["precisions.json"],
        [],
    )
    assert found.passed_over == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("\udcff", "it is not JSON"),
        (json.dumps({**GOLDEN, "version": 2}), "version"),
        (json.dumps({**GOLDEN, "points": [{}]}), "points.0.load"),
        (json.dumps({"format": "nvlm-trt precision", "version": 1}), "circumstances"),
        (json.dumps({"task": "own", "value": 1.0, "interval": {}, "groups": {}}), "format"),
        (json.dumps({**GOLDEN, "surplus": 1}), "surplus"),
    ],
)
def test_a_result_that_cannot_be_read_is_named_with_its_reason(folder, content, said):
    (folder / "x.json").write_bytes(content.encode(errors="surrogateescape"))
    reason, broken = reasons(folder)["x.json"]
    assert broken
    assert said in reason


@pytest.mark.parametrize("content", ["{}", "[]", "1", '{"format": 1}', '{"format": "other"}'])
def test_what_is_no_result_is_passed_over_and_said_so(folder, content):
    put(folder / "x.json", content)
    assert reasons(folder) == {"x.json": ("it holds no result of this program", False)}


def test_deployments_and_links_are_not_looked_into(folder):
    put(folder / "build" / "manifest.json", "{}")
    put(folder / "build" / "deep" / "latency.json", "{")
    (folder / "round").symlink_to(folder)
    (folder / "again.json").symlink_to(folder / "precisions.json")
    assert reasons(folder) == {
        "build/": ("it is a deployment", False),
        "round": ("it is a link", False),
        "again.json": ("it is a link", False),
    }


def test_a_giant_is_not_read(folder):
    with (folder / "x.json").open("wb") as file:
        os.truncate(file.fileno(), 65 << 20)
    assert "68 MB" in reasons(folder)["x.json"][0]


def test_a_folder_without_results_says_what_was_wrong(tmp_path):
    with pytest.raises(UsageError, match="E-REPORT-FOLDER"):
        find_results(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="E-REPORT-FOLDER"):
        find_results(tmp_path)
    put(tmp_path / "x.json", "{")
    with pytest.raises(UsageError, match=r"E-REPORT-FOLDER.*x.json: it is not JSON"):
        find_results(tmp_path)


def test_the_command_says_on_stderr_and_in_json_what_was_not_read(folder):
    put(folder / "x.json", "{")
    done = CliRunner().invoke(main, ["report", str(folder), "-o", str(folder / "page.html"), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["not_read"] == [{"file": "x.json", "reason": "it is not JSON"}]
    assert "not read: x.json" in done.stderr
    assert "x.json" in (folder / "page.html").read_text()
