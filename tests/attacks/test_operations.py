"""Every lie to Triton's other HTTP paths and in gRPC's own terms: its status and words, and the server unharmed."""

from __future__ import annotations

import pytest

from tests.attacks.attack import check
from tests.attacks.calls import CALLS, MESSAGES, CallAttack, MessageAttack, good_message, send_spoilt
from tests.attacks.operations import PATHS, PathAttack

pytestmark = pytest.mark.usefixtures("unharmed")


@pytest.mark.parametrize("attack", PATHS, ids=lambda attack: attack.tried)
def test_path(http_door, attack: PathAttack):
    reply = http_door.knock(attack.method, attack.path, attack.body, attack.headers)
    assert reply.status == attack.status, reply.error
    assert attack.says.lower() in reply.error.lower()
    assert "/tmp/nvlm-trt" not in reply.error


@pytest.mark.parametrize("attack", MESSAGES, ids=lambda attack: attack.tried)
def test_message(grpc_door, attack: MessageAttack):
    reply = send_spoilt(grpc_door, attack)
    check(reply, attack.code)
    assert attack.says in reply.error


@pytest.mark.parametrize("attack", CALLS, ids=lambda attack: attack.tried)
def test_call(grpc_door, attack: CallAttack):
    message = attack.message()
    data = message if isinstance(message, bytes) else message.SerializeToString()
    status, words = grpc_door.call(attack.method, data, attack.metadata)
    assert status == attack.status
    assert attack.says in words


def test_an_unspoilt_message_is_answered(grpc_door):
    assert grpc_door.send_message(good_message()).text
