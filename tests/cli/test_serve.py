"""``serve`` and ``gateway``, run as a person runs them, with a real server."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner

from nvlm_trt.cli import main
from nvlm_trt.deploy.announcement import read_announcement
from nvlm_trt.pipeline.builder import build
from nvlm_trt.pipeline.manifest import StepEntry, load_manifest
from tests.cli.asking import ask
from tests.gateway.raw import GOOD, send
from tests.triton.test_cancel import wait_until

ROOT = Path(__file__).parents[2]
# A company's, which does not lead back to this machine.
NO_PROXY_THERE = "http://127.0.0.1:9"
FREE_PORTS = tuple(f"--{name}-port=0" for name in ("http", "grpc", "metrics", "gateway", "health"))


@dataclass(frozen=True)
class Served:
    process: subprocess.Popen[str]
    grpc: str
    http: str
    gateway: str


def start(deployment: Path, *more: str) -> Served:
    process = subprocess.Popen(
        [sys.executable, "-m", "nvlm_trt", "serve", str(deployment), *FREE_PORTS, *more, "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    told = read_announcement(process.stdout)
    return Served(process, told["grpc"], told["http"], told["gateway"])


@pytest.fixture(scope="module")
def request_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs") / "requests.jsonl"


@pytest.fixture(scope="module")
def served(deployment: Path, request_log: Path) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("http_proxy", NO_PROXY_THERE)
        served = start(deployment, "--request-log", str(request_log))
    yield served
    served.process.terminate()
    served.process.communicate(timeout=30)


def test_every_process_of_the_service_writes_to_the_request_log(served: Served, request_log: Path) -> None:
    assert send(served.gateway, GOOD, headers={"X-Request-Id": "from-the-door"}).status == 200

    def parts() -> set[str]:
        lines = request_log.read_text(encoding="ascii").splitlines()
        return {json.loads(line)["part"] for line in lines if "from-the-door" in line}

    models = {"preprocessing", "vision_encoder", "tensorrt_llm", "postprocessing"}
    assert wait_until(lambda: parts() == {"gateway", *models})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything(deployment: Path, number: signal.Signals) -> None:
    served = start(deployment)
    served.process.send_signal(number)
    _, stderr = served.process.communicate(timeout=30)
    assert served.process.returncode == 0, stderr
    assert "stopping" in stderr
    assert ask(served.http, "Hello").exit_code == 9
    assert not (deployment / "server.log").exists()


def test_a_start_can_be_interrupted(deployment: Path) -> None:
    command = [sys.executable, "-m", "nvlm_trt", "serve", str(deployment), *FREE_PORTS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "starting" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stdout == ""


def test_what_a_part_cannot_do_ends_the_service_at_once(deployment: Path, tmp_path: Path) -> None:
    """The gateway's start and the models' fail of it, whichever comes first."""
    logs = f"--request-log={tmp_path / 'nowhere' / 'log'}", f"--server-log={tmp_path / 'server.log'}"
    command = [sys.executable, "-m", "nvlm_trt", "serve", str(deployment), *FREE_PORTS, *logs]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (2, 9)
    assert "E-USAGE-LOG" in done.stderr
    assert "starting again" not in done.stderr


def test_a_server_log_that_cannot_be_written_is_told_before_the_start(deployment: Path, tmp_path: Path) -> None:
    log = f"--server-log={tmp_path / 'nowhere' / 'log'}"
    result = CliRunner().invoke(main, ["serve", str(deployment), *FREE_PORTS, log, "--json"])
    assert json.loads(result.stdout)["error"]["code"] == "E-USAGE-LOG"
    assert result.exit_code == 2


def test_openais_api_stands_before_the_same_server(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.gateway}/v1", api_key="none") as chat:
        messages: Any = [{"role": "user", "content": "Hello"}]
        completion = chat.chat.completions.create(model="nvlm-d", messages=messages, max_tokens=4)
    assert (
        completion.choices[0].message.content
        == json.loads(ask(served.grpc, "--max-tokens", "4", "Hello", "--json").stdout)["text"]
    )


def test_a_proxy_in_the_environment_is_not_asked(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor by the service, whose environment had one."""
    monkeypatch.setenv("http_proxy", NO_PROXY_THERE)
    for url in (served.grpc, served.http):
        assert ask(url, "--max-tokens", "1", "Hello").exit_code == 0
    assert send(served.gateway, GOOD).status == 200


