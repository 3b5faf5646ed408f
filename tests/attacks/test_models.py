"""Every lying tensor straight to its model: its code, no secrets, and the server unharmed."""

from __future__ import annotations

import pytest

from tests.attacks.attack import check
from tests.attacks.tensors import TENSORS, TensorAttack


@pytest.mark.parametrize("attack", TENSORS, ids=lambda attack: f"{attack.model}: {attack.tried}")
@pytest.mark.usefixtures("unharmed")
def test_attack(grpc_door, attack: TensorAttack):
    check(grpc_door.send_tensors(attack.model, attack.tensors), attack.code)
