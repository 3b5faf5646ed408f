"""Runs against the real server: answered in parallel, killed, gone on with, scored."""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result

from nvlm_trt.cli import main
from nvlm_trt.deploy.server import TritonServer
from nvlm_trt.evaluate.asking import in_parallel
from nvlm_trt.evaluate.output_file import OutputFile
from nvlm_trt.report.findings import find_results
from nvlm_trt.report.points import accuracies
from tests.evaluate.data_sets import write

ROOT = Path(__file__).parents[2]
QUESTIONS = 20


def nvlm(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def answers(out: Path, task: str) -> Path:
    return out.with_name(f"{out.name}-{task}-dprank=0-partition=0.jsonl")


@pytest.fixture(scope="module")
def data(photos: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TextVQA, MMMU and captioning about one photograph; with a missing picture, one that is none, and a duplicate."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    for name in ("1.jpg", "COCO_val2014_000000000042.jpg"):
        (folder / "images" / name).write_bytes(photos[0])
    (folder / "images" / "broken.jpg").write_bytes(b"no picture")
    words = [{"image_id": "1", "question_id": n, "question": f"Word {n}?", "answers": ["a"]} for n in range(QUESTIONS)]
    words[3]["image_id"], words[5]["image_id"] = "missing", "broken"
    write(folder, "TextVQA", {"data": [*words, words[0]]})
    write(folder, "MMMU")
    write(folder, "captioning")
    return folder


def run(data: Path, url: str, out: Path, *more: object, task: str = "TextVQA") -> Result:
    return nvlm("eval", "run", task, "--data", data, "--server", url, "-o", out, "--max-tokens", 12, *more)


@pytest.fixture(scope="module")
def whole(data: Path, server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of TextVQA over gRPC."""
    out = tmp_path_factory.mktemp("whole") / "run"
    told = run(data, server.grpc_url, out)
    assert told.exit_code == 0
    assert f"{QUESTIONS} questions, {QUESTIONS} asked now" in told.stdout
    assert "1 errors E-IMAGE-FILE\n1 errors E-IMAGE-FORMAT\n" in told.stdout
    assert "1 records left out for their id" in told.stdout
    assert f"record {QUESTIONS + 1} has the id 0 of record 1" in told.stderr
    assert "question 3: the picture missing.jpg is missing" in told.stderr
    return out


def test_every_question_has_one_line_in_the_order_of_the_data(whole):
    records = [json.loads(line) for line in answers(whole, "TextVQA").read_text().splitlines()]
    assert [record["sample_id"] for record in records] == list(range(QUESTIONS))
    assert {number for number, record in enumerate(records) if "error" in record} == {3, 5}
    assert all(
        set(record) == {"sample_id", "prompt", "answer", "gt_answer"} for record in records if "error" not in record
    )
    assert all(record["answer"] == record["answer"].strip() for record in records)
    assert sum(bool(record["answer"]) for record in records) == QUESTIONS - 2


def test_both_doors_and_any_number_at_once_give_the_same_file(data, server, whole, tmp_path):
    assert run(data, server.http_url, tmp_path / "run", "--concurrency", 3).exit_code == 0
    assert answers(tmp_path / "run", "TextVQA").read_bytes() == answers(whole, "TextVQA").read_bytes()


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(data, server, whole, tmp_path):
    out = tmp_path / "run"
    file = answers(out, "TextVQA")
    arguments = ["eval", "run", "TextVQA", "--data", data, "--server", server.grpc_url, "-o", out, "--max-tokens", "12"]
    process = subprocess.Popen(
        [sys.executable, "-m", "nvlm_trt", *map(str, arguments), "--concurrency", "1", "--quiet"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while (not file.exists() or file.read_bytes().count(b"\n") < 4) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = file.read_bytes().count(b"\n")
    assert 4 <= kept < QUESTIONS
    with file.open("ab") as torn:  # a kill inside a write, which cannot be timed
        torn.write(b'{"sample_id": 19, "prom')
    told = json.loads(run(data, server.grpc_url, out, "--json", "--quiet").stdout)
    assert told["repaired"]
    assert told["kept"] == kept - 1  # the missing picture is asked about again
    assert file.read_bytes() == answers(whole, "TextVQA").read_bytes()
    scores = [json.loads(nvlm("eval", "score", "TextVQA", prefix, "--json").stdout) for prefix in (whole, out)]
    assert scores[0] == scores[1]
    assert (scores[0]["records"], scores[0]["expected"], scores[0]["errors"]) == (QUESTIONS, QUESTIONS, 2)


def test_a_finished_run_asks_only_about_what_failed(data, server, whole):
    before = answers(whole, "TextVQA").read_bytes()
    told = json.loads(run(data, server.grpc_url, whole, "--json", "--quiet").stdout)
    assert (told["kept"], told["questions"]) == (QUESTIONS - 2, QUESTIONS)
    assert answers(whole, "TextVQA").read_bytes() == before


def test_a_run_does_not_go_on_with_other_settings_or_data(data, server, whole, tmp_path):
    told = run(data, server.grpc_url, whole, "--first-line")
    assert told.exit_code == 2
    assert "E-EVAL-MIXED: The earlier run at this place had first_line False; this one has True." in told.stderr
    told = run(data, server.grpc_url, whole, "--limit", 5)
    assert "num_samples" in told.stderr


@pytest.mark.parametrize("task", ["MMMU", "captioning"])
def test_other_kinds_of_answers(data, server, tmp_path, task):
    assert run(data, server.grpc_url, tmp_path / "run", task=task).exit_code == 0
    (record,) = (json.loads(line) for line in answers(tmp_path / "run", task).read_text().splitlines())
    told = nvlm("eval", "score", task, tmp_path / "run")
    assert told.exit_code == 0
    assert f"{task}: 1 answers" in told.stdout
    wanted = {
        "MMMU": {"text", "prediction", "question_type", "gt_answer", "index2ans", "all_choices"},
        "captioning": {"caption", "ground_truth"},
    }
    assert set(record) == {"sample_id", "prompt"} | wanted[task]


def test_partitions_make_one_run(data, server, whole, tmp_path):
    for number in range(2):
        assert run(data, server.grpc_url, tmp_path / "run", "--partitions", 2, "--partition", number).exit_code == 0
    parts = [tmp_path / f"run-TextVQA-dprank=0-partition={number}.jsonl" for number in range(2)]
    assert b"".join(part.read_bytes() for part in parts) == answers(whole, "TextVQA").read_bytes()
    told = run(data, server.grpc_url, tmp_path / "run", "--partitions", 2, "--partition", 2)
    assert "E-EVAL-PARTITION" in told.stderr


class Flaky(socketserver.ThreadingTCPServer):
    """A door before the real server that shuts for good after so many connections."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, url: str, connections: int) -> None:
        parts = urlsplit(url)
        self.behind, self.left = (parts.hostname or "", parts.port or 0), connections
        super().__init__(("127.0.0.1", 0), Through)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def verify_request(self, request: Any, client_address: Any) -> bool:
        self.left -= 1
        return self.left >= 0


class Through(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Flaky)
        with socket.create_connection(self.server.behind) as behind:
            there = threading.Thread(target=copy, args=(self.request, behind))
            there.start()
            copy(behind, self.request)
            self.request.close()
            there.join()


def copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
    except OSError:
        pass


@pytest.fixture
def flaky(server: TritonServer) -> Iterator[Flaky]:
    door = Flaky(server.http_url, 6)
    yield door
    door.shutdown()
    door.server_close()


def test_a_run_that_was_told_what_answers_can_be_joined_with_its_latencies(data, server, deployment, tmp_path):
    out = tmp_path / "told"
    assert run(data, server.grpc_url, out, "--deployment", deployment, "--limit", 2).exit_code == 0
    scored = tmp_path / "score.json"
    scored.write_text(nvlm("eval", "score", "TextVQA", out, "--json").stdout)
    found = find_results(tmp_path)
    (accuracy,) = accuracies(found)
    assert accuracy.configuration is not None
    assert accuracy.configuration.name == "fp8,tiles=6"
    assert accuracy.task == "TextVQA"
    again = run(data, server.grpc_url, out, "--limit", 2)
    assert (again.exit_code, "E-EVAL-MIXED" in again.stderr) == (2, True)
    assert "named its deployment; this one does not" in again.stderr


def test_a_server_that_dies_in_the_middle_ends_the_run_and_what_was_answered_stays(
    data, server, flaky, whole, tmp_path
):
    out = tmp_path / "run"
    told = run(data, flaky.url, out, "--concurrency", 2)
    assert told.exit_code == 9
    assert "E-SERVER-EVAL: The server failed after" in told.stderr
    assert f"of {QUESTIONS} questions" in told.stderr
    kept = answers(out, "TextVQA").read_bytes().count(b"\n")
    assert f"after {kept} of" in told.stderr
    assert 0 < kept < QUESTIONS
    assert run(data, server.http_url, out).exit_code == 0
    assert answers(out, "TextVQA").read_bytes() == answers(whole, "TextVQA").read_bytes()


def test_no_server_at_all(data, tmp_path):
    told = run(data, "http://127.0.0.1:9", tmp_path / "run")
    assert told.exit_code == 9
    assert f"of {QUESTIONS} questions: No server answers" in told.stderr
    assert run(data, "ftp://x", tmp_path / "run").exit_code == 2


def test_a_file_has_one_writer(tmp_path):
    with OutputFile(tmp_path / "x.jsonl"), pytest.raises(Exception, match="E-EVAL-IN-USE"):
        OutputFile(tmp_path / "x.jsonl")
    OutputFile(tmp_path / "x.jsonl").close()


def test_no_more_at_once_than_allowed_and_nothing_lost_after_a_failure():
    running, most, lock = 0, 0, threading.Lock()

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        if number == 7:
            raise KeyError(number)
        return number * number

    got: list[tuple[int, int]] = []
    with pytest.raises(KeyError):
        got.extend(in_parallel(work, range(100), 3))
    assert most == 3
    got = []
    try:
        for pair in in_parallel(work, range(100), 3):
            got.append(pair)
    except KeyError:
        pass
    begun = {number for number, _ in got}
    assert set(range(7)) <= begun
    assert len(begun) < 12
    assert sorted(in_parallel(abs, range(5), 2)) == [(number, number) for number in range(5)]
