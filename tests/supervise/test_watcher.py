from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from nvlm_trt.deploy.staged_triton import BadStart
from nvlm_trt.errors import ArtefactError, ServerError
from nvlm_trt.supervise.events import EventLog
from nvlm_trt.supervise.failures import RestartPolicy
from nvlm_trt.supervise.watcher import State, Watcher
from tests.deploy.processes import wait_for
from tests.supervise.toy_part import ToyPart

HUNG = BadStart("E-SERVER-START", "The server was not ready after 1 s.")
BROKEN = ArtefactError("E-ARTEFACT-DECODER", "The decoder checkpoint lacks rank0.safetensors.")
POLICY = RestartPolicy(limit=3, window_s=60, first_pause_s=0.001)


class Watched:
    """A watcher over a toy part, asked only when a test wants it."""

    def __init__(self, *starts: Exception | None) -> None:
        self.part = ToyPart(*starts)
        self.lines: list[str] = []
        events = EventLog(self.lines.append, as_json=True)
        self.watcher = Watcher(self.part, events, POLICY, ask_every_s=3600)
        self.watcher.start()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def reaches(self, state: State, restarts: int = 0) -> bool:
        return wait_for(lambda: self.watcher.state is state and self.watcher.restarts == restarts)


@pytest.fixture
def watched(request) -> Iterator[Watched]:
    watched = Watched(*getattr(request, "param", ()))
    yield watched
    watched.watcher.leave()


def test_it_is_started_and_serves(watched):
    assert watched.reaches(State.READY)
    watched.watcher.check()
    assert [event["event"] for event in watched.events] == ["ready"]


@pytest.mark.parametrize("watched", [(RuntimeError("a bug"),)], indirect=True)
def test_a_bug_is_not_waited_for(watched):
    assert watched.reaches(State.FAILED)
    assert (str(watched.watcher.bug), watched.part.ended) == ("a bug", 1)
    with pytest.raises(ServerError, match="E-SERVER-START"):
        watched.watcher.check()


def test_a_process_that_ends_is_started_again_and_one_line_says_so(watched):
    assert watched.reaches(State.READY)
    watched.part.dead = "Triton was ended by signal 9."
    assert watched.reaches(State.READY, restarts=1)
    assert watched.part.ended == 1
    told = [event for event in watched.events if event["event"] == "failed"]
    assert [(event["code"], event["count"], event["pause_s"]) for event in told] == [("E-SERVER-ENDED", 1, 0)]
    assert "Triton was ended by signal 9." in told[0]["text"]


def test_who_asks_whether_it_is_ready_has_it_asked_and_started_again(watched):
    assert watched.reaches(State.READY)
    watched.part.error = ServerError("E-SERVER-MODEL", "A model process of the server has died.")
    watched.watcher._answered_s = -10.0
    with pytest.raises(ServerError, match="E-SERVER-MODEL"):
        watched.watcher.check()
    assert watched.reaches(State.READY, restarts=1)
    watched.watcher.check()


def test_an_answer_is_good_for_a_second(watched):
    assert watched.reaches(State.READY)
    for _ in range(5):
        watched.watcher.check()
    assert not watched.part.asked.acquire(blocking=False)


@pytest.mark.parametrize("watched", [(HUNG,)], indirect=True)
def test_a_first_start_that_hangs_is_tried_again(watched):
    assert watched.reaches(State.READY, restarts=1)


@pytest.mark.parametrize("watched", [(BROKEN,)], indirect=True)
def test_a_first_start_that_can_never_go_well_is_not(watched):
    assert watched.reaches(State.FAILED)
    assert watched.part.started == 1
    assert watched.watcher.error is BROKEN
    with pytest.raises(ArtefactError):
        watched.watcher.check()


@pytest.mark.parametrize("watched", [(None, BROKEN, BROKEN)], indirect=True)
def test_it_is_given_up_when_it_fails_too_often_and_the_error_says_of_what(watched):
    assert watched.reaches(State.READY)
    watched.part.dead = "Triton ended with status 1."
    assert watched.reaches(State.FAILED, restarts=2)
    error = watched.watcher.error
    assert error is not None
    assert error.code == "E-SERVER-GAVE-UP"
    assert "3 times within 60 s" in error.what
    assert "rank0.safetensors" in error.what


def test_what_is_left_alone_is_not_started_again(watched):
    assert watched.reaches(State.READY)
    watched.watcher.leave()
    watched.part.dead = "Triton ended with status 0."
    assert watched.part.started == 1
    assert watched.part.ended == 0
    with pytest.raises(ServerError):
        watched.watcher.check()
