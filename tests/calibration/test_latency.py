"""``latency.py`` against the real server: every door, interruptions, and a server that is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from calibration.latency import main
from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.load.journal import Journal
from nvlm_trt.load.measure import MeasureOptions, measure
from nvlm_trt.load.mix import read_mix
from nvlm_trt.load.result import Measurement, load_measurement
from nvlm_trt.load.schedule import ClosedLoad
from nvlm_trt.load.target import Target

MIX = """
distinct = 4

[[request]]
pictures = ["64x48", "900x300"]
prompt_tokens = [3, 8]
answer_tokens = [2, 5]

[[request]]
prompt_tokens = 3
answer_tokens = 1
"""


@pytest.fixture(scope="module")
def mix(tmp_path_factory) -> Path:
    file: Path = tmp_path_factory.mktemp("mix") / "mix.toml"
    file.write_text(MIX)
    return file


def measured(tmp_path: Path, *arguments: str, code: int = 0) -> Measurement:
    out = tmp_path / "new" / "out.json"
    told = CliRunner().invoke(main, [*arguments, "-o", str(out), "--quiet"], catch_exceptions=False)
    measurement = load_measurement(out)
    problems = [problem for point in measurement.points for run in point.runs for problem in run.problems]
    # A machine that is busy with other tests may well make the generator late. Nothing else may be wrong.
    late = all("did not keep up" in problem for problem in problems) and problems
    assert told.exit_code == code or late, told.output
    return measurement


@pytest.mark.parametrize("door", ["grpc", "triton-http", "openai"])
def test_a_short_run_over_each_door(door: str, server, gateway, deployment, mix, tmp_path: Path) -> None:
    url = {"grpc": server.grpc_url, "triton-http": server.http_url, "openai": f"{gateway.url}/v1"}[door]
    beside = ["--metrics", server.metrics_url, "--deployment", str(deployment)]
    if door == "openai":
        beside += ["--triton", server.http_url]
    load = ["--clients", "2", "--rate", "20", "--requests", "6", "--repetitions", "1", "--warm-up", "1", "--check"]
    objective = ["--objective", "e2e=60s"]
    measurement = measured(tmp_path, "run", url, "--mix", str(mix), *load, *beside, *objective)
    assert measurement.experiment.door == door
    assert measurement.deployment is not None
    assert (measurement.deployment.recipe, measurement.deployment.decoder_precision) == ("embedded", "fp8")
    assert measurement.circumstances.server == "triton 2.51.0"
    assert [point.load.kind for point in measurement.points] == ["closed", "poisson"]
    for point in measurement.points:
        (run,) = point.runs
        assert (run.planned, run.completed, run.errors, run.short, run.good) == (6, 6, {}, 0, 6)
        assert run.check is not None
        assert (run.check.equal, run.check.different, run.check.unanswered) == (6, 0, 0)
        assert run.ttft_ms is not None
        assert run.e2e_ms is not None
        assert run.input_tokens is not None
        assert 0 < run.ttft_ms.p50 <= run.e2e_ms.p50
        assert run.server.models is not None
        assert run.server.models["ensemble"].requests == 6
        assert run.server.models["preprocessing"].compute_ms > 0
        assert run.server.decoder is not None
        assert run.server.decoder.prompt_tokens == pytest.approx(run.input_tokens.mean * 6, abs=0.01)
        assert run.server.decoder.queue_ms is not None
        assert run.server.decoder.total_ms is not None
        assert 0 <= run.server.decoder.queue_ms <= run.server.decoder.total_ms <= run.e2e_ms.max
        assert run.server.tiles is not None
        assert run.tiles is not None
        assert run.server.tiles.computed + run.server.tiles.cached == pytest.approx(run.tiles.mean * 6, abs=0.01)
        assert run.tiles.max > 1
    again = tmp_path / "again.json"
    requests_file = tmp_path / "new" / str(measurement.requests_file)
    CliRunner().invoke(main, ["recover", str(requests_file), "-o", str(again), "-q"], catch_exceptions=False)
    assert load_measurement(again) == measurement


def test_a_trace_is_replayed(server, tmp_path: Path) -> None:
    line = {"prompt_tokens": 3, "answer_tokens": 2, "pictures": ["64x48"]}
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps(line | {"at_s": number / 20}) + "\n" for number in range(4)))
    arguments = ["--trace", str(trace), "--repetitions", "2", "--warm-up", "0"]
    measurement = measured(tmp_path, "run", server.grpc_url, *arguments)
    (point,) = measurement.points
    assert point.load.kind == "trace"
    assert point.load.rate_per_s == pytest.approx(20)
    assert len({run.schedule_sha256 for run in point.runs}) == 1
    lines = (tmp_path / "new" / "out.requests.jsonl").read_text().splitlines()
    due = [event["request"]["due_ms"] for event in map(json.loads, lines) if "request" in event]
    assert sorted(due)[::2] == [0.0, 50.0, 100.0, 150.0]


def test_a_server_that_is_killed_is_counted(deployment, small_checkpoint, mix, tmp_path: Path) -> None:
    with TritonServer(deployment, small_checkpoint) as server:
        out = tmp_path / "new" / "out.requests.jsonl"

        def kill_after_some() -> None:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and not (out.exists() and out.read_text().count('{"request"') > 5):
                time.sleep(0.01)
            os.kill(server.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_after_some)
        killer.start()
        arguments = ["--clients", "2", "--requests", "200", "--repetitions", "1", "--timeout", "3", "--warm-up", "1"]
        measurement = measured(tmp_path, "run", server.grpc_url, "--mix", str(mix), *arguments, code=1)
        killer.join()
    (run,) = measurement.points[0].runs
    assert not run.valid
    assert run.completed >= 6
    assert run.errors
    assert run.planned == run.completed + sum(run.errors.values())
    assert "something else than load" in " ".join(run.problems)
    assert measurement.points[0].summary == {}


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_measurement_keeps_what_it_measured(signal_number, server, mix, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    requests_file = tmp_path / "out.requests.jsonl"
    arguments = ["--rate", "20", "--requests", "2000", "--warm-up", "0", "--mix", str(mix), "-q", "-o", str(out)]
    process = subprocess.Popen(
        [sys.executable, "calibration/latency.py", "run", server.grpc_url, *arguments],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if requests_file.exists() and requests_file.read_text().count('{"request"') > 3:
                break
            time.sleep(0.02)
        process.send_signal(signal_number)
        assert process.wait(20) == (130 if signal_number == signal.SIGINT else -signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    if signal_number == signal.SIGKILL:
        assert not out.exists()
        told = CliRunner().invoke(main, ["recover", str(requests_file), "-o", str(out)], catch_exceptions=False)
        assert told.exit_code == 1
        assert "NOT VALID: interrupted" in told.output
    (run,) = load_measurement(out).points[0].runs
    assert run.interrupted
    assert run.completed > 3
    assert run.planned == 2000 == run.completed + run.unsent + sum(run.errors.values())


def test_a_measurement_stopped_while_it_warms_up_does_not_look_complete(server, mix, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ["--clients", "1", "--warm-up", "100000", "--mix", str(mix), "-o", str(out)]
    process = subprocess.Popen(
        [sys.executable, "calibration/latency.py", "run", server.grpc_url, *arguments],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        assert "warming up" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    (run,) = load_measurement(out).points[0].runs
    assert (run.interrupted, run.valid, run.completed, run.unsent) == (True, False, 0, 100)


@pytest.mark.parametrize(
    ("moment", "runs"),
    [
        ("load 1, 1 client: warming up", [[True]]),
        ("load 1, 1 client: run 2 of 2", [[False, True]]),
        ("load 2, 2 clients: warming up", [[False, False], [True]]),
    ],
)
def test_a_stop_outside_of_a_run_interrupts_the_next_one(server, mix, moment: str, runs: list[list[bool]]) -> None:
    golden = Path(__file__).parents[1] / "golden" / "latency-result.json"
    journal, stop = Journal(load_measurement(golden).model_copy(update={"points": ()}), None), asyncio.Event()
    loads = [ClosedLoad(read_mix(mix), clients) for clients in (1, 2)]
    options = MeasureOptions(requests=2, repetitions=2, warm_up=1, seed=0, check=False)

    def note(text: str) -> None:
        if text == moment:
            stop.set()

    asyncio.run(measure(Target(server.grpc_url), loads, options, journal, stop, note))
    assert [[run.interrupted for run in point.runs] for point in journal.measurement().points] == runs


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "ftp://a"], "E-USAGE-URL"),
        (["run", "grpc://127.0.0.1:1"], "E-SERVER-UNREACHABLE"),
        (["run", "nowhere"], "E-ARTEFACT-DEPLOYMENT"),
        (["run", "grpc://127.0.0.1:1", "--door", "grpc"], "for a DIR"),
        (["run", "somewhere", "--metrics", "http://a"], "for a URL"),
        (["run", "grpc://127.0.0.1:1", "--speed", "2"], "of a --trace"),
        (["run", "grpc://127.0.0.1:1", "--trace", "t", "--rate", "2"], "leave out"),
        (["run", "grpc://127.0.0.1:1", "--mix", "none.toml"], "E-LOAD-MIX"),
        (["run", "grpc://127.0.0.1:1", "--objective", "fast"], "E-LOAD-OBJECTIVE"),
        (["recover", "none.jsonl"], "E-LOAD-RESULT"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_starts(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code != 0
    assert told in result.output + str(result.exception)
