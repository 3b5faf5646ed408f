"""A soak's load: one question through one door, closed loops that find the capacity, and arrivals that do not wait.

Every answer is compared with the one given alone as soon as it has come; of each request only a line is kept.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from nvlm_trt.client.async_grpc_client import AsyncGrpcClient
from nvlm_trt.errors import NvlmError
from scripts.chat_client import ChatClient
from scripts.soak_questions import Answer, Question

__all__ = ["BUSY", "Door", "Outcome", "Pool", "Run", "closed_loop", "open_loop", "over_gateway", "over_grpc"]

Door = Callable[[Question, Answer], Any]
BUSY = ("E-BUSY-DOOR", "E-BUSY-QUEUE", "E-BUSY-BYTES")
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """``code`` is empty for a whole answer, ``right`` says that it was the one given alone. Seconds since the start."""

    door: str
    due_s: float
    sent_s: float
    end_s: float
    code: str
    right: bool
    tokens: int
    by_token: bool


@dataclass(slots=True)
class Run:
    outcomes: list[Outcome] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0
    lags_s: list[float] = field(default_factory=list)

    @property
    def good(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if not outcome.code and outcome.right]


@dataclass(frozen=True, slots=True)
class Pool:
    """Questions and their answers alone."""

    texts: Sequence[Question]
    pictures: Sequence[Question]
    alone: Mapping[int, tuple[Any, ...]]
    picture_share: float = 0.3

    def draw(self, draw: random.Random) -> Question:
        return draw.choice(self.pictures if draw.random() < self.picture_share else self.texts)


def over_grpc(client: AsyncGrpcClient) -> Door:
    async def ask(question: Question, answer: Answer) -> None:
        stream = client.ask(question.values, uuid4().hex)
        try:
            async for chunk in stream:
                answer.text += chunk.text
                answer.log_probs += chunk.log_probs
                answer.tokens += chunk.output_tokens
        finally:
            stream.leave()

    return ask


def over_gateway(client: ChatClient) -> Door:
    async def ask(question: Question, answer: Answer) -> None:
        refused: list[str] = []

        def tell(event: Mapping[str, Any]) -> None:
            if "error" in event:
                refused.append(event["error"]["code"])
                return
            for choice in event["choices"]:
                answer.text += (choice.get("delta") or choice.get("message") or {}).get("content") or ""
                if choice["logprobs"]:
                    answer.log_probs += [entry["logprob"] for entry in choice["logprobs"]["content"]]
            if event.get("usage"):
                answer.tokens = event["usage"]["completion_tokens"]

        await client.ask(question.body, tell)
        if refused:
            raise _Refused(refused[0])

    return ask


async def closed_loop(door: Door, name: str, pool: Pool, clients: int, seconds: float, draw: random.Random) -> Run:
    """Each of ``clients`` asks again as soon as it has its answer. Counted is what ends in the last three quarters:
    before there is nothing under way, and afterwards nobody asks again."""
    run, start_s = Run(seconds=0.75 * seconds), time.monotonic()

    async def one() -> None:
        while (now_s := time.monotonic() - start_s) < seconds:
            await _ask(run, door, name, pool, pool.draw(draw), start_s, now_s)

    await asyncio.gather(*(one() for _ in range(clients)))
    run.outcomes = [outcome for outcome in run.outcomes if 0.25 * seconds < outcome.end_s <= seconds]
    return run


async def open_loop(doors: Mapping[str, tuple[float, Door]], pool: Pool, rate: float, seconds: float, seed: int) -> Run:
    """Poisson arrivals at ``rate`` a second, each at a door by the doors' shares, however many are still open."""
    draw = random.Random(f"{seed}/arrivals")
    names, shares = list(doors), [share for share, _ in doors.values()]
    run, start_s = Run(seconds=seconds), time.monotonic()
    async with asyncio.TaskGroup() as asked:
        for due_s in itertools.takewhile(lambda at_s: at_s < seconds, _arrivals(rate, draw)):
            if (wait_s := start_s + due_s - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            name = draw.choices(names, shares)[0]
            question = pool.draw(draw)
            run.lags_s.append(time.monotonic() - start_s - due_s)
            asked.create_task(_ask(run, doors[name][1], name, pool, question, start_s, due_s))
    return run


async def _ask(run: Run, door: Door, name: str, pool: Pool, question: Question, start_s: float, due_s: float) -> None:
    answer, code, sent_s = Answer(), "", time.monotonic() - start_s
    try:
        await door(question, answer)
    except (NvlmError, _Refused) as error:
        code = error.code
    except (OSError, EOFError):
        code = "lost"
    end_s = time.monotonic() - start_s
    right = answer.key() == pool.alone[question.number]
    if not code and not right and len(run.wrong) < _SHOWN:
        run.wrong.append(f"question {question.number}, {name}: {answer.key()}, alone {pool.alone[question.number]}")
    run.outcomes.append(Outcome(name, due_s, sent_s, end_s, code, right, answer.tokens, question.log_probs))


def _arrivals(rate: float, draw: random.Random) -> Iterator[float]:
    at_s = 0.0
    while True:
        at_s -= math.log1p(-draw.random()) / rate
        yield at_s


class _Refused(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code