@pytest.mark.parametrize(
    ("door", "wanted"), [("gateway", "http"), ("gateway", "grpc"), ("http", "grpc"), ("grpc", "http")]
)
def test_one_door_asked_in_the_language_of_another(served: Served, door: str, wanted: str) -> None:
    result = ask(f"{wanted}://{getattr(served, door).partition('://')[2]}", "Hello")
    assert result.exit_code == 9
    assert result.stderr.startswith("error: E-SERVER-PROTOCOL: ")


def test_the_gateway_can_stand_before_a_server_elsewhere(served: Served) -> None:
    command = [
        sys.executable,
        "-m",
        "nvlm_trt",
        "gateway",
        served.grpc,
        "--port",
        "0",
        "--model-name",
        "mine",
        "--json",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NVLM_TRT_API_KEYS": "a-key-of-some-length"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = read_announcement(process.stdout)["gateway"]
        with openai.OpenAI(base_url=f"{url}/v1", api_key="a-key-of-some-length") as chat:
            assert [model.id for model in chat.models.list()] == ["mine"]
        with openai.OpenAI(base_url=f"{url}/v1", api_key="another-key") as stranger, pytest.raises(openai.APIError):
            stranger.models.list()
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert "stopping" in stderr


def test_without_its_packages_the_gateway_is_named_and_serve_goes_on(served: Served) -> None:
    """The packages are hidden from one process; nothing else about it changes."""
    script = (
        "import sys\n"
        "sys.modules['starlette'] = sys.modules['uvicorn'] = None\n"
        "from nvlm_trt.cli.output import Output\n"
        "from nvlm_trt.cli.serve import _door\n"
        "from nvlm_trt.gateway.settings import GatewaySettings\n"
        "print(_door(GatewaySettings(port=0), sys.argv[1], 0, (), None, Output(False, False)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, served.grpc], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "None\n"
    assert done.stderr.startswith("no OpenAI API: E-TOOL-GATEWAY: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--limit", "nonsense"), "E-USAGE-LIMIT"),
        (("--limit", "answers=many"), "E-USAGE-LIMIT"),
        (("--limit", "answers=0"), "E-USAGE-LIMIT"),
        (("--api-key-file", "nowhere"), "E-USAGE-KEY"),
        (("--api-key-file", os.devnull), "E-USAGE-KEY"),
        (("--tls-cert", "cert.pem"), "E-USAGE-TLS"),
        (("--tls-cert", __file__, "--tls-key", __file__), "E-USAGE-TLS"),
        (("--allow-image-host", "*"), "E-USAGE-HOST"),
    ],
)
@pytest.mark.parametrize("command", [("gateway", "grpc://127.0.0.1:9"), ("serve",)])
def test_what_a_gateway_cannot_be_told(deployment: Path, command: tuple[str, ...], arguments, code: str) -> None:
    target = () if len(command) > 1 else (str(deployment),)
    result = CliRunner().invoke(main, [*command, *target, *arguments, "--dry-run", "--json"])
    assert json.loads(result.stdout)["error"]["code"] == code
    assert result.exit_code == 2


