"""What dies is started again, and what clients see meanwhile is an error, never a wrong answer and never silence.

One service for all: a fault is over when it answers as it did at first.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from nvlm_trt.client import AskOptions, GrpcClient
from nvlm_trt.errors import NvlmError
from tests.deploy.processes import wait_for
from tests.gateway.raw import GOOD, send
from tests.supervise.service import QUESTION, Service, all_pids

LONG = AskOptions(max_tokens=900, min_tokens=900)
# Longer than the supervisor takes to see that something is dead, shorter than anybody waits without doubt.
DEADLINE_S = 15.0


@pytest.fixture(scope="module")
def service(deployment: Path) -> Iterator[Service]:
    frequent = ("--ask-every-s=0.5", "--ask-timeout-s=1.5", "--failure-window-s=0.001", "--triton-nice=1")
    with Service(deployment, *frequent) as service:
        yield service


def test_triton_gives_way_to_the_gateway(service: Service) -> None:
    """Whether it was started again before or not: the order of these tests is random."""
    own = os.getpriority(os.PRIO_PROCESS, 0)
    nice = {name: _nice(service.pid(name)) for name in ("tensorrt_llm_0_0", "nvlm_trt gateway")}
    assert nice == {"tensorrt_llm_0_0": {own + 1}, "nvlm_trt gateway": {own}}
    # Threads of Triton's own that wait for the models set their value themselves, where they may.
    assert own + 1 in _nice(service.pid("tritonserver"))
    session = Path(f"/proc/{service.pid('tritonserver')}/autogroup")
    assert not session.exists() or session.read_text().endswith(" nice 1\n")


def _nice(pid: int) -> set[int]:
    """Of all its threads."""
    return {os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in Path(f"/proc/{pid}/task").iterdir()}


class Streams:
    """Two long streams, by gRPC and at the gateway, and what becomes of each. In mid-stream the decoder is stopped."""

    def __init__(self, service: Service) -> None:
        self._decoder = service.pid("tensorrt_llm_0_0")
        while not self._begin(service):  # the small decoder may be done with one before the other begins
            self.go_on()
            self.join()

    def go_on(self) -> None:
        os.kill(self._decoder, signal.SIGCONT)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _begin(self, service: Service) -> bool:
        """Whether neither is over when the decoder stands still."""
        self.pieces: dict[str, list[str]] = {"grpc": [], "gateway": []}
        self.errors: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self._threads = [
            threading.Thread(target=self._run, args=(name, work, service))
            for name, work in (("grpc", self._grpc), ("gateway", self._gateway))
        ]
        for thread in self._threads:
            thread.start()
        assert wait_for(lambda: all(self.pieces.values()) or self.seconds)
        os.kill(self._decoder, signal.SIGSTOP)
        time.sleep(0.1)  # for what it has sent already
        return not self.seconds

    def _run(self, name: str, work, service: Service) -> None:
        began = time.monotonic()
        try:
            work(service)
        except (NvlmError, openai.APIError) as error:
            self.errors[name] = str(error)
        self.seconds[name] = time.monotonic() - began

    def _grpc(self, service: Service) -> None:
        with (
            GrpcClient(service.urls["grpc"], timeout_s=DEADLINE_S) as client,
            client.stream("Tell a story.", (), LONG) as stream,
        ):
            for chunk in stream:
                self.pieces["grpc"].append(chunk.text)

    def _gateway(self, service: Service) -> None:
        with openai.OpenAI(base_url=f"{service.urls['gateway']}/v1", api_key="none", max_retries=0) as chat:
            messages: Any = [{"role": "user", "content": "Tell a story."}]
            events = chat.chat.completions.create(
                model="nvlm-d", messages=messages, max_tokens=900, extra_body={"ignore_eos": True}, stream=True
            )
            for event in events:
                self.pieces["gateway"].append(event.choices[0].delta.content or "")


@pytest.mark.parametrize("model", ["preprocessing", "vision_encoder"])
def test_a_model_that_is_killed_while_idle_is_missed_and_started_again(service, model):
    before = service.restarts("triton")
    service.kill(f"{model}_0_0")
    # Triton itself goes on saying that it is ready; the service does not.
    assert wait_for(lambda: service.health().status == 503)
    assert service.recovers("triton", before)
    # The gateway looks for it again once a second.
    assert wait_for(lambda: send(service.urls["gateway"], path="/health").status == 200)
    # Whoever comes first, the look at processes or a question.
    told = [event for event in service.events if event["event"] == "failed"][-1]
    assert told["code"] in ("E-SERVER-ENDED", "E-SERVER-MODEL")


@pytest.mark.parametrize("process", ["tensorrt_llm_0_0", "bin/tritonserver"])
def test_what_is_killed_in_mid_stream_ends_every_stream_with_an_error_and_nobody_waits(service, process):
    before, streams = service.restarts("triton"), Streams(service)
    service.kill(process)
    codes = set()
    while service.restarts("triton") == before:
        began = time.monotonic()
        told = send(service.urls["gateway"], GOOD)
        codes.add("" if told.status == 200 else told.code)
        assert time.monotonic() - began < DEADLINE_S
    streams.join()
    assert set(streams.errors) == {"grpc", "gateway"}
    assert max(streams.seconds.values()) < DEADLINE_S
    assert any(code.startswith("E-SERVER-") for code in codes)
    assert service.recovers("triton", before)


def test_triton_that_hangs_is_ended_and_started_again(service):
    before = service.restarts("triton")
    service.kill("bin/tritonserver", signal.SIGSTOP)
    assert service.recovers("triton", before)


def test_a_killed_gateway_is_started_again_and_triton_goes_on(service):
    before, tritons, streams = service.restarts("gateway"), service.restarts("triton"), Streams(service)
    service.kill("nvlm_trt gateway")
    streams.go_on()
    assert service.recovers("gateway", before)
    streams.join()
    assert "gateway" in streams.errors
    assert "grpc" not in streams.errors
    assert service.restarts("triton") == tritons
    assert send(service.urls["gateway"], GOOD).status == 200


def test_no_process_of_an_earlier_triton_is_left(service):
    assert service.recovers("triton", -1)
    commands = all_pids(service.process.pid).values()
    assert sum("triton_python_backend_stub" in command for command in commands) == 4


@contextlib.contextmanager
def no_file_may_grow(pids: list[int]) -> Iterator[None]:
    """As on a full disk and in a full /dev/shm: the kernel refuses every byte that these processes would add to a file.

    A limit and not a small file system, because mounting one is not everybody's to do; errors come from the same calls.
    """
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def test_with_a_full_disk_and_full_shared_memory_who_needs_none_is_answered_and_who_does_is_told(service, photos):
    assert service.health().status == 200
    restarts = service.restarts("triton")
    images = photos[:4]
    with GrpcClient(service.urls["grpc"], timeout_s=DEADLINE_S) as client:
        with no_file_may_grow([*all_pids(service.process.pid)]):
            assert service.asks() == service.answer
            with pytest.raises(NvlmError, match="E-SERVER-"):
                client.ask("What are they?", images, QUESTION)
            assert service.asks() == service.answer
        answer = client.ask("What are they?", images, QUESTION)
        assert answer.output_tokens == QUESTION.max_tokens
        assert client.ask("What are they?", images, QUESTION).text == answer.text
    assert service.restarts("triton") == restarts
