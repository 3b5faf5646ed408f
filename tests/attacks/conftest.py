from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attacks.doors import Door, GenerateDoor, GenerateStreamDoor, GrpcDoor, Reply
from tests.attacks.footprint import TritonFootprint
from tests.attacks.pictures import good_picture_uri

MAY_STAY_BYTES = 96 * 2**20
"""Of one attack, in the heaps of five processes: the largest request has 44 MB, the largest picture 150 MB."""

GOOD = {"text_input": "What is shown?", "max_tokens": 8}


@pytest.fixture(scope="session")
def grpc_door(server) -> Iterator[GrpcDoor]:
    door = GrpcDoor(server.address)
    yield door
    door.close()


@pytest.fixture(scope="session")
def http_door(server) -> GenerateDoor:
    return GenerateDoor(server.address)


@pytest.fixture(params=["grpc", "generate", "generate_stream"])
def door(request, server, grpc_door, http_door) -> Door:
    """The same attack through every door."""
    doors = {"grpc": grpc_door, "generate": http_door, "generate_stream": GenerateStreamDoor(server.address)}
    chosen: Door = doors[request.param]
    return chosen


def ask_well(door: Door) -> Reply:
    """A good request that needs every model."""
    return door.send({**GOOD, "image_url_input": [good_picture_uri()]})


@pytest.fixture(scope="session")
def good_reply(grpc_door) -> Reply:
    """Before the first attack."""
    reply = ask_well(grpc_door)
    assert reply.text
    assert reply.input_tokens > 16
    return reply


@pytest.fixture(scope="session")
def held(server, good_reply) -> TritonFootprint:
    return TritonFootprint(server.address.grpc_port)


@pytest.fixture
def unharmed(good_reply, grpc_door, held) -> Iterator[None]:
    """After the test the same server answers a good request as it did before, and holds no more than it did."""
    files, memory_bytes = held.files(), held.memory.bytes()
    yield
    assert ask_well(grpc_door) == good_reply
    assert held.memory.alive
    assert held.files() == files
    assert held.memory.bytes() < memory_bytes + MAY_STAY_BYTES
