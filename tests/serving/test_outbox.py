"""What is posted is delivered once, in order; how long it waits depends on what sending costs and on nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from nvlm_trt.embedded.request import Emission
from nvlm_trt.serving.outbox import Outbox

SHARE = 0.1


class Client:
    """Delivering costs ``cost_s`` of processor time."""

    def __init__(self, cost_s: float = 0.0) -> None:
        self.responses: list[tuple[int, ...]] = []
        self.cost_s = cost_s
        self.changed = threading.Condition()

    def deliver(self, emissions: Sequence[Emission]) -> None:
        begun_s = time.thread_time()
        while time.thread_time() - begun_s < self.cost_s:
            pass
        with self.changed:
            self.responses.append(tuple(token for emission in emissions for token in emission.tokens))
            self.changed.notify()

    def has(self, count: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: len(self.responses) >= count, timeout=5)

    @property
    def tokens(self) -> list[int]:
        return [token for response in self.responses for token in response]


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    outbox = Outbox(SHARE, cores=1)
    yield outbox
    outbox.close()


def test_what_costs_nothing_leaves_at_once_one_by_one(outbox):
    client = Client()
    for token in range(5):
        outbox.post(client, Emission((token,)), urgent=False)
        assert client.has(token + 1)
    assert client.responses == [(token,) for token in range(5)]


def test_while_sending_is_dear_news_of_one_client_is_put_together(outbox):
    client = Client(cost_s=0.02)  # so the next round is 0.18 s away
    outbox.post(client, Emission((0,)), urgent=True)
    assert client.has(1)
    for token in range(1, 100):
        outbox.post(client, Emission((token,)), urgent=False)
    assert client.has(2)
    outbox.close()
    assert client.tokens == list(range(100))
    assert len(client.responses) == 2


def test_urgent_news_does_not_wait_and_takes_along_what_its_client_already_had(outbox):
    dear, hurried, patient = Client(cost_s=0.1), Client(), Client()
    outbox.post(dear, Emission((0,)), urgent=True)  # the next round is 0.9 s away
    assert dear.has(1)
    outbox.post(patient, Emission((1,)), urgent=False)
    outbox.post(hurried, Emission((2,)), urgent=False)
    outbox.post(hurried, Emission((3,)), urgent=True)
    assert hurried.has(1)
    assert hurried.responses == [(2, 3)]
    assert patient.responses == []


def test_sending_keeps_to_its_share_of_the_time(outbox):
    client, begun_s = Client(cost_s=0.002), time.monotonic()
    while time.monotonic() - begun_s < 0.5:
        outbox.post(client, Emission((0,)), urgent=False)
        time.sleep(0.001)
    most = (time.monotonic() - begun_s) * SHARE / client.cost_s
    assert 1 <= len(client.responses) <= most + 1


def test_who_has_as_many_cores_as_the_share_wants_never_pauses():
    outbox, client = Outbox(SHARE, cores=20), Client(cost_s=0.02)
    for token in range(4):
        outbox.post(client, Emission((token,)), urgent=False)
        assert client.has(token + 1)
    outbox.close()
    assert client.responses == [(token,) for token in range(4)]


def test_closing_delivers_what_waits(outbox):
    dear, client = Client(cost_s=0.1), Client()
    outbox.post(dear, Emission((0,)), urgent=True)
    assert dear.has(1)
    outbox.post(client, Emission((1,)), urgent=False)
    outbox.close()
    assert client.tokens == [1]


def test_many_threads_lose_nothing(outbox):
    clients = [Client() for _ in range(8)]

    def post(client: Client) -> None:
        for token in range(500):
            outbox.post(client, Emission((token,)), urgent=token == 0)

    threads = [threading.Thread(target=post, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outbox.close()
    assert all(client.tokens == list(range(500)) for client in clients)


def test_a_client_that_fails_does_not_end_the_others(outbox, caplog):
    class Broken:
        def deliver(self, emissions: Sequence[Emission]) -> None:
            raise OSError("gone")

    client = Client()
    outbox.post(Broken(), Emission((0,)), urgent=True)
    outbox.post(client, Emission((1,)), urgent=True)
    assert client.has(1)
    outbox.close()
    assert "could not be sent" in caplog.text