def test_limits_and_keys_are_taken(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first-key-of-some-length\nsecond-key-of-some-length\n")
    arguments = ["gateway", "grpc://127.0.0.1:9", "--limit", "answers=3", "--limit", "queue_s=0.5"]
    assert CliRunner().invoke(main, [*arguments, "--api-key-file", str(keys), "--dry-run"]).exit_code == 0


def finish(out: Path) -> None:
    """As if the steps that are left had been done, and had left nothing."""
    manifest = load_manifest(out)
    assert manifest is not None
    done = StepEntry(key="", inputs={}, values={}, versions={}, outputs={})
    steps = {"vision.engine": done, "decoder.engine": done, **manifest.steps}
    (out / "manifest.json").write_text(manifest.model_copy(update={"steps": steps}).dump(), encoding="utf-8")


def test_a_deployment_whose_engines_are_left_is_not_served(small_checkpoint, tmp_path) -> None:
    assert build(small_checkpoint, "h100x2-fp8", tmp_path / "out").left
    result = CliRunner().invoke(main, ["serve", str(tmp_path / "out"), "--container", "--dry-run", "--json"])
    told = json.loads(result.stdout)["error"]
    assert (told["code"], result.exit_code) == ("E-ARTEFACT-DEPLOYMENT", 6)
    assert "left: vision.engine, decoder.engine." in told["what"]
    # What looks at it, or goes on with it, takes it as it is.
    assert CliRunner().invoke(main, ["verify", str(tmp_path / "out")]).exit_code == 0
    assert "vision.engine" in CliRunner().invoke(main, ["explain", str(tmp_path / "out")]).stdout
    assert build(small_checkpoint, "h100x2-fp8", tmp_path / "out").left


def test_a_production_deployment_is_served_by_the_same_command_in_its_container(small_checkpoint, tmp_path) -> None:
    build(small_checkpoint, "h100x2-fp8", tmp_path / "out")
    finish(tmp_path / "out")
    keys = tmp_path / "keys"
    options = ("--host", "10.0.0.7", "--api-key-file", str(keys), "--limit", "answers=3", "--drain-s", "60")
    keys.write_text("a-key-of-some-length\n")
    arguments = ["serve", str(tmp_path / "out"), "--container", *options, "--dry-run", "--json"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    command = json.loads(result.stdout)["command"]
    assert command[:6] == ["docker", "run", "--rm", "--gpus", "all", "--ipc=host"]
    assert command[command.index("--stop-timeout") + 1] == "80"
    assert f"{keys}:{keys}:ro" in command
    assert [part for part in command if part.startswith("10.0.0.7:")] == [
        f"10.0.0.7:{port}:{port}" for port in (8000, 8001, 8002, 9001, 9000)
    ]
    inner = shlex.split(command[-1].partition(" && exec ")[2])
    assert inner[:7] == ["nvlm-trt", "serve", "/deployment", "--checkpoint", "/checkpoint", "--host", "0.0.0.0"]
    assert inner[7:] == ["--drain-s=60.0", f"--api-key-file={keys}", "--limit=answers=3", "--json"]
    # What is handed on can be read there.
    assert CliRunner().invoke(main, ["serve", str(tmp_path / "out"), *inner[7:], "--dry-run"]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), "E-USAGE-CONTAINER"),
        (("--http-port", "0"), "E-USAGE-PORT"),
        (("--server-log", "log"), "E-USAGE-CONTAINER"),
        (("--request-log", "log"), "E-USAGE-CONTAINER"),
    ],
)
def test_what_a_container_cannot_be_told(deployment: Path, arguments, code: str) -> None:
    result = CliRunner().invoke(main, ["serve", str(deployment), "--container", *arguments, "--dry-run", "--json"])
    assert json.loads(result.stdout)["error"]["code"] == code
    assert result.exit_code == 2


def test_dry_run_starts_nothing(deployment: Path) -> None:
    result = CliRunner().invoke(main, ["serve", str(deployment), "--dry-run", "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["recipe"] == "embedded"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda out: (out / "manifest.json").unlink(), "E-ARTEFACT-DEPLOYMENT"),
        (lambda out: (out / "manifest.json").write_text("{"), "E-ARTEFACT-MANIFEST"),
        (lambda out: (out / "vision" / "vision.onnx").write_bytes(b""), "E-ARTEFACT-FILE"),
    ],
)
def test_a_deployment_that_is_not_whole_is_not_served(deployment: Path, tmp_path: Path, spoil, code: str) -> None:
    shutil.copytree(deployment, tmp_path / "out")
    spoil(tmp_path / "out")
    result = CliRunner().invoke(main, ["serve", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 6
    assert json.loads(result.stdout)["error"]["code"] == code


def test_a_checkpoint_that_was_moved_must_be_named(small_checkpoint: Path, deployment: Path, tmp_path: Path) -> None:
    arguments = ["serve", str(deployment), "--dry-run", "--checkpoint"]
    assert CliRunner().invoke(main, [*arguments, str(small_checkpoint)]).exit_code == 0
    result = CliRunner().invoke(main, [*arguments, str(tmp_path)])
    assert result.stderr.startswith("error: E-ARTEFACT-CHECKPOINT")
