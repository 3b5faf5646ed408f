"""``ask``, run as a person runs it, with a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.resources import resource_folder
from tests.cli.asking import ask

ROOT = Path(__file__).parents[2]
PICTURE = str(resource_folder("calibration") / "pictures" / "rocket.jpg")


def test_both_protocols_give_the_same_answer(server: TritonServer) -> None:
    question = ("--image", PICTURE, "--max-tokens", "8", "What is this?", "--json")
    told = [json.loads(ask(url, *question).stdout) for url in (server.grpc_url, server.http_url)]
    for answer in told:
        assert answer["images"] == [{"name": "rocket.jpg", "width": 640, "height": 427, "tile_grid": [3, 2]}]
        assert answer["output_tokens"] == 8
        # Seven tiles of sixteen tokens, their tags, and the question.
        assert answer["input_tokens"] > 7 * 16
        assert 0 < answer["time_to_first_token_s"] <= answer["total_s"]
    assert told[0]["text"] == told[1]["text"]
    assert told[0]["input_tokens"] == told[1]["input_tokens"]


def test_the_answer_is_on_stdout_and_the_facts_beside_it(server: TritonServer) -> None:
    whole = ask(server.grpc_url, "--image", PICTURE, "--max-tokens", "8", "What is this?")
    streamed = ask(server.http_url, "--image", PICTURE, "--max-tokens", "8", "What is this?", "--stream")
    assert whole.exit_code == streamed.exit_code == 0
    assert whole.stdout == streamed.stdout
    for told in (whole.stderr, streamed.stderr):
        assert "rocket.jpg: 640 x 427 pixels, tile grid 3 x 2" in told
        assert "8 out, first after" in told
    quiet = ask(server.grpc_url, "--max-tokens", "2", "Hello", "--quiet")
    assert quiet.stderr == ""


@pytest.mark.parametrize(("suffix", "asks"), [("jpg", True), ("png", True), ("tiff", False)])
def test_a_photograph_that_lies_on_its_side_is_told_of(
    server: TritonServer, tmp_path: Path, suffix: str, asks: bool
) -> None:
    exif = Image.Exif()
    for orientation in (1, 6):
        exif[ExifTags.Base.Orientation] = orientation
        file = tmp_path / f"{orientation}.{suffix}"
        Image.new("RGB", (40, 30)).save(file, exif=exif)
        told = ask(server.grpc_url, "--image", str(file), "--max-tokens", "1", "What is this?")
        assert told.exit_code == 0
        assert ("ask to turn it" in told.stderr) is (asks and orientation == 6)


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (("--image", str(ROOT / "pyproject.toml"), "What?"), "E-IMAGE-FORMAT", 4),
        (("--image", "nowhere.jpg", "What?"), "E-IMAGE-FILE", 4),
        (("--max-tokens", "0", "What?"), "E-PARAM-RANGE", 4),
        (("--temperature", "nan", "What?"), "E-PARAM-RANGE", 4),
        (("",), "E-PROMPT-EMPTY", 4),
    ],
)
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_request_that_cannot_be_answered(
    server: TritonServer, protocol: str, arguments, code: str, exit_code: int
) -> None:
    url = server.grpc_url if protocol == "grpc" else server.http_url
    result = ask(url, *arguments, "--json")
    assert json.loads(result.stdout)["error"]["code"] == code
    assert result.exit_code == exit_code
    assert ask(url, "--max-tokens", "1", "Hello").exit_code == 0


@pytest.mark.parametrize(
    ("target", "code", "exit_code"),
    [
        ("http://127.0.0.1:9", "E-SERVER-UNREACHABLE", 9),
        ("grpc://127.0.0.1:9", "E-SERVER-UNREACHABLE", 9),
        ("ftp://127.0.0.1", "E-USAGE-URL", 2),
        ("127.0.0.1:8001", "E-USAGE-URL", 2),
        ("nowhere", "E-ARTEFACT-DEPLOYMENT", 6),
    ],
)
def test_a_target_that_is_none(target: str, code: str, exit_code: int) -> None:
    result = ask(target, "Hello", "--json")
    assert json.loads(result.stdout)["error"]["code"] == code
    assert result.exit_code == exit_code


def test_a_folder_is_asked_by_a_server_of_its_own(deployment: Path) -> None:
    result = ask(str(deployment), "--protocol", "http", "--max-tokens", "2", "Hello")
    assert result.exit_code == 0
    assert "starting Triton" in result.stderr
