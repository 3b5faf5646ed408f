"""Good streams while attacks come in; and all attacks once more, which must not make the server grow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from nvlm_trt.client import AskOptions, GrpcClient, HttpClient
from tests.attacks.attack import Attack, check
from tests.attacks.bodies import BODIES
from tests.attacks.calls import MESSAGES, send_spoilt
from tests.attacks.conftest import GOOD
from tests.attacks.doors import GenerateDoor, GrpcDoor, Reply
from tests.attacks.parameters import PARAMETERS
from tests.attacks.pictures import PICTURES
from tests.attacks.prompts import PROMPTS
from tests.attacks.tensors import TENSORS

NUM_STREAMS = 8


def send_change(door: GrpcDoor, attack: Attack) -> Reply:
    return door.send({**GOOD, **attack.change()})


def every_attack(grpc_door: GrpcDoor, http_door: GenerateDoor) -> Iterator[tuple[Callable[[], Reply], str]]:
    for attack in (*PICTURES, *PROMPTS, *PARAMETERS):
        yield partial(send_change, grpc_door, attack), attack.code
    for body in BODIES:
        yield partial(http_door.post, body.path, body.body), body.code
    for tensors in TENSORS:
        yield partial(grpc_door.send_tensors, tensors.model, tensors.tensors), tensors.code
    for message in MESSAGES:
        yield partial(send_spoilt, grpc_door, message), message.code


def test_good_streams_among_all_attacks_get_the_answers_each_gets_alone(server, grpc_door, http_door, photos, held):
    over = threading.Event()

    def ask(number: int) -> str:
        question, images = f"Question {number}: what is it?", photos[: number % 3]
        with HttpClient(server.http_url) if number % 2 else GrpcClient(server.grpc_url) as client:
            return client.ask(question, images, AskOptions(max_tokens=40 + number)).text

    def ask_on(number: int) -> list[str]:
        answers = [ask(number)]
        while not over.is_set():
            answers.append(ask(number))
        return answers

    alone = [ask(number) for number in range(NUM_STREAMS)]
    assert len(set(alone)) > 1
    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        together = [pool.submit(ask_on, number) for number in range(NUM_STREAMS)]
        try:
            for send, code in every_attack(grpc_door, http_door):
                check(send(), code)
        finally:
            over.set()
    for text, answers in zip(alone, together, strict=True):
        assert set(answers.result()) == {text}
        assert len(answers.result()) > 1

    # What the first round left in heaps is there to be used again, so a second one must find room in it.
    files, memory_bytes = held.files(), held.memory.bytes()
    for send, code in every_attack(grpc_door, http_door):
        check(send(), code)
    assert held.files() == files
    assert held.memory.bytes() < memory_bytes + 32 * 2**20
