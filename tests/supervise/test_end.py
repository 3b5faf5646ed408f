"""The end of the service: what is taken, finished, cut short and left behind. Each test has a service of its own."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from nvlm_trt.client import AskOptions, GrpcClient
from nvlm_trt.client.answer import AnswerStream
from nvlm_trt.errors import NvlmError
from tests.deploy.processes import lives, wait_for
from tests.gateway.raw import GOOD, connect, request_bytes, send
from tests.supervise.service import Service, all_pids

GENERATE = "/v2/models/ensemble/generate"
LONG = AskOptions(max_tokens=900, min_tokens=900)

STREAMS = 6


def traces(service: Service) -> list[Path]:
    """Files of this run alone: its prefix stands in a model's command line."""
    command = next(line for line in all_pids(service.process.pid).values() if "preprocessing_0_0" in line)
    prefix = next(word for word in command.split() if word.startswith("nvlm_")).rpartition("_")[0]
    return [*Path("/dev/shm").glob(f"{prefix}*"), Path(command.split("/backends/")[0])]


def assert_nothing_is_left(pids: dict[int, str], files: list[Path]) -> None:
    assert wait_for(lambda: not any(lives(pid) for pid in pids)), {p: c for p, c in pids.items() if lives(p)}
    assert wait_for(lambda: not any(file.exists() for file in files))


def end_of(stream: AnswerStream) -> str:
    try:
        return f"{stream.finish().output_tokens} tokens"
    except NvlmError as error:
        return error.code


def test_streams_are_finished_new_questions_are_not_taken_and_nothing_is_left(deployment):
    """By three doors: streams through Triton, one through the gateway, and what comes after the signal.

    So many streams that there is time to look. A decoder that stands still instead, for a second, crashes in Triton's
    own code when it goes on.
    """
    with Service(deployment) as service, GrpcClient(service.urls["grpc"]) as client, ExitStack() as streams:
        pids, files = all_pids(service.process.pid), traces(service)
        assert len(files) > 4
        door = streams.enter_context(connect(service.urls["gateway"]))
        door.sendall(request_bytes({**GOOD, "max_tokens": 900, "ignore_eos": True, "stream": True}))
        opening = door.recv(4096)
        asked = [streams.enter_context(client.stream(f"Story {number}.", (), LONG)) for number in range(STREAMS)]
        assert all(next(stream).text for stream in asked)
        service.process.send_signal(signal.SIGTERM)
        assert wait_for(lambda: service.health().status == 503)
        assert service.health().json["error"]["code"] == "E-BUSY-DRAINING"
        # Without our client's courtesy of a stop, which would wait for the decoder.
        refused = send(service.urls["http"], {"text_input": "Hello", "max_tokens": 1}, path=GENERATE)
        assert b"E-BUSY-DRAINING" in refused.body
        assert [stream.finish().output_tokens for stream in asked] == [900] * STREAMS
        streamed = opening + b"".join(iter(lambda: door.recv(2**16), b""))
        assert b"data: [DONE]" in streamed
        assert service.process.wait(60) == 0
        assert_nothing_is_left(pids, files)
        assert service.events[-1]["finished"] is True
        assert len(service.events) == len(service.errors.splitlines())


def test_what_begun_streams_wait_for_may_die(deployment):
    with Service(deployment) as service:
        pids, files = all_pids(service.process.pid), traces(service)
        with GrpcClient(service.urls["grpc"]) as client, ExitStack() as streams:
            asked = [streams.enter_context(client.stream(f"Story {number}.", (), LONG)) for number in range(24)]
            next(asked[0])
            service.kill("tensorrt_llm_0_0", signal.SIGSTOP)  # so that not all are done before
            service.process.send_signal(signal.SIGTERM)
            assert wait_for(lambda: service.health().status == 503)
            service.kill("tensorrt_llm_0_0")
            ends = {end_of(stream) for stream in asked}
            assert {"E-SERVER-MODEL", "E-SERVER-LOST", "E-SERVER-UNREACHABLE"} & ends, ends
        assert service.process.wait(60) == 0
        assert_nothing_is_left(pids, files)
        ended, drained = service.events[-2:]
        assert (ended["event"], ended["text"]) == ("ended", "The process of the model tensorrt_llm has ended.")
        assert drained["finished"] is False
        assert drained["seconds"] < 15  # of the 30 that it might have taken


def test_streams_that_take_too_long_end_with_an_error_at_every_door(deployment):
    with Service(deployment, "--drain-s=0.2") as service:
        pids, files = all_pids(service.process.pid), traces(service)
        ends: list[str] = []

        def many(number: int) -> None:
            """So many that hardly one can be done in time."""
            with GrpcClient(service.urls["grpc"]) as client, client.stream(f"Story {number}.", (), LONG) as stream:
                next(stream)
                begun.release()
                ends.append(end_of(stream))

        begun = threading.Semaphore(0)
        threads = [threading.Thread(target=many, args=(number,)) for number in range(24)]
        with connect(service.urls["gateway"]) as door:
            for thread in threads:
                thread.start()
            for _ in threads:
                begun.acquire()
            door.sendall(request_bytes({**GOOD, "max_tokens": 900, "ignore_eos": True, "stream": True}))
            assert door.recv(16)
            service.process.send_signal(signal.SIGTERM)
            streamed = b"".join(iter(lambda: door.recv(2**16), b""))
        for thread in threads:
            thread.join()
        assert len(ends) == 24
        assert set(ends) <= {"E-CANCEL-SHUTDOWN", "E-SERVER-LOST", "900 tokens"}
        assert "E-CANCEL-SHUTDOWN" in ends
        assert b"E-CANCEL-SHUTDOWN" in streamed
        assert service.process.wait(60) == 0
        assert_nothing_is_left(pids, files)
        assert service.events[-1]["finished"] is False


def test_a_killed_supervisor_leaves_nothing_though_clients_are_connected(deployment):
    with Service(deployment) as service, connect(service.urls["gateway"]) as door:
        pids, files = all_pids(service.process.pid), traces(service)
        with GrpcClient(service.urls["grpc"]) as client, client.stream("Tell a story.", (), LONG) as stream:
            next(stream)
            door.sendall(request_bytes({**GOOD, "max_tokens": 900, "ignore_eos": True, "stream": True}))
            assert door.recv(16)
            service.kill("tensorrt_llm_0_0", signal.SIGSTOP)  # so that neither is done before
            service.process.kill()
            with pytest.raises(NvlmError, match="E-SERVER-"):
                stream.finish()
        service.process.wait()
        assert_nothing_is_left(pids, files)


def test_a_supervisor_killed_together_with_its_keepers_is_cleaned_up_after_by_the_next_start(deployment):
    with Service(deployment, "--no-gateway") as service:
        pids, files = all_pids(service.process.pid), traces(service)
        keeper = next(pid for pid, command in pids.items() if "keeper.py" in command)
        os.kill(keeper, signal.SIGSTOP)
        service.process.kill()
        os.kill(keeper, signal.SIGKILL)
        os.kill(keeper, signal.SIGCONT)
        service.process.wait()
    assert any(file.exists() for file in files)
    with Service(deployment, "--no-gateway") as service:
        assert_nothing_is_left(pids, files)
        assert send(service.urls["health"].rpartition("/")[0], path="/health").status == 200
